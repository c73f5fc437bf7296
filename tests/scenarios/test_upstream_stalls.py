"""The smarthost falls silent: the client hears 250 within the forward deadline all the same, and the message goes out once."""

from __future__ import annotations

import pytest

from tests.smarthost_faults import DEADLINE, SLACK, STAGES, World, world_of_module

pytestmark = pytest.mark.asyncio(loop_scope="module")

world = world_of_module()


@pytest.mark.parametrize("stage", STAGES)
async def test_a_smarthost_that_falls_silent_costs_the_client_no_more_than_the_deadline(world: World, stage: str) -> None:
    world.hang_up()
    world.script(f"{stage} first=1 stall=forever")
    heard = await world.send()
    assert heard.reply == f"250 2.0.0 {heard.id} Queued"
    assert DEADLINE - 0.1 < heard.seconds < DEADLINE + SLACK
    await world.account()
    assert world.count(heard.mark) == 1
    # Only what the smarthost had whole may have been taken.
    assert bool(world.told(heard.id, "in_doubt")) == (stage == "dot")


@pytest.mark.parametrize("stage", STAGES)
async def test_a_smarthost_that_is_slow_but_within_the_deadline_takes_the_message_at_once(world: World, stage: str) -> None:
    world.hang_up()
    world.script(f"{stage} first=1 stall=0.5")
    heard = await world.send()
    assert "Queued" not in heard.reply
    await world.account()
    assert world.count(heard.mark) == 1
