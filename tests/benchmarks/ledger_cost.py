"""What a call of the ledger costs the store, in µs of its CPU: python -m tests.benchmarks.ledger_cost [calls]

The figures are the server's own (INFO commandstats, usec of EVALSHA); no client's time is in them. What is asked of the ledger: a
refusal costs at most twice an acceptance (reserve and settle), however long the log is and however far the limit was lowered.
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


async def cost(store: Store, calls: int, one: Callable[[int], Awaitable[None]]) -> float:
    """µs of the store's script time for one of `calls`."""
    await one(0)  # the scripts are known from here on
    await store.command("CONFIG", "RESETSTAT")
    for number in range(1, calls + 1):
        await one(number)
    found = re.search(rb"cmdstat_evalsha:calls=\d+,usec=(\d+)", await store.command("INFO", "commandstats"))
    assert found is not None
    return int(found[1]) / calls


async def measure(store: Store, calls: int) -> dict[str, float]:
    """Measure each case; the clock stands still, so that nothing leaves the logs."""
    ledger = Ledger(store, Rules(), CLOCK)
    await store.command("SET", "{clock}", START * 1_000_000)

    def accept(name: str) -> Callable[[int], Awaitable[None]]:
        async def one(number: int) -> None:
            assert isinstance(await ledger.reserve(name, str(number), 1, 1), Hold)
            assert (await ledger.settle(name, str(number), 1, 1)).outcome == "ok"

        return one

    def refuse(name: str) -> Callable[[int], Awaitable[None]]:
        async def one(number: int) -> None:
            assert isinstance(await ledger.reserve(name, str(number), 1, 1), Refusal)

        return one

    await create(store, "empty", 1_000_000, 0)
    await create(store, "full", 1_000_000, FULL)
    await create(store, "refused", FULL, FULL)
    await create(store, "lowered", 10, FULL)
    return {
        "acceptance, empty log": await cost(store, calls, accept("empty")),
        f"acceptance, {FULL} entries": await cost(store, calls, accept("full")),
        f"refusal, {FULL} entries": await cost(store, calls, refuse("refused")),
        f"refusal, limit lowered to 10 over {FULL} entries": await cost(store, calls, refuse("lowered")),
    }


async def run(calls: int) -> dict[str, float]:
    """Measure on a new store."""
    with tempfile.TemporaryDirectory(prefix="relay-") as folder:
        async with opened(Path(folder)) as store:
            return await measure(store, calls)


def main() -> None:
    """Print the table."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    figures = asyncio.run(run(calls))
    acceptance = min(value for name, value in figures.items() if name.startswith("acceptance"))
    print(f"{'store CPU, µs a call':<50}{'µs':>8}{'of an acceptance':>20}")
    for name, value in figures.items():
        print(f"{name:<50}{value:>8.1f}{value / acceptance:>20.2f}")


if __name__ == "__main__":
    main()
