"""The spool under the whole relay: python -m tests.benchmarks.spool_path [--depths 1000 100000 1000000] [--drain 100000] [--folder F]

First with the smarthost dead: a relay as shipped, 20 connections, 2 KB messages, all into the spool; load, store and fsyncs included. One
line for each depth: what the spool held before, messages a second, p50 and p99 of the reply to the final dot, and the same rate into a
spool of a thousand measured in turns, with the ratio. Asked for: 1,000 messages a second, and at a million entries 85 % of that.

Then with the smarthost alive and `--drain` entries due: the p99 of new mail at a fixed rate, before and while they drain. Asked for:
within twice. A million entries take some 4 GB of disk, given back at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import uvloop

from relay.loadkit.generator import Load
from relay.mail.envelope import Envelope, Recipient
from relay.spool.entry import Entry, Standing
from relay.spool.spool import Spool
from tests.running import Relay, User, free_port, running
from tests.sink_process import SinkProcess

SIZE = 2048
UNLIMITED = 10**8
ROUNDS = 5
AT_ONCE = 500
"""Entries that are put side by side."""


async def fill(relay: Relay, user: User, count: int, due_in: float) -> None:
    """Put so many entries into the relay's spool, as its workers would."""
    spool = Spool(relay.folder / "data" / "spool.db", "", 0)
    name = f"fill{int(time.time())}"
    wire = b"Subject: filled\r\n\r\n" + (b"x" * 76 + b"\r\n") * (SIZE // 78)
    recipient = Recipient("to@load.example")
    envelope = Envelope("app@load.example", (recipient,))
    try:
        for start in range(0, count, AT_ONCE):
            now = spool.now()
            puts = []
            for number in range(start, min(start + AT_ONCE, count)):
                entry = Entry(
                    f"{name}.{number}", user.name, relay.owner, envelope, (Standing(recipient),), now, now + due_in, units=1, accepted=1,
                    is_settled=True, attempts=1, size=len(wire),
                )  # fmt: skip
                puts.append(spool.put(entry, b"", wire))
            await asyncio.gather(*puts)
    finally:
        await spool.close()


async def load(relay: Relay, user: User, messages: int, rate: float | None = None) -> tuple[float, float, float]:
    """Send so many; messages a second, p50 and p99 of dot to reply in ms. Raises AssertionError if any was not taken."""
    run = Load("127.0.0.1", relay.smtp, ((user.name, user.password),), connections=20, messages=messages, size=SIZE, rate=rate)
    attempts = await run.run()
    assert all(one.is_taken for one in attempts), [one.text for one in attempts if not one.is_taken][:3]
    waits = sorted((one.replied - one.dot_sent) * 1000 for one in attempts)
    return len(attempts) / run.seconds, statistics.median(waits), waits[int(len(waits) * 0.99)]


async def dead_smarthost(folder: Path, depths: list[int], messages: int) -> None:
    """The rate into the spool at each depth, in turns with a relay whose spool is small: so the noise of the machine is in both."""
    print(f"{'depth':>10}{'msg/s':>10}{'p50 ms':>10}{'p99 ms':>10}{'small':>10}{'ratio':>10}", flush=True)
    async with running(folder / "deep", free_port(), workers=2) as deep:
        user = await deep.add_user(UNLIMITED, UNLIMITED)
        await load(deep, user, messages // 2)
        for depth in depths:
            await fill(deep, user, max(0, depth - await count_of(deep)), due_in=36_000.0)
            async with running(folder / f"small{depth}", free_port(), workers=2) as small:
                other = await small.add_user(UNLIMITED, UNLIMITED)
                await load(small, other, 1000)
                rounds = [(await load(deep, user, messages), await load(small, other, messages)) for _ in range(ROUNDS)]
            rate, p50, p99 = sorted(one for one, _ in rounds)[ROUNDS // 2]
            ratio = statistics.median(one[0] / another[0] for one, another in rounds)
            reference = statistics.median(another[0] for _, another in rounds)
            print(f"{depth:>10}{rate:>10.0f}{p50:>10.1f}{p99:>10.1f}{reference:>10.0f}{ratio:>10.2f}", flush=True)


async def count_of(relay: Relay) -> int:
    """What the spool holds."""
    spool = Spool(relay.folder / "data" / "spool.db", "", 0)
    try:
        counts = await spool.counts()
        return counts.waiting + counts.claimed + counts.held
    finally:
        await spool.close()


async def draining(folder: Path, depth: int, rate: float) -> None:
    """The p99 of new mail at a fixed rate, at rest and while so many entries drain."""
    sink = SinkProcess(folder)
    await sink.start()
    try:
        async with running(folder, sink.port, workers=2) as relay:
            user = await relay.add_user(UNLIMITED, UNLIMITED)
            count = int(rate * 10)
            await load(relay, user, count, rate)
            _, p50, p99 = await load(relay, user, count, rate)
            print(f"\nat rest, {rate:g}/s: p50 {p50:.1f} ms, p99 {p99:.1f} ms", flush=True)
            await fill(relay, user, depth, due_in=0.0)
            began, before = time.monotonic(), await count_of(relay)
            found: list[tuple[float, float, float]] = []
            while (left := await count_of(relay)) > 0:
                if left > depth // 10 or not found:
                    found.append(await load(relay, user, count, rate))
                    print(f"draining, {left} left: p50 {found[-1][1]:.1f} ms, p99 {found[-1][2]:.1f} ms", flush=True)
                await asyncio.sleep(0.2)
            pace = before / (time.monotonic() - began)
            worst = statistics.median(p for _, _, p in found)
            print(f"drained at {pace:.0f}/s; p99 while draining, median of {len(found)}: {worst:.1f} ms, {worst / p99:.2f} of that at rest")
    finally:
        await sink.end()


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--drain", type=int, default=10_000)
    parser.add_argument("--messages", type=int, default=4000)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="relay-", dir=given.folder))
    try:
        if given.depths:
            uvloop.run(dead_smarthost(folder / "a", given.depths, given.messages))
        if given.drain:
            uvloop.run(draining(folder / "b", given.drain, given.rate))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
