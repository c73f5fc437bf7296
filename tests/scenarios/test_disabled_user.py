"""A user is disabled while its mail is in the spool: the mail is held, and goes on when the user is enabled again."""

from __future__ import annotations

import asyncio

import pytest

from tests.smarthost_faults import World, world_of_module

pytestmark = pytest.mark.asyncio(loop_scope="module")

world = world_of_module(retry={"max_connections": 1})


async def test_the_mail_of_a_disabled_user_is_held_until_the_user_is_enabled(world: World) -> None:
    other = await world.relay.add_user()
    world.others.append(other)
    await world.sink.stop()
    held = [await world.send() for _ in range(3)]
    free = await world.send(user=other)
    await world.relay.tes("editSmtp", smtp_user_name=world.user.name, status="Disable")
    await world.sink.start()
    for one in held:
        assert (await world.await_told(one.id, "held"))["reason"] == "disabled"
    await world.await_told(free.id, "delivered")  # nobody else is concerned
    await world.rest(held=3)
    assert [world.count(one.mark) for one in held] == [0, 0, 0]
    assert {(entry.id, entry.held) for entry in await world.entries()} == {(one.id, "disabled") for one in held}
    await world.relay.tes("editSmtp", smtp_user_name=world.user.name, status="Enable")
    await world.account()
    assert [world.count(one.mark) for one in (*held, free)] == [1, 1, 1, 1]
    assert {world.told(one.id, "unheld")[0]["reason"] for one in held} == {"disabled"}


async def test_mail_that_waits_behind_another_for_its_turn_is_held_all_the_same(world: World) -> None:
    await world.sink.stop()
    heard = [await world.send() for _ in range(2)]
    world.script("dot first=1 stall=6")
    before = world.sink.replies[354]
    await world.sink.start()
    async with asyncio.timeout(10):
        while world.sink.replies[354] == before:
            await asyncio.sleep(0.02)
    told = len(world.relay.events("held"))
    await world.relay.tes("editSmtp", smtp_user_name=world.user.name, status="Disable")
    held = (await world.relay.await_event("held", after=told))["id"]
    await world.rest(held=1)
    assert {one.id: world.count(one.mark) for one in heard} == {one.id: int(one.id != held) for one in heard}
    await world.relay.tes("editSmtp", smtp_user_name=world.user.name, status="Enable")
    await world.account()
    assert [world.count(one.mark) for one in heard] == [1, 1]
