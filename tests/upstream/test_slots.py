"""Places are shared: users take turns, and nobody loses or gains one by giving up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from random import Random

import pytest

from relay.upstream.slots import Slots


class Queue:
    """Those who wait for places, and the order in which they got them."""

    def __init__(self, count: int = 1) -> None:
        self.slots = Slots(count)
        self.served: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        for _ in range(count):
            assert self.slots.take_now()

    async def line_up(self, names: Iterable[str]) -> None:
        """Let these wait, each named user and number."""
        for name in names:
            self.tasks[name] = asyncio.create_task(self._wait(name))
        await asyncio.sleep(0)

    async def _wait(self, name: str) -> None:
        if await self.slots.wait(name[0]):
            self.served.append(name)

    async def give(self, count: int) -> None:
        """Give places back, one at a time."""
        for _ in range(count):
            self.slots.give_back()
            await asyncio.sleep(0)


async def test_one_users_thousand_delay_anothers_first_by_one_turn() -> None:
    queue = Queue()
    await queue.line_up([f"a{number}" for number in range(1000)])
    await queue.give(3)
    await queue.line_up(["b0"])
    await queue.give(2)
    assert queue.served == ["a0", "a1", "a2", "a3", "b0"]
    await queue.give(996)
    assert queue.served[5:] == [f"a{number}" for number in range(4, 1000)]


async def test_users_take_turns_and_each_is_served_in_order() -> None:
    queue = Queue()
    await queue.line_up(["a0", "a1", "a2", "b0", "b1", "c0"])
    await queue.give(6)
    assert queue.served == ["a0", "b0", "c0", "a1", "b1", "a2"]
    assert not queue.slots.take_now()
    await queue.give(1)
    assert queue.slots.take_now()


async def test_who_gave_up_costs_nobody_a_turn() -> None:
    queue = Queue()
    await queue.line_up(["a0", "a1", "b0", "c0", "a2"])
    for name in ("a0", "b0"):
        queue.tasks[name].cancel()
    await asyncio.sleep(0)
    await queue.give(3)
    assert queue.served == ["a1", "c0", "a2"]
    await queue.give(1)
    assert queue.slots.free == 1


async def test_who_is_cancelled_with_a_place_passes_it_on() -> None:
    queue = Queue()
    await queue.line_up(["a0", "b0"])
    queue.slots.give_back()
    queue.tasks["a0"].cancel()  # before it could run
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert queue.served == ["b0"] and queue.slots.free == 0


async def test_all_who_wait_can_be_sent_away() -> None:
    queue = Queue(2)
    await queue.line_up(["a0", "a1", "b0"])
    queue.slots.send_away()
    await asyncio.gather(*queue.tasks.values())
    assert queue.served == [] and queue.slots.free == 0
    await queue.give(2)
    assert queue.slots.free == 2


@pytest.mark.parametrize("seed", range(5))
async def test_places_are_neither_lost_nor_made(seed: int) -> None:
    dice, slots, most, now = Random(seed), Slots(3), 0, 0

    async def one(user: str) -> None:
        nonlocal most, now
        if not slots.take_now() and not await slots.wait(user):
            return
        now += 1
        most = max(most, now)
        try:
            await asyncio.sleep(dice.random() * 0.002)
        finally:
            now -= 1
            slots.give_back()

    tasks = [asyncio.create_task(one(dice.choice("abc"))) for _ in range(300)]
    for _ in range(100):
        await asyncio.sleep(0.0005)
        dice.choice(tasks).cancel()
        if dice.random() < 0.05:
            slots.send_away()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (most, now, slots.free) == (3, 0, 3)
