"""How fast the spool takes messages, and gives them back: python -m tests.benchmarks.spool_rate [entries ...] [--folder F] [--tasks N]

One process, 2 KB messages from concurrent tasks, real fsyncs. A line for each fill level given (1000 100000 1000000, say): puts measured
when the spool has that many entries, in turns with a small one; CPU is the whole process's, in µs of a put. Then a drain: claim some,
finish each as delivered, as the retry process does. Rates depend on the disk; what is asked of is the curve: at a million entries no
slower than 85 % of the rate at a thousand. A million entries take 3.3 GB of disk, given back at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import uvloop

from relay.mail.envelope import Envelope, Recipient
from relay.spool.entry import Entry, Standing
from relay.spool.spool import Spool

OCTETS = 2048
MEASURED = 40_000
"""Puts of one measurement."""
TURNS = 40
SMALL = 1000
"""Entries of the spool that each level is compared with."""


class Meter:
    """Rate and CPU of a stretch of work."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.cpu = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure what is done inside."""
        start, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds += time.perf_counter() - start
        self.cpu += time.process_time() - cpu

    def line(self, count: int) -> str:
        """Things a second, and µs of CPU each."""
        return f"{count / self.seconds:>10.0f}{self.cpu / count * 1e6:>10.1f}"


def entries_from(now: Callable[[], float], prefix: str) -> Iterator[Entry]:
    """New entries, as a session would make them: due after a first wait with jitter."""
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    for number in itertools.count():
        serial, rest = "", number
        while rest or not serial:
            rest, digit = divmod(rest, 36)
            serial = digits[digit] + serial
        recipient = Recipient(f"recipient{number}@example.org")
        yield Entry(
            prefix + serial, "user-of-owner", "owner", Envelope("sender@example.com", (recipient,)),
            (Standing(recipient, reply="451 4.4.1 The smarthost cannot be reached"),), now(), now() + random.uniform(60, 120), 1, 1,
            is_settled=True, size=OCTETS,
        )  # fmt: skip


async def put(spool: Spool, entries: Iterator[Entry], count: int, tasks: int) -> list[float]:
    """Put so many from concurrent tasks; returns what each had to wait, in s."""
    wire = os.urandom(OCTETS // 2).hex().encode()
    prefix = b"Received: from client.example.com by relay.example.com with ESMTPSA; Sat, 21 Nov 2026 10:00:00 +0000\r\n" * 2
    left = iter(range(count))
    waits: list[float] = []

    async def one_after_another() -> None:
        for _ in left:
            start = time.perf_counter()
            await spool.put(next(entries), prefix, wire)
            waits.append(time.perf_counter() - start)

    await asyncio.gather(*(one_after_another() for _ in range(tasks)))
    return waits


async def drain(spool: Spool, count: int, tasks: int) -> int:
    """Claim and finish so many; returns how many it were."""
    done = 0

    async def finish(entry: Entry) -> None:
        await spool.content(entry.id)
        standings = [replace(standing, state="delivered", reply="250 2.0.0 Ok") for standing in entry.standings]
        assert await spool.finish(entry.id, standings, None, attempts=1)

    while done < count:
        found = await spool.due(float("inf"), min(tasks, count - done))
        if not found:
            break
        claimed = await spool.claim([entry.id for entry in found], 60.0, spool.now() + 600)
        await asyncio.gather(*map(finish, claimed))
        done += len(claimed)
    return done


def quantile(values: list[float], share: float) -> float:
    """The value below which that share lies."""
    return sorted(values)[int(share * (len(values) - 1))]


async def compare(spool: Spool, entries: Iterator[Entry], small: Path, tasks: int) -> tuple[Meter, Meter, list[float]]:
    """Measure puts into a spool, in turns with a small one: what else the machine does meets both alike."""
    other = Spool(small, "small", 0)
    others = entries_from(other.now, "HGFEDCBA")
    await put(other, others, SMALL, tasks)
    os.sync()  # what filled it is not to be written out at the expense of what is measured
    meter, reference, waits = Meter(), Meter(), []
    for _ in range(TURNS):
        with meter.running():
            waits += await put(spool, entries, MEASURED // TURNS, tasks)
        with reference.running():
            await put(other, others, MEASURED // TURNS, tasks)
    await other.close()
    return meter, reference, waits


async def measure(folder: Path, levels: list[int], tasks: int, drained: int) -> None:
    """Fill to each level, measure there, then drain."""
    path = folder / "spool.db"
    spool = Spool(path, "bench", 0)
    entries = entries_from(spool.now, "ABCDEFGH")
    there = 0
    print(f"{'entries':>10}{'puts/s':>10}{'µs CPU':>10}{'p50 ms':>10}{'p99 ms':>10}{'MB':>10}{f'of {SMALL}':>10}")
    for level in levels:
        await put(spool, entries, max(0, level - there), 256)
        there = max(there, level)
        size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        meter, small, waits = await compare(spool, entries, folder / f"small{level}.db", tasks)
        p50, p99 = quantile(waits, 0.5) * 1000, quantile(waits, 0.99) * 1000
        print(f"{there:>10}{meter.line(MEASURED)}{p50:>10.2f}{p99:>10.2f}{size:>10.0f}{small.seconds / meter.seconds:>10.0%}", flush=True)
        there += MEASURED
    meter = Meter()
    with meter.running():
        counts = await spool.counts()
    print(f"counts: {meter.seconds * 1000:.1f} ms ({counts.waiting} waiting)")
    meter = Meter()
    with meter.running():
        done = await drain(spool, drained or there, tasks)
    print(f"{'drained':>10}{'/s':>10}{'µs CPU':>10}\n{done:>10}{meter.line(done)}", flush=True)
    await asyncio.sleep(5)
    print(f"{path.stat().st_size / 1e6:.0f} MB are left after 5 s")
    await spool.close()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("entries", type=int, nargs="*", default=[1000, 20_000])
    parser.add_argument("--folder", type=Path, default=None, help="where the disk is that is to be measured")
    parser.add_argument("--tasks", type=int, default=30)
    parser.add_argument("--drain", type=int, default=0, help="drain so many only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-", dir=options.folder) as folder:
        uvloop.run(measure(Path(folder), options.entries, options.tasks, options.drain))


if __name__ == "__main__":
    main()
