"""The 250 of a spooled message: by the kernel's own account it is written to the client after the fsync that covers the message."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from relay.loadkit.script import Script
from tests.peer import need
from tests.store_faults import scene
from tests.surroundings import until

CALLS = "pwrite64,pwritev,fdatasync,fsync,write,writev,sendto,sendmsg"
MESSAGES = 5


async def test_the_reply_is_written_after_the_fsync_of_what_it_promises(place: Path) -> None:
    need("strace")
    async with scene(place) as found:
        user = await found.add_user()
        found.sink.script = Script.parse(["connect drop", "ehlo drop", "mail drop"])
        caller = await found.dial(user)
        async with _traced(found.relay.workers()["smtp-0"], place / "trace"):
            for _ in range(MESSAGES):
                assert (await found.send(user, caller=caller)).outcome == "taken"
        await caller.quit()
        found.sink.script = Script()
        await found.closed()
        lines = (place / "trace").read_text(errors="replace").splitlines()
        ids = [sent.id for sent in found.sent]
    for id in ids:
        _check(lines, id)


def test_a_reply_that_comes_too_early_is_found_out() -> None:
    entered = '7 pwrite64(9</d/spool.db-wal>, "id.1 text", 8192, 32) = 8192'
    synced = "7 fdatasync(9</d/spool.db-wal>) = 0"
    reply = '5 write(12<socket:[1]>, "250 2.0.0 id.1 Queued\\r\\n", 24) = 24'
    _check([entered, synced, reply], "id.1")
    begun, ended = "7 fdatasync(9</d/spool.db-wal> <unfinished ...>", "7 <... fdatasync resumed>) = 0"
    _check([entered, begun, ended, reply], "id.1")
    _check([entered, synced, '7 pwrite64(9</d/spool.db-wal>, "a mark", 8192, 8224) = 8192', reply], "id.1")
    for wrong in ([entered, reply, synced], [synced, entered, reply], [entered, begun, reply, ended], [synced, reply]):
        with pytest.raises(AssertionError):
            _check(wrong, "id.1")


def _check(lines: list[str], id: str) -> None:
    """The log takes the message, is synced, and only then is the reply begun."""
    sent = re.compile(rf"\b(?:write|writev|sendto|sendmsg)\(\d+<socket:[^>]*>, .*250 2\.0\.0 {re.escape(id)} ")
    [reply] = [i for i, line in enumerate(lines) if sent.search(line)]
    entered = [i for i in range(reply) if "spool.db-wal>" in lines[i] and "pwrite" in lines[i] and id in lines[i]]
    assert entered, f"{id}: its entry is not seen to reach the log before its reply"
    # SQLite syncs a commit after the last of its frames. What is written behind it (the mark that a message is settled) may wait.
    synced = [i for i in _synced(lines) if entered[0] < i < reply]
    assert synced, f"{id}: no sync between its entry's way into the log and the reply; lines {entered[0]} to {reply}"


def _synced(lines: list[str]) -> list[int]:
    """Where a sync of the log has come back, in order; one that another thread's call interrupts is shown in two pieces."""
    ends = []
    for i, line in enumerate(lines):
        found = re.match(r"(\d+)\s.*\b(?:fdatasync|fsync)\(\d+<[^>]*spool\.db-wal>(.*)", line)
        if found is None:
            continue
        if "unfinished" not in found[2]:
            ends += [i] if found[2].endswith("= 0") else []
            continue
        for j in range(i + 1, len(lines)):
            if lines[j].startswith(found[1]) and re.search(r"(?:fdatasync|fsync) resumed>", lines[j]):
                ends += [j] if lines[j].endswith("= 0") else []
                break
    return ends


@asynccontextmanager
async def _traced(pid: int, record: Path) -> AsyncIterator[None]:
    """Have the system calls of a process written down while the block lasts."""
    tracer = await asyncio.create_subprocess_exec(
        need("strace"), "-f", "-y", "-s", "65536", "-e", f"trace={CALLS}", "-p", str(pid), "-o", str(record),
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert tracer.stderr is not None
    try:
        await until(lambda: b"TracerPid:\t0" not in Path(f"/proc/{pid}/status").read_bytes(), what="strace is attached")
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        await tracer.communicate()
