"""What is written down is so: every setting with its default, every event of the mail log, every command that is shown.

config/relay.toml is read twice: as it stands, when it must equal the defaults, and with the keys behind `#` uncommented, when its
keys must be exactly those of Settings. The README is searched for the same keys, for the events that the code names, and its
`relay ...` commands are looked up in the program.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.core import TyperGroup
from typer.testing import CliRunner

from relay.cli.app import app
from relay.config.settings import Settings
from relay.source import load

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "config" / "relay.toml"
_COMMENTED_KEY = re.compile(r"^# ?(?=[a-z_]+ = |\[\[[a-z_.]+\]\]$)", re.MULTILINE)


def readme() -> str:
    """The README; a test that needs it fails while there is none."""
    path = ROOT / "README.md"
    if not path.exists():
        pytest.fail("there is no README.md")
    return path.read_text()


# -- settings ----------------------------------------------------------------------------------------------------------------


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of the settings by its dotted name; the keys of a list's items stand under the list's name."""
    for name, field in model.model_fields.items():
        inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if inner:
            yield from fields(inner[0], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def keys(table: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a TOML document, those of a list of tables once."""
    for name, value in table.items():
        items = value if isinstance(value, list) else [value]
        if items and all(isinstance(item, dict) for item in items):
            yield from {key: None for item in items for key in keys(item, f"{prefix}{name}.")}
        else:
            yield f"{prefix}{name}"


SETTINGS = dict(fields(Settings))
SETTLED = {
    name
    for name, field in SETTINGS.items()
    if field.default_factory is None and field.default not in (None, PydanticUndefined) and not name.startswith("upstream.alternates.")
}
"""Keys that have the same default everywhere; the others, and those of a table that there is none of, are behind `#` in the sample."""


def plain(value: Any) -> Any:
    """A setting's value as TOML would hold it."""
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value) if isinstance(value, Path) else value


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defaults, whatever the environment of this run says."""

    for name in [name for name in os.environ if name.upper().startswith("RELAY_") or name == "CREDENTIALS_DIRECTORY"]:
        monkeypatch.delenv(name)


def test_the_sample_equals_the_defaults() -> None:
    assert load(SAMPLE).model_dump() == Settings().model_dump()


def test_the_sample_has_every_key_and_no_other() -> None:
    full = tomllib.loads(_COMMENTED_KEY.sub("", SAMPLE.read_text()))
    assert set(keys(full)) == set(SETTINGS)


def test_the_sample_shows_every_settled_default_live() -> None:
    assert set(keys(tomllib.loads(SAMPLE.read_text()))) == SETTLED


def test_the_sample_explains_every_key() -> None:
    lines = SAMPLE.read_text().splitlines()
    for number, line in enumerate(lines):
        if match := re.match(r"(# ?)?([a-z_]+) = ", line):
            before = lines[number - 1]
            is_explained = before.startswith("# ") and not _COMMENTED_KEY.match(before)
            assert is_explained, f"line {number + 1}: {match[2]} has no paragraph of its own"


@pytest.mark.parametrize("key", SETTINGS)
def test_the_readme_names_every_setting(key: str) -> None:
    assert re.search(rf"(?<![\w.]){re.escape(key)}(?![\w.]*\w)", readme()), f"README.md does not name {key}"


def rows(text: str) -> Iterator[tuple[str, str]]:
    """The rows `| key | default | ...` of the README's tables whose key is a setting's, by its first part."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.lstrip().startswith("|") and len(cells) >= 3:
            key = cells[0].strip("`*")
            if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", key) and key.partition(".")[0] in Settings.model_fields:
                yield key, cells[1].strip("`*")


def test_the_readme_says_nothing_false_of_a_setting() -> None:
    found = []
    for key, cell in rows(readme()):
        if key not in SETTINGS:
            found.append(f"{key} is no setting")
            continue
        try:
            shown = tomllib.loads(f"x = {cell}")["x"]
        except tomllib.TOMLDecodeError:
            continue  # words, not a value
        if key in SETTLED and shown != plain(SETTINGS[key].default) and not key.startswith("smtp.listen."):
            found.append(f"{key} is {plain(SETTINGS[key].default)!r} by default, not {shown!r}")
    assert not found, "\n" + "\n".join(found)


# -- events ------------------------------------------------------------------------------------------------------------------

TELLERS = {"event", "alarm", "on_event", "_on_event"}
"""The functions whose first argument is the name of an event."""


def events(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every event a module names, by its line; `?` for a name that cannot be seen and is not passed on from a parameter."""
    parameters = {
        id(inner): {arg.arg for arg in outer.args.args}
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in TELLERS and node.args:
            yield from ((node.lineno, name) for name in _names(node.args[0], parameters.get(id(node), set())))


def _names(node: ast.expr, passed_on: set[str]) -> Iterator[str]:
    match node:
        case ast.Constant(value=str(name)):
            yield name
        case ast.IfExp(body=body, orelse=orelse):
            yield from _names(body, passed_on)
            yield from _names(orelse, passed_on)
        case ast.Name(id=name) if name in passed_on:
            return
        case _:
            yield "?"


def named_events() -> dict[str, str]:
    """Every event of the program, and one place that names it."""
    found = {}
    for path in sorted((ROOT / "relay").rglob("*.py")):
        for line, name in events(ast.parse(path.read_text())):
            found[name] = f"{path.relative_to(ROOT)}:{line}"
    return found


def test_every_event_has_a_name_that_can_be_read() -> None:
    found = named_events()
    assert "?" not in found, f"{found['?']} computes the name of its event"
    assert {"taken", "refused", "store_died", "bug", "owner_disabled"} <= set(found), "the search for events finds too little"


def test_the_readme_names_every_event() -> None:
    text = readme()
    missing = {name: where for name, where in named_events().items() if f"`{name}`" not in text}
    assert not missing, "README.md does not list:\n" + "\n".join(f"`{name}` of {where}" for name, where in missing.items())


def test_the_search_for_events_sees_what_it_should() -> None:
    planted = "def f(x, name):\n    x.event('a' if name else 'b', c=1)\n    x.alarm(name)\n    x.event(x.name)\n    x._on_event('d', '')\n"
    assert [name for _, name in events(ast.parse(planted))] == ["a", "b", "?", "d"]


# -- commands ----------------------------------------------------------------------------------------------------------------


def commands(text: str) -> Iterator[list[str]]:
    """Every `relay ...` command of the code blocks: its arguments. Lines that end in a backslash are joined."""
    for block in re.findall(r"^ *```[^\n]*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|\||[;|]", line):
                if words := _relay_arguments(part):
                    yield words


def _relay_arguments(part: str) -> list[str]:
    try:
        words = shlex.split(part, comments=True)
    except ValueError:  # the middle of a text in quotes
        return []
    while words and (words[0] in {"$", "#", "sudo", "exec"} or re.match(r"[A-Z_]+=", words[0]) or words[0].startswith("-")):
        takes_value = words[0] in {"-u", "-g"}
        words = words[1 + takes_value :]
    if words[1:3] == ["-m", "relay"]:
        return words[3:]
    return words[1:] if words and Path(words[0]).name == "relay" else []


def fault_of(words: list[str]) -> str | None:
    """What is wrong with a command: an unknown subcommand or option, or a help that fails; None if nothing is."""
    command = typer.main.get_command(app)
    path: list[str] = []
    rest = list(words)
    while isinstance(command, TyperGroup) and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            return f"{' '.join([*path, rest[0]])}: no such command"
        command = command.commands[rest[0]]
        path.append(rest.pop(0))
    known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)} | {"--help", "-h"}
    unknown = [word for word in rest if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known]
    if unknown:
        return f"{' '.join(path)}: no such option: {unknown[0]}"
    result = CliRunner().invoke(app, [*path, "--help"])
    return f"{' '.join(path)} --help: exit status {result.exit_code}" if result.exit_code else None


def test_the_readme_shows_only_commands_that_exist() -> None:
    shown = list(commands(readme()))
    assert {words[0] for words in shown} >= {"demo", "serve"}, "README.md shows neither relay demo nor relay serve in a code block"
    faults = [f"relay {' '.join(words)}: {fault}" for words in shown if (fault := fault_of(words))]
    assert not faults, "\n" + "\n".join(faults)


def test_the_search_for_commands_sees_what_it_should() -> None:
    text = (
        "```sh\n$ sudo -u relay .venv/bin/relay owner add \\\n  'A B' && RELAY_X=1 relay serve --config f  # starts\n"
        "python -m relay version\ncurl -d it's\n```\nrelay nothing\n"
    )
    assert list(commands(text)) == [["owner", "add", "A B"], ["serve", "--config", "f"], ["version"]]


def test_a_command_that_does_not_exist_is_found() -> None:
    assert fault_of(["serve", "--config", "x.toml"]) is None
    assert fault_of(["sreve"]) == "sreve: no such command"
    assert fault_of(["owner", "ad", "x"]) == "owner ad: no such command"
    assert fault_of(["serve", "--konfig", "x"]) == "serve: no such option: --konfig"


def test_the_readme_has_a_test_command() -> None:
    assert re.search(r"^<!-- test command -->\s*\n```[a-z]*\n.+?\n```$", readme(), re.MULTILINE | re.DOTALL)
