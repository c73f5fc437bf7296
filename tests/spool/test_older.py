"""A spool that an older relay left: it is brought up to date in one commit, and all that was in it is in it after."""

from __future__ import annotations

import asyncio
import re
import signal
import sqlite3
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from relay.mail.envelope import Envelope, Recipient
from relay.spool.entry import Entry, Standing
from relay.spool.fault import SpoolUnusable
from relay.spool.pile import Pile
from relay.spool.schema import APPLICATION, PAGE, VERSION, connect, prepare
from relay.spool.spool import Spool
from tests.spool.making import PREFIX, WIRE, Hands, an_entry, as_all, ids, put, scribble
from tests.spool.test_corrupt import pages_of, ruin

VERSION_1 = (
    """CREATE TABLE meta (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE entry (
        seq INTEGER PRIMARY KEY, id TEXT NOT NULL, user TEXT NOT NULL, owner TEXT NOT NULL, kind TEXT NOT NULL, origin TEXT NOT NULL,
        sender TEXT NOT NULL, body TEXT NOT NULL, ret TEXT NOT NULL, envid TEXT NOT NULL, recipients INTEGER NOT NULL,
        size INTEGER NOT NULL, units INTEGER NOT NULL, accepted INTEGER NOT NULL, seal INTEGER NOT NULL, arrived REAL NOT NULL,
        due REAL NOT NULL, is_settled INTEGER NOT NULL, attempts INTEGER NOT NULL, held TEXT NOT NULL, claimed_by TEXT NOT NULL,
        lease_end REAL NOT NULL, is_warned INTEGER NOT NULL)""",
    """CREATE UNIQUE INDEX entry_id ON entry (id)""",
    """CREATE INDEX entry_due ON entry (due) WHERE held = ''""",
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
"""The tables as version 1 made them."""


SMTPUTF8 = "smtputf8 INTEGER NOT NULL DEFAULT 0"
"""What version 2 has more."""


def seal_1(entry: Entry) -> int:
    """The seal as version 1 computed it."""
    e = entry.envelope
    words = [entry.id, entry.user, entry.owner, entry.kind, entry.origin, e.sender, e.body, e.ret, e.envid]
    words.append(f"{entry.size} {entry.units} {entry.accepted} {float(entry.arrived)!r}")
    words += chain.from_iterable((one.address, one.notify, one.orcpt) for one in e.recipients)
    return zlib.crc32("\0".join(words).encode())


def put_1(db: sqlite3.Connection, seq: int, entry: Entry) -> None:
    """Put an entry as version 1 did."""
    e = entry.envelope
    db.execute(
        f"INSERT INTO entry VALUES ({', '.join('?' * 23)})",
        (seq, entry.id, entry.user, entry.owner, entry.kind, entry.origin, e.sender, e.body, e.ret, e.envid, len(entry.standings),
         entry.size, entry.units, entry.accepted, seal_1(entry), entry.arrived, entry.due, entry.is_settled, entry.attempts, entry.held,
         entry.claimed_by, 0.0, entry.is_warned),
    )  # fmt: skip
    put_rest(db, seq, entry)


def put_rest(db: sqlite3.Connection, seq: int, entry: Entry) -> None:
    """Put standings and content, as every version does."""
    for position, one in enumerate(entry.standings):
        to = one.recipient
        db.execute(
            "INSERT INTO standing VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (seq, position, to.address, to.notify, to.orcpt, one.state, one.reply, one.in_doubt),
        )
    db.execute("INSERT INTO content VALUES (?, ?, ?, ?)", (seq, PREFIX, WIRE, zlib.crc32(WIRE, zlib.crc32(PREFIX) ^ len(PREFIX))))


def put_2(db: sqlite3.Connection, seq: int, entry: Entry) -> None:
    """Put an entry as version 2 did."""
    e = entry.envelope
    seal = seal_1(entry)
    if e.smtputf8:
        seal = zlib.crc32(b"\0SMTPUTF8", seal)
    db.execute(
        f"INSERT INTO entry VALUES ({', '.join('?' * 24)})",
        (seq, entry.id, entry.user, entry.owner, entry.kind, entry.origin, e.sender, e.body, e.ret, e.envid, len(entry.standings),
         entry.size, entry.units, entry.accepted, seal, entry.arrived, entry.due, entry.is_settled, entry.attempts, entry.held,
         entry.claimed_by, 0.0, entry.is_warned, e.smtputf8),
    )  # fmt: skip
    put_rest(db, seq, entry)


def make_version_1(path: Path, *entries: Entry) -> None:
    """A file as an older relay left it when it was killed: part of it is in its log."""
    make(path, 1, VERSION_1, put_1, entries)


def make_version_2(path: Path, *entries: Entry) -> None:
    """The same of version 2."""
    tables = [re.sub(r"is_warned INTEGER NOT NULL\)$", f"is_warned INTEGER NOT NULL, {SMTPUTF8})", table) for table in VERSION_1]
    make(path, 2, tables, put_2, entries)


def make(
    path: Path, version: int, tables: Sequence[str], put: Callable[[sqlite3.Connection, int, Entry], None], entries: Sequence[Entry]
) -> None:
    """A file of an older version."""
    path.parent.mkdir(exist_ok=True)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"PRAGMA page_size = {PAGE}")
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("PRAGMA journal_mode = WAL").fetchall()
    db.execute("BEGIN")
    for statement in tables:
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION}")
    db.execute(f"PRAGMA user_version = {version}")
    for seq, entry in enumerate(entries, 1):
        put(db, seq, entry)
    db.execute("COMMIT")
    db.close()


def columns(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """The tables with their columns, and the indices."""
    db = sqlite3.connect(path)
    names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    found: dict[str, list[tuple[object, ...]]] = {name: db.execute(f"PRAGMA table_info({name})").fetchall() for name in names}
    found[""] = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' ORDER BY name").fetchall()
    found["version"] = db.execute("PRAGMA user_version").fetchall()
    db.close()
    return found


OLD = an_entry("old", 1000.0, recipients=3, held="operator", in_doubt=True)
OLDER = an_entry("older", 900.0, is_settled=False, kind="dsn", origin="x", units=0)


async def test_a_visitor_leaves_the_spool_of_an_older_relay_alone(path: Path) -> None:
    make_version_1(path, OLD)
    with pytest.raises(SpoolUnusable, match="of an older relay: start this one"):
        Spool(path, "", 0)
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (1,)
    spool = Spool(path, "relay", 0)
    await spool.close()
    await Spool(path, "", 0).close()


async def test_what_an_older_relay_left_is_all_there_and_its_seals_hold(path: Path, tmp_path: Path, clock: Hands) -> None:
    make_version_1(path, OLDER, OLD)
    told: list[str] = []
    spool = Spool(path, "me", 0, clock, lambda id, why: told.append(why))
    assert [entry async for page in spool.pages() for entry in page] == [OLDER, OLD]
    assert told == []
    assert await spool.content("old") == (PREFIX, WIRE)
    await put(spool, "new")
    assert await ids(spool) == ["older", "old", "new"]
    assert await spool.finish("older", as_all(OLDER, "delivered"), None)
    await spool.close()
    prepare(tmp_path / "fresh.db")
    assert columns(path) == columns(tmp_path / "fresh.db")


async def test_what_version_2_left_goes_by_the_relays_own_smarthost_until_it_is_sorted(path: Path, tmp_path: Path, clock: Hands) -> None:
    utf8 = replace(OLD, id="utf8", held="", envelope=OLD.envelope._replace(smtputf8=True))
    make_version_2(path, OLDER, OLD, utf8)
    told: list[str] = []
    spool = Spool(path, "me", 0, clock, lambda id, why: told.append(why))
    assert [entry async for page in spool.pages() for entry in page] == [OLDER, OLD, utf8]
    assert {entry.route for entry in [OLDER, OLD, utf8]} == {""} and told == []
    assert await spool.piles() == {Pile("o", ""): 900.0}
    assert [entry.id for entry in await spool.due_in(clock.now, {Pile("o", ""): 9})] == ["older", "utf8"]
    await put(spool, "new", route="r1")
    assert await spool.unhold("old")
    assert [entry.id for entry in await spool.due(clock.now, 10)] == ["older", "utf8", "old", "new"]
    await spool.close()
    prepare(tmp_path / "fresh.db")
    assert columns(path) == columns(tmp_path / "fresh.db")


async def test_killed_before_its_indices_are_made_it_has_them_next_time(path: Path, tmp_path: Path, clock: Hands) -> None:
    make_version_2(path, OLDER)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, str(path), "CREATE INDEX entry_pile")
    assert await process.wait() == -signal.SIGKILL
    assert "entry_pile" not in str(columns(path)[""])
    await Spool(path, "", 0, clock).close()
    assert "entry_pile" not in str(columns(path)[""])  # a visitor only looks
    spool = Spool(path, "me", 0, clock)
    assert [entry.id for entry in await spool.due(clock.now, 10)] == ["older"]
    await spool.close()
    prepare(tmp_path / "fresh.db")
    assert columns(path) == columns(tmp_path / "fresh.db")


async def test_an_entry_keeps_that_smtputf8_was_asked_for_and_its_addresses(path: Path, clock: Hands) -> None:
    make_version_1(path, OLD)
    spool = Spool(path, "me", 0, clock)
    to = Recipient("用户@例え.example", "FAILURE", "utf-8;ü@例え.example")
    entry = replace(an_entry("eai", clock.now), envelope=Envelope("jürgen@example.com", (to,), smtputf8=True), standings=(Standing(to),))
    plain = an_entry("plain", clock.now)
    for one in (entry, plain):
        await spool.put(one, PREFIX, WIRE)
    assert await spool.find("eai") == entry
    assert await spool.find("plain") == plain
    assert [(one.id, one.envelope.smtputf8) for one in await spool.claim(["eai", "plain"], 60, 0)] == [("eai", True), ("plain", False)]
    await spool.close()


@pytest.mark.parametrize("id", ["eai", "plain"])
async def test_the_seal_tells_whether_smtputf8_was_asked_for(path: Path, clock: Hands, id: str) -> None:
    told: list[str] = []
    spool = Spool(path, "me", 0, clock, lambda id, why: told.append(id))
    for name, is_utf8 in (("eai", True), ("plain", False)):
        entry = an_entry(name, clock.now)
        await spool.put(replace(entry, envelope=entry.envelope._replace(smtputf8=is_utf8)), PREFIX, WIRE)
    scribble(path, "UPDATE entry SET smtputf8 = NOT smtputf8 WHERE id = ?", id)
    assert id not in [entry.id for entry in await spool.due(clock.now, 10)]
    assert told == [id]
    await spool.close()


KILLED = """
import os, signal, sys
from pathlib import Path
from relay.spool import schema
path = Path(sys.argv[1])
def trace(sql):
    if sql.startswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
with schema.locked(path):
    db = schema.connect(path)
    db.set_trace_callback(trace)
    schema._create(db, path, True)
"""


@pytest.mark.parametrize("moment", ["BEGIN", "ALTER", "PRAGMA application_id =", "PRAGMA user_version =", "COMMIT"])
async def test_killed_at_any_step_it_is_still_the_old_one_and_is_brought_up_to_date_next_time(
    moment: str, path: Path, clock: Hands
) -> None:
    make_version_1(path, OLD)
    before = columns(path)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, str(path), moment)
    assert await process.wait() == -signal.SIGKILL
    assert columns(path) == before
    spool = Spool(path, "me", 0, clock)
    assert [entry async for page in spool.pages() for entry in page] == [OLD]
    await spool.close()
    assert columns(path)["version"] == [(VERSION,)]


async def test_many_may_bring_it_up_to_date_at_once(path: Path) -> None:
    make_version_1(path, OLD)
    spools = await asyncio.gather(*(asyncio.to_thread(Spool, path, f"p{number}", 0) for number in range(8)))
    await asyncio.gather(*(put(spool, spool.incarnation) for spool in spools))
    assert len(await ids(spools[0])) == 9
    for spool in spools:
        await spool.close()


def test_an_older_relay_that_has_it_open_goes_on_taking(path: Path) -> None:
    make_version_1(path)
    older = sqlite3.connect(path, isolation_level=None)
    put_old = "INSERT INTO charge VALUES (?, 'u', 1, 1, 0)"
    older.execute(put_old, ("a",))
    prepare(path)
    older.execute(put_old, ("b",))
    names = [row[1] for row in older.execute("PRAGMA table_info(entry)")][:-2]
    values = [0 if name in ("seq", "due", "is_settled", "recipients") else "" for name in names]
    older.execute(f"INSERT INTO entry ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})", values)
    assert older.execute("SELECT smtputf8, route FROM entry").fetchall() == [(0, "")]
    older.close()


async def test_damage_in_it_is_in_nobodys_way(path: Path, clock: Hands) -> None:
    make_version_1(path, *(an_entry(f"m{number:03}", 1000.0) for number in range(500)))
    ruin(path, pages_of(path, "entry")[1])
    told: list[str] = []
    spool = Spool(path, "me", 0, clock, lambda id, why: told.append(id))
    assert len(await ids(spool)) == 500
    assert 300 < len(await spool.due(clock.now, 1000)) < 500
    assert told
    assert 300 < len(await spool.seqs_of("o")) < 500
    assert await spool.owners_without_route() == set()
    assert list(await spool.piles()) == [Pile("o", "")]
    await spool.close()


def test_however_many_entries_there_are_it_takes_no_time(path: Path) -> None:
    make_version_1(path)
    db = connect(path)
    db.execute("BEGIN")
    for seq in range(1, 20_001):
        put_1(db, seq, replace(OLD, id=f"m{seq}"))
    db.execute("COMMIT")
    db.close()
    began = time.monotonic()
    prepare(path)
    assert time.monotonic() - began < 1.0
