"""The smarthost answers the final dot long after the client has its reply: the worker that listens on records the answer."""

from __future__ import annotations

import pytest

from tests.smarthost_faults import SLACK, TO, World, world_of_module

pytestmark = pytest.mark.asyncio(loop_scope="module")
DEADLINE = 1.0

world = world_of_module(upstream={"forward_deadline_seconds": DEADLINE}, retry={"doubt_seconds": 20})


async def test_what_is_taken_late_is_delivered_once_and_never_tried_again(world: World) -> None:
    world.script("dot first=1 stall=3")
    heard = await world.send()
    assert heard.reply == f"250 2.0.0 {heard.id} Queued"
    assert heard.seconds < DEADLINE + SLACK
    assert world.told(heard.id, "in_doubt")[0]["recipients"] == [TO]
    assert world.count(heard.mark) == 0
    delivered = await world.await_told(heard.id, "delivered")
    assert delivered["attempts"] == 1
    assert delivered["seconds"] < 10  # long before anybody would have tried again
    await world.account()
    assert world.count(heard.mark) == 1


async def test_what_is_refused_late_is_reported_to_its_sender(world: World) -> None:
    world.script('dot first=1 stall=2 reply="554 5.6.0 not that"')
    heard = await world.send()
    assert heard.reply.endswith(" Queued")
    await world.account()
    assert [copy.failed for copy in world.reports(heard.mark)] == [(TO,)]
    assert world.count(heard.mark) == 0


async def test_what_is_deferred_late_is_tried_again_without_waiting_for_a_doubt(world: World) -> None:
    world.script('dot first=1 stall=2 reply="451 4.3.0 not now"')
    heard = await world.send()
    assert heard.reply.endswith(" Queued")
    assert (await world.await_told(heard.id, "deferred"))["reply"].endswith("not now")
    await world.account()
    assert world.count(heard.mark) == 1
    assert world.told(heard.id, "delivered")[0]["seconds"] < 10


async def test_one_recipient_refused_and_the_others_taken_late_are_each_told_of_once(world: World) -> None:
    world.script('rcpt match=bad* reply="550 5.1.1 no such user"', "dot first=1 stall=2")
    heard = await world.send("one@example.net", "bad@example.net", "two@example.net")
    assert heard.reply.endswith(" Queued")
    assert world.told(heard.id, "in_doubt")[0]["recipients"] == ["one@example.net", "two@example.net"]
    await world.account()
    assert [copy.failed for copy in world.reports(heard.mark)] == [("bad@example.net",)]
    assert [world.count(heard.mark, f"{name}@example.net") for name in ("one", "two", "bad")] == [1, 1, 0]
