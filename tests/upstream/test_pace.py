"""So many messages a second: one instant each, over all processes that share a store, whatever becomes of the store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from relay.mail.verdict import Deferred, Delivered
from relay.store.client import Store
from relay.store.embedded import Embedded
from relay.upstream.pace import _PACE, ALONE, OverRate, Pace
from relay.upstream.route import Target
from relay.upstream.slots import Slots
from tests.upstream.conftest import MESSAGE, ONE, OpeningFleet, envelope

RATE = 100.0
TARGET = Target("Smarthost.example", 587, username="me", password="hush", max_rate=RATE)


@asynccontextmanager
async def joined(place: Path, count: int) -> AsyncIterator[list[Store]]:
    """As many clients of the store as there would be processes."""
    stores = [Store(f"unix://{place / 'data' / 'store.sock'}", timeout=0.5) for _ in range(count)]
    yield stores
    for store in stores:
        await store.close()


async def passed(pace: Pace, count: int, slots: Slots | None = None, user: str = "u", patience: float = 10.0) -> list[float]:
    """The times at which so many messages, all there at once, may go."""
    slots = slots or Slots(count)

    async def one() -> float:
        assert await pace.admit(slots, user, asyncio.get_running_loop().time() + patience)
        now = time.monotonic()
        slots.give_back()
        return now

    return sorted(await asyncio.gather(*(one() for _ in range(count))))


def most_in(window: float, times: list[float]) -> int:
    """The most of these in any window of so many seconds."""
    return max(sum(first <= other < first + window for other in times) for first in times)


async def test_the_cap_is_of_all_processes_together_and_nothing_is_lost_to_it(place: Path, store: Store) -> None:
    async with joined(place, 4) as stores:
        began = time.monotonic()
        going = asyncio.gather(*(passed(Pace(TARGET, each), 60) for each in stores))
        await asyncio.sleep(0.5)
        found = await store.command("KEYS", "*p:*")
        times = [at for each in await going for at in each]
        # 240 instants, 10 ms apart; what is left is the unpunctuality of a busy machine, and less than if every second one were lost.
        assert 2.35 < max(times) - began < 4.8
        assert most_in(1.0, times) <= RATE + 8
    assert len(found) == 1 and b"hush" not in found[0] and b"example" not in found[0]


async def test_no_two_instants_that_the_store_gives_are_closer_than_an_interval(store: Store) -> None:
    before = sum(int(part) * unit for part, unit in zip(await store.command("TIME"), (1_000_000, 1), strict=True))
    waits = await asyncio.gather(*(store.run(_PACE, "{p:x}", 1000, 10_000_000) for _ in range(500)))
    assert min(waits) >= 0
    last = int(await store.command("GET", "{p:x}"))
    assert last - before >= 500 * 1000  # the end of the five hundredth
    assert await store.run(_PACE, "{p:x}", 1000, 0) < 0  # given to nobody
    assert int(await store.command("GET", "{p:x}")) == last
    assert 0 < await store.command("PTTL", "{p:x}") < 1000


async def test_a_clock_that_was_set_back_stops_nobody(store: Store) -> None:
    ahead = (int(time.time()) + 7200) * 1_000_000
    await store.command("SET", "{p:x}", ahead)
    assert await store.run(_PACE, "{p:x}", 1000, 1000) == 0


async def test_who_could_not_wait_for_an_instant_is_told_at_once_and_takes_none(store: Store) -> None:
    pace, slots = Pace(Target("h.example", 25, max_rate=0.5), store), Slots(5)
    now = asyncio.get_running_loop().time
    assert await pace.admit(slots, "u", now() + 5)
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises(OverRate):
            await pace.admit(slots, "u", now() + 1)
        assert time.monotonic() - began < 0.9  # whoever waited would wait for a second
    assert await pace.admit(slots, "u", now() + 3)
    assert slots.free == 3


async def test_users_take_turns_at_the_rate(store: Store) -> None:
    pace, slots, order = Pace(TARGET, store), Slots(200), list[str]()

    async def one(user: str) -> None:
        assert await pace.admit(slots, user, asyncio.get_running_loop().time() + 10)
        order.append(user)

    burst = [asyncio.create_task(one("a")) for _ in range(100)]
    await asyncio.sleep(0.1)
    before = len(order)
    await asyncio.gather(*(one("b") for _ in range(3)))
    last = len(order) - 1 - order[::-1].index("b")
    assert order.index("b") - before <= 10 and last - before <= 20  # with those that have their instant already
    await asyncio.gather(*burst)


async def test_one_that_is_cancelled_leaves_place_and_line_to_the_others(store: Store) -> None:
    pace, slots = Pace(Target("h.example", 25, max_rate=20.0), store), Slots(4)
    until = asyncio.get_running_loop().time() + 10
    tasks = [asyncio.create_task(pace.admit(slots, "u", until)) for _ in range(4)]
    await asyncio.sleep(0.02)
    for task in tasks[1:3]:
        task.cancel()
    assert await tasks[0] and await tasks[3]
    assert slots.free == 2


async def test_while_the_store_is_away_each_goes_on_alone_and_slowly(place: Path, server: Embedded, store: Store) -> None:
    pace = Pace(TARGET, store)
    assert len(await passed(pace, 3)) == 3
    await server.stop()
    began = time.monotonic()
    times = await passed(pace, 5)
    assert min(b - a for a, b in pairwise(times)) > ALONE / RATE * 0.3
    assert time.monotonic() - began > 4 * ALONE / RATE
    with pytest.raises(OverRate):
        await asyncio.gather(*(pace.admit(Slots(9), "u", asyncio.get_running_loop().time() + 0.15) for _ in range(9)))
    await server.start()
    await asyncio.sleep(1.1)
    began = time.monotonic()
    assert len(await passed(pace, 20)) == 20
    assert time.monotonic() - began < 1


async def test_a_dispatch_keeps_the_rate_and_says_why_a_message_could_not_wait(open_fleet: OpeningFleet, store: Store) -> None:
    async with open_fleet(1, store=store, fields={"max_rate": 20.0, "max_connections": 50}) as fleet:
        began = time.monotonic()
        verdicts = await asyncio.gather(*(fleet.verdict(deadline=0.5) for _ in range(40)))
        assert time.monotonic() - began < 0.8
        delivered = sum(isinstance(verdict, Delivered) for verdict in verdicts)
        assert 5 <= delivered <= 11 and delivered == fleet.answered()[0]
        late = {verdict for verdict in verdicts if not isinstance(verdict, Delivered)}
        assert all(isinstance(verdict, Deferred) and verdict.unreached for verdict in late)
        assert {verdict.reply.text for verdict in late} == {"The sending rate of the smarthost is reached"}


async def test_what_one_may_not_send_yet_an_equal_may(open_fleet: OpeningFleet, store: Store) -> None:
    async with open_fleet(2, store=store, fields={"max_rate": 20.0, "max_connections": 50}) as fleet:
        verdicts = await asyncio.gather(*(fleet.verdict() for _ in range(20)))
        assert all(isinstance(verdict, Delivered) for verdict in verdicts)
        assert min(fleet.answered()) >= 5


async def test_two_dispatches_on_one_store_keep_it_together(open_fleet: OpeningFleet, place: Path, store: Store) -> None:
    async with joined(place, 1) as (other,), open_fleet(1, store=store, fields={"max_rate": 50.0, "max_connections": 50}) as fleet:
        async with open_fleet(1, store=other) as second:
            began = time.monotonic()
            attempts = await asyncio.gather(
                *(one.dispatch.forward(fleet.route, "u", envelope(), MESSAGE, fleet.terms()) for one in (fleet, second) for _ in range(25))
            )
        assert all(isinstance(attempt.verdicts[ONE], Delivered) for attempt in attempts)
        assert time.monotonic() - began > 0.95  # how much later the last goes is the machine's affair
