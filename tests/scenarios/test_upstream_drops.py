"""The smarthost cuts the connection: before the final dot the message is tried again soon, after it only when the doubt has passed."""

from __future__ import annotations

import pytest

from tests.smarthost_faults import STAGES, World, world_of_module

pytestmark = pytest.mark.asyncio(loop_scope="module")
DOUBT = 2

world = world_of_module(retry={"doubt_seconds": DOUBT})


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "dot"])
async def test_what_is_cut_off_before_the_final_dot_is_tried_again_and_not_in_doubt(world: World, stage: str) -> None:
    world.hang_up()
    world.script(f"{stage} first=1 drop")
    heard = await world.send()
    assert heard.reply == f"250 2.0.0 {heard.id} Queued"
    await world.account()
    assert world.count(heard.mark) == 1
    assert not world.told(heard.id, "in_doubt")


async def test_what_is_cut_off_after_the_final_dot_is_in_doubt_and_waits_for_it_to_pass(world: World) -> None:
    world.script("dot first=1 drop")
    heard = await world.send()
    assert heard.reply == f"250 2.0.0 {heard.id} Queued"
    assert len(world.told(heard.id, "in_doubt")) == 1
    await world.account()
    assert world.count(heard.mark) == 1
    assert world.told(heard.id, "delivered")[0]["seconds"] >= DOUBT


async def test_an_answer_that_comes_just_before_the_connection_is_cut_counts(world: World) -> None:
    world.script("dot first=1 drop=after")
    heard = await world.send()
    await world.account()
    assert world.count(heard.mark) == 1 + len(world.told(heard.id, "in_doubt"))


async def test_a_session_that_was_cut_while_it_was_idle_is_not_noticed_by_the_client(world: World) -> None:
    world.script()
    await world.send()
    world.hang_up()
    heard = await world.send()
    assert "Queued" not in heard.reply
    await world.account()
    assert world.count(heard.mark) == 1
