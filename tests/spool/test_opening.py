"""What the spool makes of the file it finds, and of the clock."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from relay.spool.clock import SEEN_EVERY, SpoolClock
from relay.spool.fault import SpoolUnavailable, SpoolUnusable
from relay.spool.schema import APPLICATION, PAGE, VERSION, connect, prepare
from relay.spool.spool import Spool
from tests.spool.making import an_entry, ids, put, scribble


def said_of(path: Path, kind: type[SpoolUnavailable]) -> str:
    """What is said when it cannot be opened; always one line that names the file."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(kind) as raised:
        Spool(path, "me", 0)
    assert "\n" not in str(raised.value) and path.name in str(raised.value)
    assert before is None or path.read_bytes() == before
    return str(raised.value)


async def test_a_new_spool_is_its_owners_alone_and_says_what_it_is(path: Path) -> None:
    spool = Spool(path, "me", 0)
    await put(spool, "a")
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    await spool.close()
    db = sqlite3.connect(path)
    words = ("application_id", "user_version", "journal_mode", "auto_vacuum", "page_size")
    assert [db.execute(f"PRAGMA {word}").fetchone()[0] for word in words] == [APPLICATION, VERSION, "wal", 2, PAGE]
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()


def test_every_commit_waits_for_the_disk(path: Path) -> None:
    prepare(path)
    db = connect(path)
    assert db.execute("PRAGMA synchronous").fetchone() == (2,)
    db.close()


def test_a_file_that_is_no_database_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    path.write_bytes(b"no database at all\n" * 1000)
    assert "is no database" in said_of(path, SpoolUnusable)


def test_a_database_of_something_else_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    scribble(path, "CREATE TABLE x (y)")
    assert "is a database, but no spool" in said_of(path, SpoolUnusable)


async def test_a_newer_schema_is_not_touched(path: Path) -> None:
    spool = Spool(path, "me", 0)
    await spool.close()
    scribble(path, f"PRAGMA user_version = {VERSION + 1}")
    assert f"its schema is {VERSION + 1}, this relay knows {VERSION}" in said_of(path, SpoolUnusable)


def test_a_folder_where_the_file_should_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "spool.db").mkdir()
    said_of(tmp_path / "spool.db", SpoolUnavailable)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolUnavailable, match="file"):
        Spool(tmp_path / "file" / "spool.db", "me", 0)


async def test_a_creation_that_was_cut_off_is_completed(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"")
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA page_size = {PAGE}")
    db.execute("PRAGMA journal_mode = WAL")
    db.close()
    spool = Spool(path, "me", 0)
    await put(spool, "a")
    assert await ids(spool) == ["a"]
    await spool.close()


async def test_many_may_create_it_at_once(path: Path) -> None:
    spools = await asyncio.gather(*(asyncio.to_thread(Spool, path, f"p{number}", 0) for number in range(8)))
    await asyncio.gather(*(put(spool, spool.incarnation) for spool in spools))
    assert await ids(spools[0]) == await ids(spools[7])
    instants = [spool.now() for spool in spools]
    assert max(instants) - min(instants) < 0.1
    assert abs(instants[0] - time.time()) < 5
    for spool in spools:
        await spool.close()


async def test_a_file_that_was_taken_away_takes_nothing_more(path: Path) -> None:
    spool = Spool(path, "me", 0)
    path.rename(path.with_name("away.db"))
    with pytest.raises(SpoolUnavailable, match=r"spool\.db"):
        await put(spool, "a")
    await spool.close()


@pytest.fixture
def started(path: Path) -> Callable[[str, float, float], SpoolClock]:
    """Start the clock in a boot, with that uptime and wall."""
    prepare(path)

    def start(boot: str, uptime: float, wall: float) -> SpoolClock:
        db = connect(path)
        clock = SpoolClock(db, boot, lambda: uptime, lambda: wall)
        db.close()
        return clock

    return start


def test_the_clock_does_not_follow_the_walls_steps(started: Callable[[str, float, float], SpoolClock]) -> None:
    assert started("one", 100.0, 1_800_000_000.0)() == 1_800_000_000.0
    assert started("one", 160.0, 1_700_000_000.0)() == 1_800_000_060.0
    assert started("one", 220.0, 1_900_000_000.0)() == 1_800_000_120.0


def test_after_a_boot_the_clock_is_the_walls_again(started: Callable[[str, float, float], SpoolClock]) -> None:
    started("one", 100.0, 1_800_000_000.0)
    assert started("two", 5.0, 1_800_000_500.0)() == 1_800_000_500.0


def test_after_a_boot_the_clock_is_never_behind_what_the_spool_has_seen(
    path: Path, started: Callable[[str, float, float], SpoolClock]
) -> None:
    clock = started("one", 100.0, 1_800_000_000.0)
    db = connect(path)
    clock.keep(db)
    clock._uptime = lambda: 100.0 + SEEN_EVERY
    clock.keep(db)
    db.close()
    assert started("two", 5.0, 0.0)() == 1_800_000_000.0 + SEEN_EVERY


async def test_after_a_boot_the_clock_is_never_behind_the_last_arrival(
    path: Path, started: Callable[[str, float, float], SpoolClock]
) -> None:
    spool = Spool(path, "me", 0, lambda: 1_800_001_000.0)
    await spool.put(an_entry("a", spool.now()), b"", b"")
    await spool.close()
    assert started("two", 5.0, 0.0)() == 1_800_001_000.0


PLANS = {
    "due": "SELECT seq FROM entry WHERE held = '' AND due <= 1 AND (claimed_by = '' OR lease_end <= 1) AND owner = 'o' AND route = ''"
    " ORDER BY due LIMIT 9",
    "piles": "SELECT owner, route, due FROM entry WHERE held = '' AND owner = 'o' AND route > '' ORDER BY route, due LIMIT 1",
    "more piles": "SELECT owner, route, due FROM entry WHERE held = '' AND owner > 'o' ORDER BY owner, route, due LIMIT 1",
    "owners": "SELECT DISTINCT owner FROM entry WHERE held = 'route' AND held <> ''",
    "an owner's": "SELECT seq FROM entry WHERE held = '' AND owner = 'o' UNION ALL"
    " SELECT seq FROM entry WHERE held = 'route' AND held <> '' AND owner = 'o'",
    "an id": "SELECT seq FROM entry WHERE id IN (SELECT value FROM json_each('[]')) AND held = '' AND (claimed_by = '' OR lease_end <= 1)",
    "unsettled": "SELECT user, id FROM entry WHERE is_settled = 0 AND units > 0 ORDER BY seq",
    "claimants": "SELECT DISTINCT claimed_by FROM entry WHERE claimed_by <> ''",
    "claims": "SELECT seq, id FROM entry WHERE claimed_by = 'x' AND claimed_by <> '' ORDER BY seq",
    "held users": "SELECT DISTINCT user FROM entry WHERE held = 'route' AND held <> ''",
    "expiring": "SELECT seq FROM entry WHERE held = '' AND arrived <= 1 ORDER BY arrived LIMIT 9",
    "counts": "SELECT count(*), min(arrived), total(size) FROM entry WHERE held = ''",
}


@pytest.mark.parametrize("question", PLANS)
def test_no_frequent_question_reads_the_whole_table(question: str, path: Path) -> None:
    prepare(path)
    db = connect(path)
    plan = " / ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {PLANS[question]}"))
    db.close()
    assert "INDEX entry_" in plan and "SCAN entry /" not in f"{plan} /", plan
