"""The thread of a process that reads, with a connection of its own: a long listing never keeps the writer waiting, nor the loop."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from relay.spool.fault import SpoolUnavailable
from relay.spool.schema import connect, said

T = TypeVar("T")


class Reader:
    """Reads for one process; each call sees one moment of the spool."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, "spool-reader")
        self._is_closed = False

    async def read(self, call: Callable[[sqlite3.Connection], T]) -> T:
        """Call it with the connection, in the thread; raises SpoolUnavailable."""
        if self._is_closed:
            raise SpoolUnavailable(f"{self.path}: the spool is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, call)

    def _read(self, call: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._db is None:
                self._db = connect(self.path, is_reader=True)
            self._db.execute("BEGIN")
            try:
                return call(self._db)
            finally:
                self._db.execute("ROLLBACK")
        except sqlite3.Error as error:
            self._drop()
            raise SpoolUnavailable(said(self.path, error)) from error

    def _drop(self) -> None:
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.close()
            self._db = None

    async def close(self) -> None:
        """Finish what is being read, and end."""
        if not self._is_closed:
            self._is_closed = True
            self._thread.submit(self._drop)
            await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
