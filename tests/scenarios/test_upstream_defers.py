"""The smarthost says 4yz at any stage: the client hears 250, and the message goes out at the next attempt."""

from __future__ import annotations

import pytest

from tests.smarthost_faults import STAGES, World, world_of_module

pytestmark = pytest.mark.asyncio(loop_scope="module")

world = world_of_module()


@pytest.mark.parametrize("stage", STAGES)
async def test_what_is_not_wanted_now_is_tried_again(world: World, stage: str) -> None:
    world.hang_up()
    world.script(f'{stage} first=1 reply="450 4.2.0 not now"')
    heard = await world.send()
    assert heard.reply == f"250 2.0.0 {heard.id} Queued"
    await world.account()
    assert world.count(heard.mark) == 1
    assert not world.told(heard.id, "in_doubt")
    assert world.told(heard.id, "delivered")[0]["attempts"] == 2


async def test_what_is_put_off_three_times_is_tried_four_times(world: World) -> None:
    world.script('dot first=3 reply="452 4.3.1 no room"')
    heard = await world.send()
    assert heard.reply.endswith(" Queued")
    await world.account()
    assert world.count(heard.mark) == 1
    assert [event["attempts"] for event in world.told(heard.id, "deferred")] == [2, 3]
    assert world.told(heard.id, "delivered")[0]["attempts"] == 4
