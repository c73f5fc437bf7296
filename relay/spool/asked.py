"""What people have asked to be tried now: whoever changes the spool for them leaves word of it there for the process that tries.

That the entries are due is not all they mean: their smarthost may be left alone for a while yet. Functions over a connection, within its
transaction.

The words are rows of `meta`, a table that the file has had since its first version: a relay that does not know of them passes over them.
"""

from __future__ import annotations

import json
import sqlite3
from typing import NamedTuple

from relay.spool.pile import Pile

KEPT = 600.0
"""Seconds after which a word is removed by the next one: longer than any who tries lets pass between two looks."""
_NAME = "asked "
_NEXT = "asked!"
"""All names that begin with the former are before this."""


class Ask(NamedTuple):
    """What is to be tried."""

    owner: str | None
    """None: everybody's."""
    route: str | None
    """None: by whatever route."""

    def covers(self, pile: Pile) -> bool:
        """Whether what lies in that pile is meant."""
        return self.owner in (None, pile.owner) and self.route in (None, pile.route)


def ask(db: sqlite3.Connection, what: Ask, now: float) -> None:
    """Leave word."""
    db.execute("DELETE FROM meta WHERE name >= ? AND name < ? AND CAST(value AS REAL) < ?", (_NAME, _NEXT, now - KEPT))
    db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (_NAME + json.dumps(what), repr(now)))


def find(db: sqlite3.Connection) -> dict[Ask, str]:
    """What was asked for of late, with a mark that changes when it is asked for again."""
    found = db.execute("SELECT name, value FROM meta WHERE name >= ? AND name < ?", (_NAME, _NEXT)).fetchall()
    try:
        return {Ask(*json.loads(name.removeprefix(_NAME))): mark for name, mark in found}
    except (ValueError, TypeError):
        return {}  # not of our making; what is due is tried all the same, in its time
