"""What was acknowledged is on the disk: after kill -9, in the order of the system calls, and whoever else is writing."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from relay.spool.spool import Spool
from tests.peer import need
from tests.spool.making import PREFIX, WIRE, ids

ROOT = Path(__file__).parents[2]


def taking(path: Path, name: str, count: int, tasks: int, *before: str) -> subprocess.Popen[bytes]:
    """Start a process that takes."""
    command = [*before, sys.executable, "-m", "tests.spool.taking", str(path), name, str(count), str(tasks)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


def told(output: bytes, word: str) -> set[str]:
    """The ids of which that was printed."""
    return {id for first, id in (line.split() for line in output.decode().splitlines()) if first == word}


async def test_what_was_acknowledged_survives_kill_9(path: Path) -> None:
    taken: set[str] = set()
    finishing: set[str] = set()
    finished: set[str] = set()
    for number in range(5):
        process = taking(path, f"round{number}-", 1_000_000, 20)
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(random.uniform(0.0, 0.4))
        process.kill()
        output = first + process.communicate()[0]
        taken |= told(output, "taken")
        finishing |= told(output, "finishing")
        finished |= told(output, "finished")
        spool = Spool(path, "me", 0)
        there = set(await ids(spool))
        assert taken - finishing <= there, f"lost in round {number}"
        assert not finished & there, f"undone in round {number}"
        await spool.close()
    assert len(taken) > 20
    spool = Spool(path, "me", 0)
    for id in there:
        assert await spool.content(id) == (PREFIX, WIRE)
    counts = await spool.counts()
    assert counts.held == 0 and counts.waiting == len(there)
    await spool.close()


async def test_processes_that_write_at_once_take_turns(path: Path) -> None:
    processes = [taking(path, name, 1_000_000, 20) for name in "abc"]
    spool = Spool(path, "me", 0)
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        before = Counter(id[0] for id in await ids(spool))
        await asyncio.sleep(1.0)
        made = Counter(id[0] for id in await ids(spool)) - before
    finally:
        for process in processes:
            process.kill()
            process.communicate()
        await spool.close()
    assert min(made[name] for name in "abc") * 5 > max(made.values()), made


@pytest.mark.peer
def test_an_acknowledgement_is_written_after_the_fsync_that_covers_it(path: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    calls = "trace=pwrite64,pwritev,write,fsync,fdatasync"
    process = taking(path, "m", 30, 5, need("strace"), "-f", "-y", "-s", "9000", "-e", calls, "-o", str(trace))
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert len(told(output, "taken")) == 30
    order = journey(trace.read_text(errors="replace"))
    for id in told(output, "taken"):
        logged = next(i for i, (what, text) in enumerate(order) if what == "log" and f"{id}uomail" in text)
        synced = next(i for i, (what, _) in enumerate(order) if what == "sync" and i > logged)
        acknowledged = next(i for i, (what, text) in enumerate(order) if what == "out" and f'"taken {id}\\n"' in text)
        assert logged < synced < acknowledged, id


def journey(trace: str) -> list[tuple[str, str]]:
    """What a trace shows, in its order: pages written to the log, syncs of the log that have ended, lines written out."""
    order = []
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        thread, _, call = line.partition(" ")
        call = call.strip()
        is_end = "resumed>" in call
        if call.endswith("<unfinished ...>"):  # it blocks: its end comes in a line of its own
            begun[thread] = call
        elif is_end:
            call = begun.pop(thread, "") + call
        is_of_log = "spool.db-wal>" in call.partition(",")[0].partition(")")[0]
        if call.startswith("pwrite") and is_of_log and not is_end:
            order.append(("log", call))
        elif call.startswith(("fsync", "fdatasync")) and is_of_log and call.endswith("= 0"):
            order.append(("sync", call))
        elif call.startswith("write(1<") and not is_end:
            order.append(("out", call))
    return order
