"""The smarthost refuses a report for good: it is held for a person, with an alarm, and no report is written on it."""

from __future__ import annotations

import pytest

from tests.smarthost_faults import World, world_of_module

pytestmark = pytest.mark.asyncio(loop_scope="module")

BAD = "bad@example.net"
REFUSED = ('rcpt match=bad* reply="550 5.1.1 no such user"', 'rcpt match=load* reply="550 5.7.1 the sender neither"')

world = world_of_module()


async def test_a_report_that_nobody_takes_is_held_and_told_of_by_an_alarm(world: World) -> None:
    world.script(*REFUSED)
    heard = await world.send("one@example.net", BAD)
    alarm = await world.relay.await_event("dsn_undeliverable")
    assert alarm["alarm"]
    assert alarm["origin"] == heard.id
    [entry] = await world.entries()
    assert (entry.id, entry.kind, entry.held, entry.origin) == (alarm["id"], "dsn", "undeliverable", heard.id)
    await world.account(held=1)
    assert await world.charged() == 1
    assert [event["recipients"] for event in world.relay.events("reported")] == [[BAD]]
    await _mend(world, entry.id)
    assert [copy.failed for copy in world.reports(heard.mark)] == [(BAD,)]


async def _mend(world: World, id: str) -> None:
    """What a person does: have it sent again once the sender's mailbox takes mail."""
    world.script()
    await world.relay.cli("queue", "release", id)
    await world.account()


async def test_a_report_that_is_put_off_is_tried_again(world: World) -> None:
    world.script(REFUSED[0], 'rcpt match=load* first=2 reply="450 4.2.0 over quota"')
    before = len(world.relay.events("reported"))
    heard = await world.send("one@example.net", BAD)
    await world.account()
    assert [copy.failed for copy in world.reports(heard.mark)] == [(BAD,)]
    assert len(world.relay.events("reported")) == before + 1
