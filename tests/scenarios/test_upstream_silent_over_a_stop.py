"""The relay is stopped while an answer to a final dot is awaited: what is not heard is in doubt, on record, and tried after the start."""

from __future__ import annotations

import asyncio

import pytest

from tests.smarthost_faults import World, world_of_module

pytestmark = pytest.mark.asyncio(loop_scope="module")

world = world_of_module(retry={"doubt_seconds": 3})


async def test_an_answer_that_an_smtp_worker_listens_for_stays_in_doubt(world: World) -> None:
    world.script("dot first=1 stall=forever")
    heard = await world.send()
    assert heard.reply.endswith(" Queued")
    assert await world.relay.stop() == 0
    [entry] = await world.entries()
    assert [(one.state, one.in_doubt) for one in entry.standings] == [("waiting", True)]
    await world.relay.start()
    await world.account()
    assert world.count(heard.mark) == 1
    assert len(world.told(heard.id, "in_doubt")) == 1


async def test_an_answer_that_retry_waits_for_is_put_on_record_as_in_doubt(world: World) -> None:
    await world.sink.stop()
    heard = await world.send()
    world.script("dot first=1 stall=forever")
    before = world.sink.replies[354]
    await world.sink.start()
    async with asyncio.timeout(10):
        while world.sink.replies[354] == before:
            await asyncio.sleep(0.02)
    assert await world.relay.stop() == 0
    assert len(world.told(heard.id, "in_doubt")) == 1
    await world.relay.start()
    await world.account()
    assert world.count(heard.mark) == 1


async def test_an_answer_that_comes_while_retry_is_being_stopped_still_counts(world: World) -> None:
    await world.sink.stop()
    heard = await world.send()
    world.script("dot first=1 stall=2")
    before = world.sink.replies[354]
    await world.sink.start()
    async with asyncio.timeout(10):
        while world.sink.replies[354] == before:
            await asyncio.sleep(0.02)
    assert await world.relay.stop() == 0
    assert world.count(heard.mark) == 1
    assert world.told(heard.id, "delivered")
    await world.relay.start()
    await world.account()
    assert not world.told(heard.id, "in_doubt")
