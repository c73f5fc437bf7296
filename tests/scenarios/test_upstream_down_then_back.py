"""The smarthost is down: mail is taken at once and spooled, and goes out, once, when the smarthost is back."""

from __future__ import annotations

import asyncio

import pytest

from relay.loadkit.sink import Sink
from tests.smarthost_faults import World, world_of_module

pytestmark = pytest.mark.asyncio(loop_scope="module")
MANY = 40

world = world_of_module()


async def test_a_message_is_taken_at_once_and_delivered_when_the_smarthost_is_back(world: World) -> None:
    await world.sink.stop()
    heard = await world.send()
    assert heard.reply == f"250 2.0.0 {heard.id} Queued"
    assert heard.seconds < 1
    assert world.told(heard.id, "taken")[0]["spooled"] == ["to@example.net"]
    assert await world.charged() == 1
    await world.sink.start()
    await world.await_told(heard.id, "delivered")
    assert world.count(heard.mark) == 1
    await world.account()
    assert await world.charged() == 1


async def test_new_mail_goes_straight_through_once_the_smarthost_is_back(world: World) -> None:
    await world.sink.stop()
    first = await world.send()
    await world.sink.start()
    await world.await_told(first.id, "delivered")
    second = await world.send()
    assert second.reply.startswith("250 2.0.0 ")
    assert "Queued" not in second.reply
    assert [world.count(one.mark) for one in (first, second)] == [1, 1]
    await world.account()


async def test_what_is_spooled_outlives_its_relay(world: World) -> None:
    await world.sink.stop()
    heard = await world.send()
    assert await world.relay.stop() == 0
    await world.relay.start()
    await world.sink.start()
    await world.await_told(heard.id, "delivered")
    await world.account()
    assert world.count(heard.mark) == 1


async def test_many_messages_meet_a_smarthost_that_is_back_with_one_session_first(world: World) -> None:
    await world.sink.stop()
    heard = await asyncio.gather(*(world.send() for _ in range(MANY)))
    assert all(one.reply.endswith(" Queued") for one in heard)
    world.script("dot first=1 stall=0.7", "dot stall=0.1")
    before, deferred = world.sink.intake.answered, len(world.relay.events("deferred"))
    await world.relay.await_event("deferred", after=deferred)  # what retry has not noticed it cannot be careful about
    await world.sink.start()
    assert await _most_sessions_until(world.sink, before + 1) == 1
    assert 1 < await _most_sessions_until(world.sink, before + MANY) <= 10  # retry.max_connections
    await world.account()
    assert [world.count(one.mark) for one in heard] == [1] * MANY


async def _most_sessions_until(sink: Sink, answered: int) -> int:
    """The most sessions that were open at once until the smarthost had taken so many messages."""
    most = 0
    async with asyncio.timeout(15):
        while sink.intake.answered < answered:
            most = max(most, len(sink.conversations))
            await asyncio.sleep(0.005)
    return most
