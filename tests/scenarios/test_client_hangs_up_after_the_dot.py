"""A client hangs up behind its final dot, before the reply: what then happens is heard to its end, and its account closes."""

from __future__ import annotations

import asyncio

import pytest

from tests.smarthost_faults import DEADLINE, TO, World, world_of_module

pytestmark = pytest.mark.asyncio(loop_scope="module")

world = world_of_module()


async def _begun(world: World, before: int) -> None:
    """Until the relay has heard the dot and said what came of it."""
    async with asyncio.timeout(10):
        while len(world.relay.events("taken", "rejected")) <= before:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("rule", "copies"),
    [
        ("", 1),
        ("dot first=1 stall=0.7", 1),
        (f"dot first=1 stall={DEADLINE + 0.3}", 1),
        ("dot first=1 stall=forever", 1),
        ("mail first=1 stall=forever", 1),
        ('rcpt first=1 reply="450 4.2.0 busy"', 1),
        ('rcpt reply="550 5.1.1 no such user"', 0),
        ("dot first=1 drop", 1),
    ],
)
async def test_the_message_goes_on_without_its_client(world: World, rule: str, copies: int) -> None:
    world.script(rule)
    before = len(world.relay.events("taken", "rejected"))
    mark = await world.leave(is_whole=True)
    await _begun(world, before)
    await world.account()
    assert world.count(mark) == copies
    assert world.reports(mark) == []


async def test_with_the_smarthost_down_it_is_spooled_and_delivered_later(world: World) -> None:
    world.script()
    await world.sink.stop()
    before = len(world.relay.events("taken", "rejected"))
    marks = await asyncio.gather(*(world.leave(is_whole=True) for _ in range(3)))
    await _begun(world, before + 2)
    await world.sink.start()
    await world.account()
    assert [world.count(mark, TO) for mark in marks] == [1, 1, 1]


async def test_of_three_recipients_the_refused_one_is_reported_though_nobody_heard_a_reply(world: World) -> None:
    world.script('rcpt match=bad* reply="550 5.1.1 no such user"', 'rcpt match=busy* first=1 reply="450 4.2.0 busy"')
    before = len(world.relay.events("taken", "rejected"))
    names = ("one@example.net", "bad@example.net", "busy@example.net")
    mark = await world.leave(*names, is_whole=True)
    await _begun(world, before)
    await world.account()
    assert [world.count(mark, name) for name in names] == [1, 0, 1]
    assert [copy.failed for copy in world.reports(mark)] == [("bad@example.net",)]
