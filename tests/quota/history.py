"""A user with a past: sends, refunds, rejections, holds open and lapsed, and records of which the oldest are no longer kept."""

from __future__ import annotations

import asyncio

from relay.quota.ledger import Hold, Ledger, key
from relay.quota.limit import Rules
from relay.store.client import Store

CLOCK = "local function clock() return tonumber(redis.call('GET', KEYS[1] .. ':clock')) end\n"
START = 1_800_000_000
LENGTH = 30
"""Seconds of it."""
USER = "ada"
QUIET = LENGTH - 7
"""The second in which nothing was sent."""

_lived: dict[int, list[tuple[bytes, bytes]]] = {}


async def live(store: Store, records: int) -> Ledger:
    """Live through it; the window is 10 s, and about as many records as said are kept."""
    ledger = Ledger(store, Rules(window=10, lease=4.0, records=records), CLOCK)
    if records not in _lived:
        await _live(store, ledger)
        names = await store.command("KEYS", f"{key(USER)}*")
        _lived[records] = list(zip(names, await store.many([("DUMP", name) for name in names]), strict=True))
    await store.many([("RESTORE", name, 0, value, "REPLACE") for name, value in _lived[records]])
    return ledger


async def _live(store: Store, ledger: Ledger) -> None:
    await store.command("CONFIG", "SET", "stream-node-max-entries", 4)  # so that the store trims them closely
    await store.command("HSET", key(USER), "status", "E", "ostatus", "E", "gen", 1, "hourly", 1000, "total", 100_000)
    for second in range(LENGTH + 1):
        await set_clock(store, second)
        if second % 3 == 0:
            await send_together(ledger, f"s{second}.0", f"s{second}.1")
        elif second != QUIET:
            await send(ledger, f"s{second}.0", 3, 2, 0)
            await send(ledger, f"s{second}.1", 3, 3, 0)
        if second % 2:
            await send(ledger, f"r{second}", 2, 0, 2)
        if second % 5 == 0:
            await send(ledger, f"f{second}", 1, 0, 0)
        if second == LENGTH - 5:
            await hold(ledger, "lapsed1", 1)
            await hold(ledger, "lapsed2", 2)
    await hold(ledger, "open1", 1)
    await hold(ledger, "open2", 5)


async def set_clock(store: Store, second: float) -> None:
    """Let it be this second of the history."""
    await store.command("SET", f"{key(USER)}:clock", int((START + second) * 1_000_000) + 250_000)


async def hold(ledger: Ledger, id: str, units: int) -> None:
    """Reserve."""
    assert isinstance(await ledger.reserve(USER, id, units, 1), Hold)


async def send_together(ledger: Ledger, one: str, other: str) -> None:
    """Send two messages that are settled by one call: with what is asked first, nobody waits for company."""
    await hold(ledger, one, 3)
    await hold(ledger, other, 3)
    settled = await asyncio.gather(ledger.settle(USER, "", 1, 0), ledger.settle(USER, one, 3, 2), ledger.settle(USER, other, 3, 3))
    assert [settlement.outcome for settlement in settled] == ["done", "ok", "ok"]


async def send(ledger: Ledger, id: str, units: int, accepted: int, rejected: int) -> None:
    """Reserve and settle."""
    await hold(ledger, id, units)
    assert (await ledger.settle(USER, id, units, accepted, rejected)).outcome == "ok"
