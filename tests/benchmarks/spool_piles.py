"""What it costs to find what is due among many piles: python -m tests.benchmarks.spool_piles [--entries N] [--owners N ...] [--folder F]

One process. A line for each number of owners among whom the entries are spread, each with a pile of his own: puts a second, CPU of a put,
then the median of five in ms: all piles, what is due in ten of them, what is due in all, what has expired in one of them, and how long 250
entries take to be sorted into another pile. Asked for: a pile that is passed over costs nothing, however high it is.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import uvloop

from relay.spool.entry import Entry
from relay.spool.spool import Spool
from tests.benchmarks.spool_rate import Meter, entries_from, put

SORTED = 250
TASKS = 256


def spread(entries: Iterator[Entry], owners: int) -> Iterator[Entry]:
    """The entries, of one owner after the other."""
    for number, entry in enumerate(entries):
        name = f"{number * 7919 % owners:06}"
        yield replace(entry, owner=f"owner{name}", route=f"route{name}")


async def median(call: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds of a call."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        await call()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


async def measure(folder: Path, count: int, owners: int) -> None:
    """Fill a spool and ask it."""
    spool = Spool(folder / f"{owners}.db", "bench", 0)
    filling = Meter()
    with filling.running():
        await put(spool, spread(entries_from(spool.now, "ABCDEFGH"), owners), count, TASKS)
    piles = list(await spool.piles())
    some = dict.fromkeys(piles[:10], 3)
    far = spool.now() + 3600
    seqs = [seq for pile in piles[:SORTED] for seq in (await spool.seqs_of(pile.owner))[:SORTED]][:SORTED]
    found = [
        await median(spool.piles), await median(lambda: spool.due_in(far, some)), await median(lambda: spool.due(far, 30)),
        await median(lambda: spool.expiring(far, 200, piles[-1:])),
    ]  # fmt: skip
    began = time.perf_counter()
    await spool.sort(seqs, lambda domain: "another")
    found.append((time.perf_counter() - began) * 1000)
    print(f"{owners:>10}{filling.line(count)}" + "".join(f"{each:>10.2f}" for each in found), flush=True)
    await spool.close()


async def measure_all(folder: Path, count: int, levels: list[int]) -> None:
    """Print the table."""
    print(f"{'owners':>10}{'puts/s':>10}{'µs CPU':>10}{'piles':>10}{'due in 10':>10}{'due':>10}{'expiring':>10}{'sort':>10}")
    for owners in levels:
        await measure(folder, count, owners)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=20_000)
    parser.add_argument("--owners", type=int, nargs="*", default=[1, 100, 10_000])
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-", dir=options.folder) as folder:
        uvloop.run(measure_all(Path(folder), options.entries, options.owners))


if __name__ == "__main__":
    main()
