"""The smarthost never takes a message: after retry.expire_seconds its sender is told; with nobody to tell it to, the report is held."""

from __future__ import annotations

import pytest

from tests.smarthost_faults import TO, World, world_of_module

pytestmark = pytest.mark.asyncio(loop_scope="module")

# The doubled waits for a smarthost that is down stay well below the expiry.
world = world_of_module(retry={"expire_seconds": 3}, upstream={"down_seconds": 0.02})


async def test_what_is_deferred_until_it_expires_is_reported_to_its_sender(world: World) -> None:
    world.script('rcpt match=to@* reply="450 4.2.0 busy"')
    heard = await world.send()
    assert heard.reply.endswith(" Queued")
    await world.account()
    assert [copy.failed for copy in world.reports(heard.mark)] == [(TO,)]
    report = next(message for message in world.answered if message.sender == "")
    assert report.content is not None
    assert b"Status: 5.4.7" in report.content
    assert b"450 4.2.0" in report.content or b"451 4.2.0" in report.content
    assert await world.charged() == 1  # what fails after its 250 is not refunded


async def test_with_the_smarthost_down_for_good_message_and_report_end_before_a_person(world: World) -> None:
    world.script()
    await world.sink.stop()
    heard = await world.send()
    alarm = await world.relay.await_event("dsn_undeliverable", timeout=15)
    assert alarm["origin"] == heard.id
    assert [event["recipients"] for event in world.told(heard.id, "reported")] == [[TO]]
    [entry] = await world.entries()
    assert (entry.kind, entry.held) == ("dsn", "undeliverable")
    await world.account(held=1)
    # The smarthost is back after all: a person has the report sent.
    await world.sink.start()
    await world.relay.cli("queue", "release", entry.id)
    await world.account()
    assert [copy.failed for copy in world.reports(heard.mark)] == [(TO,)]
