"""Where settings are read from: a TOML file, RELAY_* environment variables and a directory of secrets.

Promise: what cannot be used is refused with one line that names the file and the key, and no secret. Precedence: environment, then
secrets, then the file, then the defaults.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from relay.config import ConfigError
from relay.config.settings import Settings

_SHELL = frozenset({"RELAY_CONFIG", "RELAY_LOADTEST_TOKEN"})
"""Variables that are the shell door's, not settings."""


def load(path: Path | None = None, secrets: Path | None = None) -> Settings:
    """Read the settings; `path` is the TOML file, `secrets` a directory of files named section__key (default: systemd's credentials).

    Raises ConfigError with one line that names the file and the key.
    """
    if secrets is None and "CREDENTIALS_DIRECTORY" in os.environ:
        secrets = Path(os.environ["CREDENTIALS_DIRECTORY"])
    if secrets is not None and not secrets.is_dir():
        raise ConfigError(f"{secrets}: not a directory (secrets)")
    _check_environment()
    if path is not None:
        _check_readable(path)
    return _read(path, _read_secrets(secrets) if secrets is not None else {})


def _read(path: Path | None, given: dict[str, Any]) -> Settings:
    # Here, because only who reads settings needs it: a worker is handed them, and would carry 6 MB for nothing.
    from pydantic_settings import BaseSettings, InitSettingsSource, SettingsConfigDict, SettingsError, TomlConfigSettingsSource

    class _Bound(BaseSettings, Settings):
        model_config = SettingsConfigDict(env_prefix="RELAY_", env_nested_delimiter="__", toml_file=path, extra="forbid", frozen=True)

        @classmethod
        def settings_customise_sources(cls, settings_cls: type[BaseSettings], *sources: Any, **more: Any) -> tuple[Any, ...]:
            return more["env_settings"], InitSettingsSource(settings_cls, given), TomlConfigSettingsSource(settings_cls)

    where = str(path) if path else "settings"
    try:
        return _Bound()
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first_line(error)}") from None
    except SettingsError as error:
        # Its text names the field; its cause would show the value.
        raise ConfigError(f"environment: {error}; JSON is expected") from None


def _read_secrets(folder: Path) -> dict[str, Any]:
    """The settings in a directory of secrets: files named section__key. Others are somebody else's, a key file for instance."""
    found: dict[str, Any] = {}
    for file in sorted(folder.iterdir()):
        section, nested, key = file.name.lower().partition("__")
        if not nested or not file.is_file():
            continue
        if section not in Settings.model_fields:
            raise ConfigError(f"{file}: unknown section {section!r}; known: {', '.join(Settings.model_fields)}")
        try:
            text = file.read_text().strip()
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{file}: not text") from None
        if not _put(found.setdefault(section, {}), key.split("__"), text):
            raise ConfigError(f"{file}: another file gives the same setting, or a part of it")
    return found


def _put(place: dict[str, Any], path: list[str], text: str) -> bool:
    """Put a setting where its path leads; False where there is something else already."""
    *path, last = path
    for part in path:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            return False
    return place.setdefault(last, text) is text


def _check_readable(path: Path) -> None:
    try:
        tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None


def _check_environment() -> None:
    """A misspelt RELAY_* variable would otherwise be ignored in silence."""
    for name in os.environ:
        if name.startswith("RELAY_") and name not in _SHELL:
            section = name[6:].partition("__")[0].lower()
            if section not in Settings.model_fields:
                raise ConfigError(f"environment: {name}: unknown section {section!r}; known: {', '.join(Settings.model_fields)}")


def _first_line(error: ValidationError) -> str:
    first: Any = error.errors(include_url=False, include_input=False, include_context=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    text = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
    return f"{key}: {text}" if key else text
