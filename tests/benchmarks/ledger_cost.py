"""What a call of the ledger costs the store, in µs of its CPU: python -m tests.benchmarks.ledger_cost [calls]

The figures are the server's own (INFO commandstats, usec of EVALSHA); no client's time is in them. Each is the least of several rounds
in turn, so that whatever else the machine does meanwhile is not measured. What is asked of the ledger: a refusal costs at most twice an
acceptance (reserve and settle), however long the log is and however far the limit was lowered; keeping a record of a settle costs at most
15 % of an acceptance.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from relay.quota.ledger import Hold, Ledger, Refusal, key
from relay.quota.limit import Rules
from relay.store.client import Script, Store
from relay.store.embedded import Embedded

FULL = 3600
ROUNDS = 10
CROWD = 20
TOGETHER = f"acceptance, {CROWD} at once"
START = 1_800_000_000
CLOCK = "local function clock() return tonumber(redis.call('GET', '{clock}')) end\n"
FILL = Script.of("""
local first, n = tonumber(ARGV[1]), tonumber(ARGV[2])
for i = 1, n do redis.call('ZADD', KEYS[1] .. ':log', i, string.format('%.0f', first + i)) end
redis.call('HSET', KEYS[1], 'taken', n, 'gone', 0, 'last', string.format('%.0f', (first + n) * 1000000))
""")


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Store]:
    """A store of its own, without the disk: its writes are not what is measured."""
    embedded = Embedded(folder, None, "256mb", lambda name, text: None)
    store = Store(await embedded.start())
    await store.command("CONFIG", "SET", "appendfsync", "no")
    try:
        yield store
    finally:
        await store.close()
        await embedded.stop()


async def create(store: Store, name: str, hourly: int, entries: int) -> None:
    """Make a user whose log has this many entries, one a second up to now."""
    await store.command("HSET", key(name), "status", "E", "ostatus", "E", "gen", 1, "hourly", hourly, "total", "")
    if entries:
        await store.run(FILL, key(name), START - entries, entries)


async def cost(store: Store, first: int, calls: int, one: Callable[[int], Awaitable[None]]) -> float:
    """µs of the store's script time for one of `calls`, which are numbered from `first`."""
    await one(first)  # the scripts are known from here on
    await store.command("CONFIG", "RESETSTAT")
    for number in range(first + 1, first + calls + 1):
        await one(number)
    found = re.search(rb"cmdstat_evalsha:calls=\d+,usec=(\d+)", await store.command("INFO", "commandstats"))
    assert found is not None
    return int(found[1]) / calls


async def measure(store: Store, calls: int) -> dict[str, float]:
    """Measure each case; the clock stands still, so that nothing leaves the logs."""
    ledger, forgetful = Ledger(store, Rules(), CLOCK), Ledger(store, Rules(records=0), CLOCK)
    await store.command("SET", "{clock}", START * 1_000_000)

    def accept(name: str, ledger: Ledger = ledger) -> Callable[[int], Awaitable[None]]:
        async def one(number: int) -> None:
            assert isinstance(await ledger.reserve(name, str(number), 1, 1), Hold)
            assert (await ledger.settle(name, str(number), 1, 1)).outcome == "ok"

        return one

    async def accept_together(number: int) -> None:
        one = accept("crowd")
        await asyncio.gather(*(one(number * CROWD + each) for each in range(CROWD)))

    def refuse(name: str) -> Callable[[int], Awaitable[None]]:
        async def one(number: int) -> None:
            assert isinstance(await ledger.reserve(name, str(number), 1, 1), Refusal)

        return one

    await create(store, "empty", 1_000_000, 0)
    await create(store, "crowd", 1_000_000, 0)
    await create(store, "full", 1_000_000, FULL)
    await create(store, "bare", 1_000_000, FULL)
    await create(store, "refused", FULL, FULL)
    await create(store, "lowered", 10, FULL)
    cases = {
        "acceptance, empty log": accept("empty"),
        TOGETHER: accept_together,
        f"acceptance, {FULL} entries": accept("full"),
        f"acceptance, {FULL} entries, no records kept": accept("bare", forgetful),
        f"refusal, {FULL} entries": refuse("refused"),
        f"refusal, limit lowered to 10 over {FULL} entries": refuse("lowered"),
    }
    found: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(ROUNDS):
        for name, one in cases.items():
            found[name].append(await cost(store, turn * (calls + 1), calls // ROUNDS, one))
    return {name: min(figures) / (CROWD if name == TOGETHER else 1) for name, figures in found.items()}


async def run(calls: int) -> dict[str, float]:
    """Measure on a new store."""
    with tempfile.TemporaryDirectory(prefix="relay-") as folder:
        async with opened(Path(folder)) as store:
            return await measure(store, calls)


def main() -> None:
    """Print the table."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    figures = asyncio.run(run(calls))
    acceptance = figures["acceptance, empty log"]
    print(f"{'store CPU, µs a call':<50}{'µs':>8}{'of an acceptance':>20}")
    for name, value in figures.items():
        print(f"{name:<50}{value:>8.1f}{value / acceptance:>20.2f}")


if __name__ == "__main__":
    main()
