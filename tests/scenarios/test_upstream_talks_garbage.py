"""The smarthost says what is no reply, or says everything twice: the session is not trusted any more, the message goes out once."""

from __future__ import annotations

import pytest

from tests.smarthost_faults import STAGES, World, world_of_module

pytestmark = pytest.mark.asyncio(loop_scope="module")
THREE = ("one@example.net", "bad@example.net", "two@example.net")

world = world_of_module()


@pytest.mark.parametrize("stage", STAGES)
async def test_what_met_garbage_goes_out_over_another_session(world: World, stage: str) -> None:
    world.hang_up()
    world.script(f"{stage} first=1 garbage")
    heard = await world.send()
    assert heard.reply == f"250 2.0.0 {heard.id} Queued"
    await world.account()
    assert world.count(heard.mark) == 1
    assert bool(world.told(heard.id, "in_doubt")) == (stage == "dot")


@pytest.mark.parametrize("stage", STAGES)
async def test_replies_that_come_twice_are_never_taken_for_what_is_said_of_another_recipient(world: World, stage: str) -> None:
    world.hang_up()
    world.script(f"{stage} first=1 twice", 'rcpt match=bad* reply="550 5.1.1 no such user"')
    heard = await world.send(*THREE)
    assert heard.reply.startswith(f"250 2.0.0 {heard.id} ")
    await world.account()
    assert [copy.failed for copy in world.reports(heard.mark)] == [("bad@example.net",)]
    assert [world.count(heard.mark, name) for name in THREE] == [1, 0, 1]


async def test_an_answer_to_the_final_dot_that_comes_twice_does_not_answer_the_next_message(world: World) -> None:
    world.script("dot first=1 twice", 'dot first=1 reply="550 5.6.0 not that"')
    assert (await world.send()).reply.startswith("250 ")
    assert (await world.send()).reply == "550 5.6.0 upstream said: not that"
    await world.account()
