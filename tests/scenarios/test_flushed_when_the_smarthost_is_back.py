"""The smarthost is back long before the relay would try it again: what an operator flushes or retries is tried at once, and only once."""

from __future__ import annotations

import asyncio

import pytest

from relay.upstream.breaker import SPACING
from tests.smarthost_faults import World, world_of_module

pytestmark = pytest.mark.asyncio(loop_scope="module")
MANY = 20

world = world_of_module(upstream={"down_seconds": 600})
"""So long it is left alone once it is known to be down; whoever waits that long here has failed."""


async def known_to_be_down(world: World, many: int) -> list[str]:
    """Mail that waits for a smarthost which the retry process, too, knows to be away."""
    await world.sink.stop()
    world.hang_up()
    deferred = len(world.relay.events("deferred"))
    heard = await asyncio.gather(*(world.send() for _ in range(many)))
    assert all(one.reply.endswith(" Queued") for one in heard)
    await world.relay.await_event("deferred", after=deferred)
    await asyncio.sleep(SPACING)
    return [one.id for one in heard]


async def test_a_flush_at_the_shell_delivers_at_once(world: World) -> None:
    await known_to_be_down(world, MANY)
    await world.sink.start()
    assert not world.sink.conversations
    await world.relay.cli("queue", "flush")
    await world.account()


async def test_a_retry_at_the_shell_too(world: World) -> None:
    [first, *_] = await known_to_be_down(world, 3)
    await world.sink.start()
    await world.relay.cli("queue", "retry", first)
    await world.account()


async def test_flushes_while_it_is_still_away_are_one_probe_each_and_no_storm(world: World) -> None:
    await known_to_be_down(world, MANY)
    world.script("connect reply='421 4.3.2 closed'")
    await world.sink.start()
    before = world.sink.intake.connections
    async with world.spool() as spool:
        await asyncio.gather(*(spool.flush() for _ in range(10)))
    await asyncio.sleep(3 * SPACING)
    assert 1 <= world.sink.intake.connections - before <= 2  # two, if it looked while they were made
    world.script()
    await world.relay.cli("queue", "flush")
    await world.account()
