"""Where settings are read from: a TOML file, RELAY_* environment variables and a directory of secrets.

Promise: what cannot be used is refused with one line that names who gave it (the file, the variable or the secret's file) and the key,
and shows no secret. Precedence: environment, then secrets, then the file, then the defaults.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any, get_origin

from pydantic import ValidationError

from relay.config import ConfigError
from relay.config.settings import Section, Settings

_PREFIX = "RELAY_"
_KEY = re.compile(r"[a-z_]+(?:\.[a-z0-9_]+)*")
"""What may be a key in a text."""
_SHELL = frozenset({"RELAY_CONFIG", "RELAY_LOADTEST_TOKEN"})
"""Variables that are the shell door's, not settings."""

Giver = tuple[str, tuple[str, ...], Any]
"""One who gives settings: what it is called, where in them it gives something, and what."""


def load(path: Path | None = None, secrets: Path | None = None) -> Settings:
    """Read the settings; `path` is the TOML file, `secrets` a directory of files named section__key (default: systemd's credentials).

    Raises ConfigError with one line that names the file, the variable or the secret, and the key.
    """
    if secrets is None and "CREDENTIALS_DIRECTORY" in os.environ:
        secrets = Path(os.environ["CREDENTIALS_DIRECTORY"])
    if secrets is not None and not secrets.is_dir():
        raise ConfigError(f"{secrets}: not a directory (secrets)")
    givers = _read_environment()
    given, files = _read_secrets(secrets) if secrets is not None else ({}, [])
    givers += files
    if path is not None:
        givers.append((str(path), (), _read_file(path)))
    return _read(path, given, givers)


def _read(path: Path | None, given: dict[str, Any], givers: list[Giver]) -> Settings:
    # Here, because only who reads settings needs it: a worker is handed them, and would carry 6 MB for nothing.
    from pydantic_settings import BaseSettings, InitSettingsSource, SettingsConfigDict, SettingsError, TomlConfigSettingsSource

    class _Bound(BaseSettings, Settings):
        model_config = SettingsConfigDict(env_prefix="RELAY_", env_nested_delimiter="__", toml_file=path, extra="forbid", frozen=True)

        @classmethod
        def settings_customise_sources(cls, settings_cls: type[BaseSettings], *sources: Any, **more: Any) -> tuple[Any, ...]:
            return more["env_settings"], InitSettingsSource(settings_cls, given), TomlConfigSettingsSource(settings_cls)

    try:
        return _Bound()
    except ValidationError as error:
        where, line = _first_line(error, givers)
        raise ConfigError(f"{where or path or 'settings'}: {line}") from None
    except SettingsError as error:
        # Its text names the field; its cause would show the value.
        raise ConfigError(f"environment: {error}; JSON is expected") from None


def _read_environment() -> list[Giver]:
    """The settings in variables, the most particular first. A misspelt RELAY_* variable would otherwise be ignored in silence."""
    found: list[Giver] = []
    for name, text in os.environ.items():
        path = tuple(name[len(_PREFIX) :].lower().split("__"))
        if not name.upper().startswith(_PREFIX) or name in _SHELL:
            continue
        if path[0] not in Settings.model_fields:
            if name.startswith(_PREFIX):
                raise ConfigError(f"environment: {name}: unknown section {path[0]!r}; known: {', '.join(Settings.model_fields)}")
            continue
        try:
            value = json.loads(text)
        except ValueError:
            if example := _example(path):
                raise ConfigError(f"environment: {name}: JSON is expected, as {example}") from None
            value = text
        found.append((f"environment: {name}", path, value))
    return sorted(found, key=lambda giver: -len(giver[1]))


def _read_secrets(folder: Path) -> tuple[dict[str, Any], list[Giver]]:
    """The settings in a directory of secrets: files named section__key. Others are somebody else's, a key file for instance."""
    found: dict[str, Any] = {}
    givers: list[Giver] = []
    for file in sorted(folder.iterdir()):
        section, nested, key = file.name.lower().partition("__")
        if not nested or not file.is_file():
            continue
        if section not in Settings.model_fields:
            raise ConfigError(f"{file}: unknown section {section!r}; known: {', '.join(Settings.model_fields)}")
        try:
            text = file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{file}: not text") from None
        if not _put(found.setdefault(section, {}), key.split("__"), text):
            raise ConfigError(f"{file}: another file gives the same setting, or a part of it")
        givers.append((str(file), (section, *key.split("__")), text))
    return found, givers


def _put(place: dict[str, Any], path: list[str], text: str) -> bool:
    """Put a setting where its path leads; False where there is something else already."""
    *path, last = path
    for part in path:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            return False
    return place.setdefault(last, text) is text


def _read_file(path: Path) -> dict[str, Any]:
    if path == Path():
        raise ConfigError("the name of the configuration file is empty, or that of this directory")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None


# -- what is wrong, and whose it is ------------------------------------------------------------------------------------------


def _first_line(error: ValidationError, givers: list[Giver]) -> tuple[str, str]:
    """Who gave what is wrong, as far as anybody did, and what is wrong with it."""
    first: Any = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place: tuple[Any, ...] = first["loc"]
    key = ".".join(map(str, place))
    text = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
    places = [place]
    if first["type"] == "value_error" and _is_table(place):  # keys that do not go together; the text names them
        places = [(*place, *(int(part) if part.isdecimal() else part for part in word.split("."))) for word in _KEY.findall(text)]
    where = dict.fromkeys(name for name in (_who_gave(place, givers) for place in places) if name)
    return " and ".join(where), f"{key}: {text}" if key else text


def _who_gave(place: tuple[Any, ...], givers: list[Giver]) -> str:
    """Who gave the setting of this place; empty for nobody, which is the default."""
    for name, path, value in givers:
        is_below = len(path) > len(place) and path[: len(place)] == place and not _is_table(place)
        if is_below or (place[: len(path)] == path and _holds(value, place[len(path) :])):
            return name
    return ""


def _holds(value: Any, path: tuple[Any, ...]) -> bool:
    """Whether a path leads to something of a value; a list has all that is, or is missing, below it."""
    for part in path:
        if not isinstance(value, dict):
            break
        if part not in value:
            return False
        value = value[part]
    return True


def _kind(path: tuple[Any, ...]) -> Any:
    """The type of the setting a path leads to, None where there is none."""
    kind: Any = Settings
    for part in path:
        if not (isinstance(kind, type) and issubclass(kind, Section) and part in kind.model_fields):
            return None
        kind = kind.model_fields[part].annotation
    return kind


def _is_table(path: tuple[Any, ...]) -> bool:
    kind = _kind(path)
    return isinstance(kind, type) and issubclass(kind, Section)


def _example(path: tuple[str, ...]) -> str:
    """What the JSON of a setting looks like, empty for one that is no JSON."""
    return "{...}" if _is_table(path) else "[...]" if get_origin(_kind(path)) is tuple else ""
