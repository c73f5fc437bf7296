"""The database: its tables, how it is opened, and what its errors mean.

Promises:
- A file that is no spool, or one of a newer relay, is refused in one line and not touched.
- The tables appear in one commit, with the version: a process killed while it creates them leaves nothing half made. So does every
  step from an older version to this one, and what was in the spool is in it after, as it was.

Shape: the content is apart from the entry and written once, so that nothing that changes an entry rewrites a message; every recipient's
standing is a row. `seq` rises with every entry, so that all rows, and the index on arrivals, are appended at the end of their trees: a
spool of a million entries takes a message as fast as an empty one. What is to be tried is indexed in piles, one for each owner and route,
each in the order in which it is due: a pile that nobody can be asked to take is passed over in one step, however high it is. The other
indices are partial and hold only what is out of the ordinary (held, claimed, unsettled, in doubt).
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from relay.spool.fault import SpoolUnavailable, SpoolUnusable

APPLICATION = 0x52454C59
"""PRAGMA application_id: "RELY"."""
VERSION = 3
"""PRAGMA user_version."""

PAGE = 8192
"""Measured with 2 KB messages, up to 220,000 entries: a put costs about 50 µs of CPU with 4096 and with 8192, 65 µs with 16384; a message
takes 4.4 KB of disk with 4096, of whose pages each holds only one, 3.2 KB with 8192, 2.8 KB with 16384."""
CHECKPOINT_BACKSTOP = 8192
"""Pages of write-ahead log at which SQLite itself checkpoints, should the writer not have come to it."""
BUSY_SECONDS = 10.0
"""How long to wait for someone who writes without taking the lock file: a person with sqlite3(1)."""

TABLES = (
    """CREATE TABLE meta (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE entry (
        seq INTEGER PRIMARY KEY, id TEXT NOT NULL, user TEXT NOT NULL, owner TEXT NOT NULL, kind TEXT NOT NULL, origin TEXT NOT NULL,
        sender TEXT NOT NULL, body TEXT NOT NULL, ret TEXT NOT NULL, envid TEXT NOT NULL, recipients INTEGER NOT NULL,
        size INTEGER NOT NULL, units INTEGER NOT NULL, accepted INTEGER NOT NULL, seal INTEGER NOT NULL, arrived REAL NOT NULL,
        due REAL NOT NULL, is_settled INTEGER NOT NULL, attempts INTEGER NOT NULL, held TEXT NOT NULL, claimed_by TEXT NOT NULL,
        lease_end REAL NOT NULL, is_warned INTEGER NOT NULL, smtputf8 INTEGER NOT NULL DEFAULT 0, route TEXT NOT NULL DEFAULT '')""",
    """CREATE UNIQUE INDEX entry_id ON entry (id)""",
    """CREATE INDEX entry_arrived ON entry (arrived, size) WHERE held = ''""",
    """CREATE INDEX entry_held ON entry (held, user) WHERE held <> ''""",
    """CREATE INDEX entry_claimed ON entry (claimed_by, lease_end) WHERE claimed_by <> ''""",
    """CREATE INDEX entry_unsettled ON entry (seq) WHERE is_settled = 0""",
    """CREATE INDEX entry_report ON entry (seq) WHERE kind = 'dsn'""",
    """CREATE TABLE standing (
        seq INTEGER NOT NULL, position INTEGER NOT NULL, address TEXT NOT NULL, notify TEXT NOT NULL, orcpt TEXT NOT NULL,
        state TEXT NOT NULL, reply TEXT NOT NULL, in_doubt INTEGER NOT NULL, PRIMARY KEY (seq, position)) WITHOUT ROWID""",
    """CREATE INDEX standing_doubt ON standing (seq) WHERE in_doubt <> 0""",
    """CREATE TABLE content (seq INTEGER PRIMARY KEY, prefix BLOB NOT NULL, wire BLOB NOT NULL, crc INTEGER NOT NULL)""",
    """CREATE TABLE charge (
        id TEXT NOT NULL PRIMARY KEY, user TEXT NOT NULL, units INTEGER NOT NULL, accepted INTEGER NOT NULL, rejected INTEGER NOT NULL)
        WITHOUT ROWID""",
)
STEPS = {
    1: ("ALTER TABLE entry ADD COLUMN smtputf8 INTEGER NOT NULL DEFAULT 0",),
    2: ("ALTER TABLE entry ADD COLUMN route TEXT NOT NULL DEFAULT ''",),
}
"""What makes the next version of each older one. A column with a default costs nothing, however many entries there are; and a process of
the older relay that still has the file open can go on writing to it."""
INDICES = {
    "entry_pile": "CREATE INDEX entry_pile ON entry (owner, route, due) WHERE held = ''",
    "entry_owner_held": "CREATE INDEX entry_owner_held ON entry (held, owner) WHERE held <> ''",
}
"""What is made beside the tables: an index reads every row, so on a file with a damaged page it cannot be had. Then all goes on without,
more slowly, until it can."""
OUTDATED = ("entry_due",)
"""Indices of older versions, which go when those are there."""


def said(path: Path, error: Exception) -> str:
    """What an error means, for the operator."""
    name = getattr(error, "sqlite_errorname", "")
    return f"{path}: {error} ({name})" if name else f"{path}: {error}"


def _text(raw: bytes) -> str:
    # What is no UTF-8 must be recognised as damage in its own row, not end the reading of all the others.
    return raw.decode("utf-8", "surrogateescape")


def connect(path: Path, *, is_reader: bool = False) -> sqlite3.Connection:
    """Open a connection to an existing database; raises sqlite3.Error."""
    uri = f"{path.absolute().as_uri()}?mode=rw"  # never creates: a spool that vanished must not come back empty
    db = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=256)
    try:
        db.text_factory = _text
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_BACKSTOP}")
        db.execute("PRAGMA temp_store = MEMORY")
        db.execute("PRAGMA cache_size = -8192")
        # A build may overwrite with zeros what is deleted, which doubles the cost of a drain.
        db.execute("PRAGMA secure_delete = OFF").fetchall()
        db.execute(f"PRAGMA journal_size_limit = {64 << 20}").fetchall()
        if is_reader:
            db.execute("PRAGMA query_only = ON")
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from writing, while the database is opened."""
    fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def prepare(path: Path, may_upgrade: bool = True) -> None:
    """Make the folder, the file and its tables, unless they exist; raises SpoolUnusable or SpoolUnavailable."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(path):
            if not path.exists():
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                _sync_folder(path.parent)
            db = connect(path)
            try:
                _create(db, path, may_upgrade)
            finally:
                db.close()
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorname", "") == "SQLITE_NOTADB":
            raise SpoolUnusable(f"{path} is no database: a person must look at it, or move it away") from error
        raise SpoolUnavailable(said(path, error)) from error
    except OSError as error:
        raise SpoolUnavailable(f"{error.filename or path}: {error.strerror}") from error


def _create(db: sqlite3.Connection, path: Path, may_upgrade: bool) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    application = db.execute("PRAGMA application_id").fetchone()[0]
    is_empty = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if application == APPLICATION and version == VERSION:
        if may_upgrade:
            _index(db)
        return
    if application == APPLICATION and version > VERSION:
        raise SpoolUnusable(f"{path} is of a newer relay: its schema is {version}, this relay knows {VERSION}")
    if application == APPLICATION and version in STEPS:
        if not may_upgrade:
            raise SpoolUnusable(f"{path} is of an older relay: start this one, which brings it up to date")
        _commit(db, [statement for step in range(version, VERSION) for statement in STEPS[step]])
        _index(db)
        return
    if application or version or not is_empty:
        raise SpoolUnusable(f"{path} is a database, but no spool: a person must look at it, or move it away")
    db.execute(f"PRAGMA page_size = {PAGE}")
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("PRAGMA journal_mode = WAL").fetchall()
    _commit(db, TABLES)
    _index(db)


def _index(db: sqlite3.Connection) -> None:
    """Make the indices that are missing, in one commit; an older version's stay where damage is in the way."""
    there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    missing = [name for name in INDICES if name not in there]
    if not missing and not there.intersection(OUTDATED):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        for name in missing:
            db.execute(INDICES[name])
        for name in OUTDATED:
            db.execute(f"DROP INDEX IF EXISTS {name}")
    except sqlite3.DatabaseError as error:
        db.execute("ROLLBACK")
        if not is_damage(error):
            raise
    else:
        db.execute("COMMIT")


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether an error is of what is stored, not of the disk or of the moment."""
    name = str(getattr(error, "sqlite_errorname", ""))
    return name.startswith("SQLITE_CORRUPT") or name == "SQLITE_NOTADB"


def _commit(db: sqlite3.Connection, statements: Sequence[str]) -> None:
    """Make the tables what this version has, and say so, in one commit."""
    db.execute("BEGIN IMMEDIATE")
    for statement in statements:
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION}")
    db.execute(f"PRAGMA user_version = {VERSION}")
    db.execute("COMMIT")


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
