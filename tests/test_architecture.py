"""The rooms of the house: who may import whom, which library belongs to which room, and how large anything may grow.

The rules are checked on the syntax tree, so that an import hidden in a function or under TYPE_CHECKING counts like any other.
The checker itself is tested on planted violations: it can fail.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TIERS = (
    {"__main__"}, {"cli"}, {"supervisor"}, {"worker"}, {"estate"}, {"daemon"}, {"entry", "life", "outlet"}, {"source"}, {"config"},
    {"api", "loadkit"}, {"session", "retry", "dialects"}, {"accounts"}, {"quota", "upstream", "spool"}, {"store"}, {"mail", "journal"},
)  # fmt: skip
"""A room imports from itself and from the tiers after its own; rooms of one tier never import each other."""

FENCES = {
    "aiosmtpd": {"session"},
    "aiosmtplib": {"upstream"},
    "dkim": {"mail"},
    "fastapi": {"api"},
    "jwt": {"accounts"},
    "starlette": {"api"},
    "uvicorn": {"api"},
    "redis": {"store"},
    "sqlite3": {"spool"},
    "typer": {"cli"},
    "rich": {"cli", "loadkit"},
}
"""A library, and the rooms that may import it."""

IMPURE = {"asyncio", "io", "logging", "os", "pathlib", "random", "secrets", "socket", "ssl", "subprocess", "threading", "time"}
PURE = {"mail", "dialects"}
"""Rooms that do no I/O and look at no clock."""

JUNK = {"utils", "util", "helpers", "helper", "common", "base", "core", "misc", "manager", "lib"}
LONGEST_MODULE = 400
LONGEST_FUNCTION = 60


def tier(room: str) -> int:
    """Where a room stands, 0 the outermost; raises StopIteration for one that the design does not know."""
    return next(number for number, rooms in enumerate(TIERS) if room in rooms)


def room_of(module: str) -> str:
    """The room of a dotted module: `session` of relay.session.auth; empty for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Every import: its line, and the dotted name of what is imported, attributes included."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=name, names=names, level=level):
                start = module.split(".")
                start = start[: len(start) - level + is_package] if level else []
                origin = ".".join([*start, *([name] if name else [])])
                yield from ((node.lineno, f"{origin}.{alias.name}") for alias in names)
            case ast.Call(func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"), args=[first, *_]):
                yield node.lineno, first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else "?"


def wrong_import(importer: str, imported: str) -> str | None:
    """What is wrong with an import, seen from a room; None if nothing is."""
    if imported == "?":
        return "imports a computed name, which no rule can see"
    library = imported.partition(".")[0]
    if library != "relay":
        if importer not in FENCES.get(library, {importer}):
            return f"imports {library}, which belongs to {' and '.join(sorted(FENCES[library]))}"
        return f"imports {library}, but does no I/O and looks at no clock" if importer in PURE and library in IMPURE else None
    room = room_of(imported)
    if room == "__version__" or (room == importer and importer):
        return None
    if not room or room == "*":
        return "imports the whole package instead of a room"
    if not any(room in rooms for rooms in TIERS):
        return f"imports {imported}, which is in no room of the design"
    if not importer or tier(room) <= tier(importer):
        return f"imports {room}, which does not lie below it"
    return None


def functions(tree: ast.AST) -> Iterator[tuple[int, str, int]]:
    """Every function: its line, its name and how many lines it has, its decorators not counted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def prints(tree: ast.AST) -> Iterator[int]:
    """The lines that print."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield node.lineno


def sizes(where: str, text: str, tree: ast.AST) -> Iterator[str]:
    """What is too long in a module."""
    if (lines := len(text.splitlines())) > LONGEST_MODULE:
        yield f"{where}: {lines} lines, {LONGEST_MODULE} are allowed"
    for line, name, length in functions(tree):
        if length > LONGEST_FUNCTION:
            yield f"{where}:{line}: {name} has {length} lines, {LONGEST_FUNCTION} are allowed"


def faults_of_the_house(root: Path) -> list[str]:
    """Everything that is against the rules in the package under `root`."""
    found = []
    for path in sorted((root / "relay").rglob("*.py")):
        where = path.relative_to(root)
        parts = where.with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        room = room_of(module)
        text = path.read_text()
        tree = ast.parse(text)
        if room and not any(room in rooms for rooms in TIERS):
            found.append(f"{where}: {room} is no room of the design")
            continue
        found += [f"{where}: junk drawer" for part in parts if JUNK & set(part.strip("_").split("_"))]
        for line, imported in imports(tree, module, path.name == "__init__.py"):
            if fault := wrong_import(room, imported):
                found.append(f"{where}:{line}: {room or 'the package'} {fault}")
        if room != "cli":
            found += [f"{where}:{line}: print" for line in prints(tree)]
        found += sizes(str(where), text, tree)
    return found


def faults_of_the_tests(root: Path) -> list[str]:
    """Where the tests under `root` put something false in the place of something real, or grow too long."""
    found = []
    for path in sorted((root / "tests").rglob("*.py")):
        where = path.relative_to(root)
        text = path.read_text()
        tree = ast.parse(text)
        found += [f"{where}:{line}: imports mock" for line, name in imports(tree, "tests", False) if "mock" in name.split(".")]
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(value=ast.Name(id="monkeypatch"), attr="setattr" | "setitem" | "delattr" as what):
                    found.append(f"{where}:{node.lineno}: monkeypatch.{what}")
                case ast.Name(id="MagicMock" | "AsyncMock" | "Mock" as what) | ast.arg(arg="mocker" as what):
                    found.append(f"{where}:{node.lineno}: {what}")
        found += sizes(str(where), text, tree)
    return found


def test_every_room_keeps_to_the_rules() -> None:
    assert not (found := faults_of_the_house(ROOT)), "\n" + "\n".join(found)


def test_the_tests_use_real_things_and_stay_short() -> None:
    assert not (found := faults_of_the_tests(ROOT)), "\n" + "\n".join(found)


PLANTED = {
    "an import of a room above": ("store/client.py", "from relay.quota.ledger import Ledger\n", "does not lie below"),
    "an import within a tier": ("quota/ledger.py", "from relay.upstream import pool\n", "does not lie below"),
    "one of the innermost two by the other": ("journal.py", "import relay.mail.reply\n", "does not lie below"),
    "one by way of the package": ("session/auth.py", "from relay import daemon\n", "does not lie below"),
    "one hidden in a function": ("mail/reply.py", "def f() -> None:\n    from relay.store import client\n", "does not lie below"),
    "one under TYPE_CHECKING": (
        "accounts/user.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from relay.session.auth import verify\n",
        "does not lie below",
    ),
    "a relative one": ("upstream/pool.py", "from ..session import auth\n", "does not lie below"),
    "a relative one by a package": ("upstream/__init__.py", "from ..session import auth\n", "does not lie below"),
    "one by name": ("quota/ledger.py", "import importlib\nimportlib.import_module('relay.api.app')\n", "does not lie below"),
    "one by a computed name": ("quota/ledger.py", "def f(x: str) -> object:\n    return __import__(x)\n", "computed"),
    "one of the supervisor by the daemon": ("daemon.py", "import relay.supervisor\n", "does not lie below"),
    "one of the configuration by the API": ("api/app.py", "from relay.config import Settings\n", "does not lie below"),
    "one by the package itself": ("__init__.py", "from relay.mail import reply\n", "does not lie below"),
    "one of the whole package": ("session/auth.py", "import relay\n", "whole package"),
    "a library over its fence": ("quota/ledger.py", "import redis.asyncio\n", "belongs to store"),
    "a library over its fence, in a function": ("daemon.py", "def f() -> None:\n    from fastapi import FastAPI\n", "belongs to api"),
    "a database outside the spool": ("session/auth.py", "import sqlite3\n", "belongs to spool"),
    "a clock in a pure room": ("mail/trace.py", "import time\n", "no clock"),
    "an unknown room": ("stuff/x.py", "", "no room"),
    "a junk drawer": ("session/mail_utils.py", "", "junk drawer"),
    "another one": ("store/helpers/__init__.py", "", "junk drawer"),
    "a print": ("session/auth.py", "print('x')\n", "print"),
    "a long module": ("session/auth.py", "x = 1\n" * (LONGEST_MODULE + 1), "lines"),
    "a long function": ("session/auth.py", "async def f() -> None:\n" + "    pass\n" * LONGEST_FUNCTION, "f has 61 lines"),
}


@pytest.mark.parametrize("plant", PLANTED)
def test_the_checker_finds(plant: str, tmp_path: Path) -> None:
    name, text, expected = PLANTED[plant]
    file = tmp_path / "relay" / name
    file.parent.mkdir(parents=True)
    file.write_text(text)
    found = faults_of_the_house(tmp_path)
    assert len(found) == 1, found
    assert expected in found[0], found


PERMITTED = {
    "what lies below": ("session/auth.py", "from relay.accounts.user import User\nfrom relay.journal import Journal\n"),
    "its own room": ("session/auth.py", "from relay.session import house\nfrom . import grammar\n"),
    "the version": ("api/app.py", "from relay import __version__\n"),
    "a library within its fence": ("store/client.py", "import redis\nimport time\n"),
    "a print in the shell": ("cli/serve.py", "print('x')\n"),
    "a room that is still to come": ("retry/runner.py", "from relay.spool import queue\n"),
}


@pytest.mark.parametrize("plant", PERMITTED)
def test_the_checker_permits(plant: str, tmp_path: Path) -> None:
    name, text = PERMITTED[plant]
    file = tmp_path / "relay" / name
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert faults_of_the_house(tmp_path) == []


@pytest.mark.parametrize(
    "text",
    [
        "from unittest import mock\n",
        "from unittest.mock import patch\n",
        "def f() -> None:\n    import unittest.mock\n",
        "def test(monkeypatch):\n    monkeypatch.setattr('relay.x', 1)\n",
        "def test(mocker):\n    pass\n",
        "x = MagicMock()\n",
        "def f() -> None:\n" + "    pass\n" * LONGEST_FUNCTION,
    ],
)
def test_the_checker_finds_false_things_in_tests(text: str, tmp_path: Path) -> None:
    (tmp_path / "tests" / "session").mkdir(parents=True)
    (tmp_path / "tests" / "session" / "test_x.py").write_text(text)
    assert len(faults_of_the_tests(tmp_path)) == 1
