"""Entries to put, and the readings that the tests make of a spool."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

from relay.mail.envelope import Envelope, Recipient
from relay.spool.entry import Entry, Hold, Kind, Standing, State
from relay.spool.spool import Spool

PREFIX = b"Received: from client by relay; Sat, 21 Nov 2026 10:00:00 +0000\r\n"
WIRE = b"Subject: test\r\n\r\n" + b"x" * 2000 + b"\r\n.\r\n"


def an_entry(
    id: str,
    now: float,
    *,
    due: float | None = None,
    recipients: int = 1,
    user: str = "u",
    owner: str = "o",
    units: int = 1,
    is_settled: bool = True,
    kind: Kind = "mail",
    origin: str = "",
    claimed_by: str = "",
    in_doubt: bool = False,
    held: Hold = "",
    route: str = "",
    sender: str = "s@example.com",
) -> Entry:
    """An entry all of whose recipients wait."""
    to = tuple(Recipient(f"r{number}@example.org", "SUCCESS,FAILURE", f"rfc822;r{number}+40example.org") for number in range(recipients))
    return Entry(
        id, user, owner, Envelope(sender, to, "8BITMIME", "HDRS", "QQ314159"),
        tuple(Standing(recipient, "waiting", "451 4.4.1 Not now", in_doubt) for recipient in to), now, now if due is None else due,
        units, units, is_settled, kind, origin, held=held, claimed_by=claimed_by, size=len(WIRE), route=route,
    )  # fmt: skip


def as_all(entry: Entry, state: State, reply: str = "250 2.0.0 Ok") -> list[Standing]:
    """The standings of an entry, all in that state."""
    return [replace(standing, state=state, reply=reply, in_doubt=False) for standing in entry.standings]


async def put(spool: Spool, id: str, **features: Any) -> Entry:
    """Put an entry of those features."""
    entry = an_entry(id, spool.now(), **features)
    await spool.put(entry, PREFIX, WIRE)
    return entry


async def ids(spool: Spool, **wanted: Any) -> list[str]:
    """The ids of all its entries, oldest first."""
    return [entry.id async for page in spool.pages(**wanted) for entry in page]


def scribble(path: Path, sql: str, *values: object) -> None:
    """Change the database behind the spool's back."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(sql, values)
    db.close()


class Hands:
    """A clock that is moved by hand."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
