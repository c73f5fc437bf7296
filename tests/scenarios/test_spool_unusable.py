"""The spool's file is no spool, or one of a newer relay: the start ends with one clear line, and nothing is destroyed."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.running import running


def _garbage(path: Path) -> None:
    path.write_bytes(os.urandom(50_000))


def _newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA application_id = 0x52454C59")
        db.execute("PRAGMA user_version = 99")
        db.execute("CREATE TABLE later (x)")


def _foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE cookies (host, value)")


@pytest.mark.parametrize(
    ("make", "expected"),
    [(_garbage, "is no database"), (_newer, "is of a newer relay: its schema is 99"), (_foreign, "is a database, but no spool")],
)
async def test_a_file_that_is_no_spool_of_this_relay_is_one_line_and_stays_as_it_is(place: Path, make: object, expected: str) -> None:
    async with running(place / "relay", 1, is_started=False) as relay:
        path = relay.folder / "data" / "spool.db"
        path.parent.mkdir(parents=True)
        assert callable(make)
        make(path)
        before = path.read_bytes()
        line = await relay.fail()
        assert str(path) in line
        assert expected in line
        assert path.read_bytes() == before
        assert sorted(file.name for file in path.parent.glob("spool.db*")) == ["spool.db", "spool.db.lock"]
