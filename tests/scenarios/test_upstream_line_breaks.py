"""The line to the smarthost breaks with the content half way through, and with the answer to the final dot on its way back."""

from __future__ import annotations

import pytest

from tests.smarthost_faults import TO, Wire, World, world_of_module

pytestmark = pytest.mark.asyncio(loop_scope="module")

wire = Wire()
world = world_of_module(wire=wire)


async def test_a_message_whose_content_was_cut_in_half_goes_out_whole_and_once(world: World) -> None:
    wire.cut_after = 300_000
    heard = await world.send(size=4_000_000)
    assert heard.reply == f"250 2.0.0 {heard.id} Queued"
    assert wire.cut_after is None
    await world.account()
    assert world.count(heard.mark) == 1


async def test_a_message_whose_answer_was_lost_goes_out_twice_at_most_and_the_doubt_is_on_record(world: World) -> None:
    wire.cut_at = b"queued as"
    heard = await world.send()
    assert heard.reply == f"250 2.0.0 {heard.id} Queued"
    assert wire.cut_at == b""
    assert [event["recipients"] for event in world.told(heard.id, "in_doubt")] == [[TO]]
    assert world.count(heard.mark) == 1
    await world.account()
    assert world.count(heard.mark) == 2


async def test_an_answer_lost_once_more_is_one_more_doubt_and_one_more_copy(world: World) -> None:
    wire.cut_at = b"queued as"
    heard = await world.send()
    wire.cut_at = b"queued as"  # the next attempt's is lost too
    await world.account()
    assert world.count(heard.mark) == 3
    assert len(world.told(heard.id, "in_doubt")) == 2


async def test_of_three_recipients_only_those_in_doubt_get_a_second_copy(world: World) -> None:
    world.script('rcpt match=bad* reply="550 5.1.1 no such user"', 'rcpt match=busy* first=1 reply="450 4.2.0 busy"')
    wire.cut_at = b"queued as"
    heard = await world.send("one@example.net", "busy@example.net", "bad@example.net")
    assert heard.reply.endswith(" Queued")
    assert [event["recipients"] for event in world.told(heard.id, "in_doubt")] == [["one@example.net"]]
    await world.account()
    assert [world.count(heard.mark, f"{name}@example.net") for name in ("one", "busy", "bad")] == [2, 1, 0]
    assert [copy.failed for copy in world.reports(heard.mark)] == [("bad@example.net",)]


async def test_what_is_in_doubt_and_then_refused_is_reported_as_perhaps_delivered(world: World) -> None:
    world.script()
    wire.cut_at = b"queued as"
    heard = await world.send()
    world.script('rcpt match=to@* reply="550 5.1.1 moved"')
    await world.account()
    assert world.count(heard.mark) == 1
    assert [copy.failed for copy in world.reports(heard.mark)] == [(TO,)]
