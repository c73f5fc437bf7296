"""A failure nobody wants or may have a report of is discarded, and that is on record; what was asked for is reported."""

from __future__ import annotations

import pytest

from tests.smarthost_faults import World, world_of_module

pytestmark = pytest.mark.asyncio(loop_scope="module")
GOOD, BAD = "one@example.net", "bad@example.net"
REFUSED = 'rcpt match=bad* reply="550 5.1.1 no such user"'

world = world_of_module(sink={"without": ["DSN"]})


@pytest.mark.parametrize(
    ("notify", "is_null", "reason"), [("NEVER", False, "never"), ("SUCCESS", False, "never"), ("", True, "null_sender")]
)
async def test_a_failure_without_a_report_is_discarded_and_journaled(world: World, notify: str, is_null: bool, reason: str) -> None:
    before = len(world.relay.events("reported"))
    world.script(REFUSED)
    heard = await world.send(GOOD, BAD, notify=notify, is_null=is_null)
    assert heard.reply.startswith("250 ")
    evidence = await world.account()
    discarded = [event for event in evidence.events if event["event"] == "discarded" and event["id"] == heard.id]
    assert [(event["recipients"], event["reason"]) for event in discarded] == [([BAD], reason)]
    assert world.count(heard.mark, GOOD) == 1
    assert all(BAD not in copy.failed for copy in evidence.copies)
    assert [event for event in world.relay.events("reported")[before:] if event["action"] == "failed"] == []


async def test_a_null_sender_whose_mail_was_deferred_and_then_refused_is_not_written_to(world: World) -> None:
    world.script('rcpt match=bad* first=1 reply="450 4.2.0 busy"', REFUSED)
    heard = await world.send(BAD, is_null=True)
    assert heard.reply.endswith(" Queued")
    await world.account()
    assert [event["reason"] for event in world.told(heard.id, "discarded")] == ["null_sender"]


async def test_what_was_asked_for_is_reported_once_by_the_relay_of_a_smarthost_that_does_not(world: World) -> None:
    world.script()
    heard = await world.send(GOOD, notify="SUCCESS,FAILURE")
    assert "Queued" not in heard.reply
    await world.account()
    assert [(event["action"], event["recipients"]) for event in world.told(heard.id, "reported")] == [("relayed", [GOOD])]
