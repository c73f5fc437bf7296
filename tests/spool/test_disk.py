"""A disk without room, or that fails: what is refused was not taken, what is taken stays, and all is well when the disk is."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from relay.spool.fault import SpoolFull, SpoolUnavailable
from relay.spool.spool import Spool
from tests.spool.making import Hands, an_entry, as_all, ids, put, scribble

ROOT = Path(__file__).parents[2]


async def test_below_the_reserve_nothing_new_is_taken_and_the_rest_goes_on(path: Path, clock: Hands) -> None:
    roomy = Spool(path, "me", 0, clock)
    first, second = await put(roomy, "a"), await put(roomy, "b")
    tight = Spool(path, "tight", 1 << 60, clock)
    with pytest.raises(SpoolFull, match="kept in reserve"):
        await put(tight, "c")
    report = an_entry("d", clock.now, kind="dsn", units=0)
    assert await tight.finish("a", as_all(first, "reported"), None, [(report, b"", b"x")])
    assert await tight.finish("b", as_all(second, "delivered"), None)
    await tight.keep_charge("u", "z", 1, 1, 0)
    assert await tight.charges() == [("u", "z", 1, 1, 0)]
    assert [entry.id for entry in await tight.claim(["d"], 60, clock.now)] == ["d"]
    assert await ids(roomy) == ["d"]
    await tight.close()
    await roomy.close()


def account(kind: str, folder: Path, *before: str) -> None:
    """Run a process whose disk fills up, and close the account of what it was told."""
    command = [*before, sys.executable, "-m", "tests.spool.diskful", kind, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 77:
        pytest.skip("no tmpfs can be mounted here")
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    told = {word: [id for first, id, *_ in lines if first == word] for word in ("taken", "refused", "there")}
    assert sorted(told["there"]) == sorted(told["taken"])
    assert len(told["taken"]) > 40 and len(told["refused"]) > 1
    reasons = {rest[0] for first, _, *rest in lines if first == "refused"}
    assert all("SQLITE_" in reason and "spool.db" in reason for reason in reasons), reasons


def test_a_file_that_may_not_grow_refuses_and_recovers(tmp_path: Path) -> None:
    account("limit", tmp_path)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare(1) is not here")
def test_a_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    try:
        subprocess.run(["unshare", "-rm", "true"], check=True, capture_output=True)
    except subprocess.CalledProcessError:
        pytest.skip("no mount namespace may be had here")
    account("tmpfs", tmp_path, "unshare", "-rm")


async def test_a_spool_locked_by_a_stranger_is_waited_for(spool: Spool, path: Path) -> None:
    # A person with sqlite3(1), who knows nothing of the lock file.
    stranger = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('BEGIN IMMEDIATE'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", stranger, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        waiting = asyncio.create_task(put(spool, "a"))
        assert not (await asyncio.wait({waiting}, timeout=0.3))[0]
        assert await ids(spool) == []
        process.stdin.close()
        await waiting
    assert await ids(spool) == ["a"]


async def test_a_table_that_was_dropped_is_said_and_nothing_is_acknowledged(spool: Spool, path: Path) -> None:
    await put(spool, "a")
    scribble(path, "ALTER TABLE content RENAME TO away")
    with pytest.raises(SpoolUnavailable, match="no such table"):
        await put(spool, "b")
    scribble(path, "ALTER TABLE away RENAME TO content")
    await put(spool, "c")
    assert await ids(spool) == ["a", "c"]


async def test_the_space_comes_back_after_a_drain(spool: Spool, path: Path) -> None:
    wire = b"x" * 200_000
    entries = [an_entry(f"m{number}", spool.now()) for number in range(300)]
    await asyncio.gather(*(spool.put(entry, b"", wire) for entry in entries))
    await asyncio.gather(*(spool.finish(entry.id, as_all(entry, "delivered"), None) for entry in entries))
    for _ in range(100):
        await asyncio.sleep(0.1)
        scribble(path, "PRAGMA wal_checkpoint(PASSIVE)")
        if path.stat().st_size < 25 << 20:
            break
    assert path.stat().st_size < 25 << 20
    assert path.with_name("spool.db-wal").stat().st_size <= 130 << 20
