"""The smarthost says 421 and closes, anywhere: it has had enough of the session, and that is nothing against the message."""

from __future__ import annotations

import pytest

from tests.smarthost_faults import STAGES, World, world_of_module

pytestmark = pytest.mark.asyncio(loop_scope="module")
THREE = ("one@example.net", "two@example.net", "three@example.net")

world = world_of_module()


@pytest.mark.parametrize("stage", STAGES)
async def test_what_met_a_closing_session_goes_out_over_another(world: World, stage: str) -> None:
    world.hang_up()
    world.script(f'{stage} first=1 reply="421 4.3.2 going down" close')
    heard = await world.send()
    assert heard.reply == f"250 2.0.0 {heard.id} Queued"
    await world.account()
    assert world.count(heard.mark) == 1
    assert not world.told(heard.id, "in_doubt")


async def test_a_session_that_closes_at_its_second_message_is_replaced_while_the_client_waits(world: World) -> None:
    world.script()
    await world.send()
    world.script('mail first=1 reply="421 4.3.2 enough" close')
    heard = await world.send()
    assert "Queued" not in heard.reply
    await world.account()
    assert world.count(heard.mark) == 1


async def test_a_session_that_closes_amid_the_recipients_serves_none_of_them_and_the_next_all(world: World) -> None:
    world.hang_up()
    world.script('rcpt match=two* first=1 reply="421 4.3.2 going down" close')
    heard = await world.send(*THREE)
    assert heard.reply == f"250 2.0.0 {heard.id} Queued"
    await world.account()
    assert [world.count(heard.mark, name) for name in THREE] == [1, 1, 1]
