"""The one thread of a process that writes: it takes all the jobs that wait, does them in one transaction, and answers them together.

Promises:
- A job is answered after COMMIT has returned, thus after the fsync that covers it, and never before: no acknowledgement is given early.
- A job that fails, fails alone; if the commit fails, all of its batch have failed and nothing of it is in the spool. (One exception: where
  the fsync itself failed and the machine dies before the next write, SQLite may find the batch complete. It is then there once too often.)
- After an error of the disk the next batch starts with a connection of its own: the writer is well again as soon as the disk is.
- Processes take turns: they wait in a queue for a lock file, instead of polling SQLite's lock.

A caller that was cancelled: its job is left out if its batch has not begun, else it is carried out.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from relay.spool import rows
from relay.spool.fault import SpoolFull, SpoolUnavailable
from relay.spool.schema import PAGE, connect, said

MOST_JOBS = 512
MOST_OCTETS = 16 << 20
"""Bounds of a batch, so that no one waits for too many others."""
ROOM_EVERY = 0.1
"""How often the disk is asked for its free space, in s."""
CHECKPOINT_OCTETS = 16 << 20
"""After how much was written the write-ahead log is brought into the database: after the answers, so that nobody waits for it."""
BATCH_OCTETS = 64 << 10
"""What a commit writes besides the contents, about."""
VACUUM_PAGES = 256
"""How many free pages are given back to the disk at once: some ms."""
VACUUM_SPARE = 2048
"""Free pages that are left for what comes next."""
IDLE_SECONDS = 0.05
"""How long the writer waits for work before it gives pages back, while there are any."""

Work = Callable[[sqlite3.Connection, Sequence[Any]], Sequence[Any]]
"""Does many jobs of one kind: arguments -> results."""


def do_each(db: sqlite3.Connection, calls: Sequence[Callable[[sqlite3.Connection], Any]]) -> list[Any]:
    """The work of jobs that are no more than a call."""
    return [call(db) for call in calls]


class Job:
    """One thing to do, and who waits for it."""

    __slots__ = ("argument", "error", "future", "octets", "result", "work")

    def __init__(self, work: Work, argument: Any, octets: int, future: asyncio.Future[Any]) -> None:
        self.work = work
        self.argument = argument
        self.octets = octets
        self.future = future
        self.result: Any = None
        self.error: Exception | None = None


def _answer(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if not job.future.done():
            if job.error is None:
                job.future.set_result(job.result)
            else:
                job.future.set_exception(job.error)


def _tell(jobs: Sequence[Job]) -> None:
    """Answer in the loop; of a loop that is closed nobody waits."""
    if jobs:
        with suppress(RuntimeError):
            jobs[0].future.get_loop().call_soon_threadsafe(_answer, jobs)


class Writer:
    """Writes for one process."""

    def __init__(self, path: Path, reserve: int, keep: Callable[[sqlite3.Connection], None], linger: float = 0.0) -> None:
        """`keep` is called in every transaction, before its commit. A batch waits `linger` s for others to join it."""
        self.path = path
        self._linger = linger
        self._reserve = reserve
        self._keep = keep
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._is_closed = False
        self._db: sqlite3.Connection | None = None
        self._problem: SpoolUnavailable | None = None
        self._room_read = float("-inf")
        self._written = 0
        self._shrunk = 0.0
        self._has_freed = True  # perhaps; by those before us, at least
        try:
            self._inode = path.stat().st_ino
            self._lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SpoolUnavailable(f"{error.filename}: {error.strerror}") from error
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Work, argument: Any, octets: int = 0) -> asyncio.Future[Any]:
        """Have a job done; its future resolves after the commit."""
        if self._is_closed:
            raise SpoolUnavailable(f"{self.path}: the spool is closed")
        future = asyncio.get_running_loop().create_future()
        self._queue.put(Job(work, argument, octets, future))
        return future

    async def close(self) -> None:
        """Finish what is queued, and end."""
        if not self._is_closed:
            self._is_closed = True
            self._queue.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    # -- the thread ----------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        is_last = False
        while not is_last:
            jobs, is_last = self._take()
            jobs = [job for job in jobs if not job.future.done()]
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX)
                try:
                    if jobs:
                        self._do(jobs)
                    _tell(jobs)
                    self._tidy(is_idle=not jobs)
                finally:
                    fcntl.flock(self._lock, fcntl.LOCK_UN)
            except Exception as error:
                # Of a person's making, or a bug: the thread must live, and nobody may wait forever.
                self._fail(jobs, error)
                _tell(jobs)
        self._drop()
        os.close(self._lock)

    def _take(self) -> tuple[list[Job], bool]:
        """Wait for jobs, and take all that are there; an empty list when there was nothing to do for a while."""
        jobs: list[Job] = []
        octets = 0
        try:
            job = self._queue.get(timeout=IDLE_SECONDS if self._has_freed else None)
            ends = time.monotonic() + self._linger if self._linger else 0.0
            while job is not None:
                jobs.append(job)
                octets += job.octets
                if len(jobs) >= MOST_JOBS or octets >= MOST_OCTETS:
                    return jobs, False
                left = ends - time.monotonic() if ends else 0.0
                job = self._queue.get(timeout=left) if left > 0 else self._queue.get_nowait()
        except Empty:
            return jobs, False
        return jobs, True

    def _do(self, jobs: list[Job]) -> None:
        """Do the jobs in one transaction, and enter in each what came of it."""
        able = self._with_room(jobs)
        if not able:
            return
        # Whoever waits for his put before he goes on finds it done; so puts may go first, all in a few statements.
        able.sort(key=lambda job: job.work is not rows.insert)
        try:
            db = self._connection()
            db.execute("BEGIN IMMEDIATE")
            try:
                self._together(db, able)
            except Exception:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                db.execute("BEGIN IMMEDIATE")
                self._apart(db, able)
            self._keep(db)
            db.execute("COMMIT")
        except Exception as error:
            self._fail(able, error)
            self._drop()
        else:
            self._written += BATCH_OCTETS + sum(job.octets for job in able)
            self._has_freed = self._has_freed or able[-1].work is not rows.insert

    def _together(self, db: sqlite3.Connection, jobs: list[Job]) -> None:
        for work, group in groupby(jobs, key=lambda job: job.work):
            some = list(group)
            for job, result in zip(some, work(db, [job.argument for job in some]), strict=True):
                job.result = result

    def _apart(self, db: sqlite3.Connection, jobs: list[Job]) -> None:
        """Do them again, each under a savepoint: what is wrong with one does not fail the others."""
        for job in jobs:
            db.execute("SAVEPOINT job")
            try:
                [job.result] = job.work(db, [job.argument])
            except Exception as error:
                if not db.in_transaction:
                    raise  # SQLite has rolled all of it back
                self._fail([job], error)
                db.execute("ROLLBACK TO job")
            db.execute("RELEASE job")

    def _with_room(self, jobs: list[Job]) -> list[Job]:
        """Those of the jobs for which there is room."""
        if not any(job.work is rows.insert for job in jobs):
            return jobs
        now = time.monotonic()
        if now - self._room_read >= ROOM_EVERY:
            self._problem = self._look()
            self._room_read = now
        if self._problem is None:
            return jobs
        for job in jobs:
            if job.work is rows.insert:
                job.error = type(self._problem)(*self._problem.args)
        return [job for job in jobs if job.error is None]

    def _look(self) -> SpoolUnavailable | None:
        """What forbids to take anything new."""
        try:
            disk = os.statvfs(self.path.parent)
            if self.path.stat().st_ino != self._inode:
                return SpoolUnavailable(f"{self.path} is not the file that was opened: restart the relay")
        except OSError as error:
            return SpoolUnavailable(f"{self.path}: {error.strerror}")
        free = disk.f_bavail * disk.f_frsize
        if free >= self._reserve:
            return None
        return SpoolFull(f"{self.path.parent}: {free} octets are free, {self._reserve} are kept in reserve")

    def _fail(self, jobs: Sequence[Job], error: Exception) -> None:
        is_fault = isinstance(error, sqlite3.Error | OSError)
        for job in jobs:
            job.error = SpoolUnavailable(said(self.path, error)) if is_fault else error
            if is_fault:
                job.error.__cause__ = error

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = connect(self.path)
        return self._db

    def _drop(self) -> None:
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.close()
            self._db = None

    # -- after the answers ---------------------------------------------------------------------------------------------------

    def _tidy(self, *, is_idle: bool) -> None:
        try:
            db = self._connection()
            if self._written >= CHECKPOINT_OCTETS:
                self._written = 0
                db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            if self._has_freed and (is_idle or time.monotonic() - self._shrunk >= IDLE_SECONDS):
                self._shrink(db, is_idle=is_idle)
        except sqlite3.Error:
            self._drop()  # the next batch will say what is wrong, to those who ask for something

    def _shrink(self, db: sqlite3.Connection, *, is_idle: bool) -> None:
        """Give some free pages back to the disk; while there is work, only if most of the file is free, and fewer at once."""
        free: int = db.execute("PRAGMA freelist_count").fetchone()[0]
        self._has_freed = free > VACUUM_SPARE
        spare = VACUUM_SPARE if is_idle else max(VACUUM_SPARE, db.execute("PRAGMA page_count").fetchone()[0] // 2)
        if free > spare:
            pages = min(free - spare, VACUUM_PAGES if is_idle else VACUUM_PAGES // 8)
            # As a script: execute() stops at the first of its rows, which is one page.
            db.executescript(f"PRAGMA incremental_vacuum({pages})")
            self._written += 2 * pages * PAGE
        self._shrunk = time.monotonic()
