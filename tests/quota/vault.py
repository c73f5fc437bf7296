"""A vault in a file, with what a spool knows of charges beside it; it can be broken."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

Answer = TypeVar("Answer")
Row = tuple[str, str, int, int, int]


class Broken(Exception):
    """The vault cannot do it now."""


class FileVault:
    """Rows in a SQLite file; each call is durable on return."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_broken = False
        self.forgotten: list[list[str]] = []
        """The ids of each call that forgot some."""
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS charge (user, id PRIMARY KEY, units, accepted, rejected)")
            database.execute("CREATE TABLE IF NOT EXISTS entry (id PRIMARY KEY, user, units, accepted)")

    async def _do(self, job: Callable[[sqlite3.Connection], Answer]) -> Answer:
        if self.is_broken:
            raise Broken("disk I/O error")
        return await asyncio.to_thread(self.now, job)

    def now(self, job: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """Carry a job out in this thread."""
        with closing(sqlite3.connect(self.path)) as database, database:
            return job(database)

    async def keep_charge(self, user: str, id: str, units: int, accepted: int, rejected: int) -> None:
        row = (user, id, units, accepted, rejected)
        await self._do(lambda database: database.execute("INSERT OR REPLACE INTO charge VALUES (?, ?, ?, ?, ?)", row).rowcount)

    async def forget_charges(self, ids: Sequence[str]) -> None:
        await self._do(lambda database: database.executemany("DELETE FROM charge WHERE id = ?", [(id,) for id in ids]).rowcount)
        self.forgotten.append(list(ids))

    async def charges(self) -> list[Row]:
        return await self._do(lambda database: database.execute("SELECT * FROM charge").fetchall())

    async def charged(self, ids: Sequence[str]) -> dict[str, tuple[str, int, int]]:
        """What the entries of these ids are charged."""
        rows = await self._do(lambda database: database.execute("SELECT id, user, units, accepted FROM entry").fetchall())
        return {id: (user, units, accepted) for id, user, units, accepted in rows if id in ids}

    def put(self, id: str, user: str, units: int, accepted: int) -> None:
        """Enter a message in the spool."""
        self.now(lambda database: database.execute("INSERT INTO entry VALUES (?, ?, ?, ?)", (id, user, units, accepted)).rowcount)
