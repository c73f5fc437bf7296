"""The smarthost says 5yz: the client hears it, and pays nothing; said of the session instead of the message, it only delays the message."""

from __future__ import annotations

import pytest

from tests.smarthost_faults import World, world_of_module

pytestmark = pytest.mark.asyncio(loop_scope="module")

world = world_of_module()


@pytest.mark.parametrize("recipients", [("to@example.net",), ("one@example.net", "two@example.net", "three@example.net")], ids=len)
@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "dot"])
async def test_a_refusal_of_the_message_is_passed_on_and_costs_nothing(world: World, stage: str, recipients: tuple[str, ...]) -> None:
    before = await world.charged()
    world.script(f'{stage} reply="550 5.7.9 not that"')
    heard = await world.send(*recipients)
    assert heard.reply == "550 5.7.9 upstream said: not that"
    assert await world.entries() == []
    evidence = await world.account()
    assert await world.charged() == before
    assert [event["outcome"] for event in evidence.events if event.get("sender") == heard.mark] == ["rejected"]
    assert all(copy.mark != heard.mark for copy in evidence.copies)


@pytest.mark.parametrize("stage", ["connect", "ehlo"])
async def test_a_refusal_of_the_session_says_nothing_of_the_message(world: World, stage: str) -> None:
    world.hang_up()
    world.script(f'{stage} first=1 reply="554 5.3.2 no service here" close')
    heard = await world.send()
    assert heard.reply == f"250 2.0.0 {heard.id} Queued"
    await world.account()
    assert world.count(heard.mark) == 1
