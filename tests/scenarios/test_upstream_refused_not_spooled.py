"""The smarthost fails and upstream.when_unavailable is "refuse": the client keeps its message, all of it, and nothing is spooled."""

from __future__ import annotations

import asyncio

import pytest

from tests.smarthost_faults import DEADLINE, SLACK, STAGES, World, world_of_module

pytestmark = pytest.mark.asyncio(loop_scope="module")
THREE = ("one@example.net", "two@example.net", "three@example.net")

world = world_of_module(upstream={"when_unavailable": "refuse"})


async def _refused(world: World, reply: str, *recipients: str, rule: str = "") -> None:
    """Send one message to a smarthost that is well until then, and see that nothing comes of it."""
    await _until_served(world)
    charged, answered = await world.charged(), len(world.answered)
    if rule:
        world.hang_up()
        world.script(*rule.splitlines())
    else:
        await world.sink.stop()
    heard = await world.send(*recipients)
    assert heard.reply.startswith(reply)
    assert heard.seconds < DEADLINE + SLACK
    assert await world.entries() == []
    await world.account()
    assert (await world.charged(), len(world.answered)) == (charged, answered)


async def _until_served(world: World) -> None:
    """Until the relay no longer takes the smarthost for down, which every failure to connect prolongs."""
    world.script()
    async with asyncio.timeout(15):
        while not (await world.send()).reply.startswith("250 "):
            await asyncio.sleep(0.1)


async def test_a_smarthost_that_is_down_is_451(world: World) -> None:
    await _refused(world, "451 4.4.1 ")
    await world.sink.start()


@pytest.mark.parametrize("stage", STAGES)
async def test_a_smarthost_that_defers_is_451(world: World, stage: str) -> None:
    is_session = stage in ("connect", "ehlo")
    await _refused(world, "451 4.4.1 " if is_session else "451 4.2.0 ", rule=f'{stage} reply="450 4.2.0 not now"')


@pytest.mark.parametrize("stage", STAGES)
async def test_a_smarthost_that_falls_silent_is_451_at_the_deadline(world: World, stage: str) -> None:
    await _refused(world, "451 4.4.1 " if stage in ("connect", "ehlo") else "451 4.4.2 ", rule=f"{stage} stall=forever")


async def test_a_lost_answer_is_451_and_on_record_as_a_doubt(world: World) -> None:
    await _refused(world, "451 4.4.2 ", rule="dot drop")
    assert [event["outcome"] for event in world.relay.events("rejected")][-1] == "in_doubt"


async def test_one_of_three_refused_refuses_the_message(world: World) -> None:
    await _refused(world, "550 5.1.1 upstream said: no such user", *THREE, rule='rcpt match=two* reply="550 5.1.1 no such user"')


async def test_one_of_three_deferred_defers_the_message(world: World) -> None:
    rule = 'rcpt match=two* reply="450 4.2.0 busy"\nrcpt match=one* reply="550 5.1.1 no such user"'
    await _refused(world, "451 4.2.0 upstream said: busy", *THREE, rule=rule)
