"""An owner deletes the route that mail waits for: the mail is held, goes nowhere else, and out when there is a route again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from tests.smarthost_faults import World, opened
from tests.upstreams import remove_upstream, set_upstream

BUSY = 'rcpt reply="450 4.2.0 busy"'
REFUSED = 'rcpt match=to@* reply="550 5.1.1 no such user"'


@pytest.fixture
async def theirs() -> AsyncIterator[Sink]:
    """The owner's own smarthost."""
    started = Sink(keep=True)
    await started.start()
    yield started
    await started.stop()


@pytest.fixture
async def world(place: Path, theirs: Sink) -> AsyncIterator[World]:
    async with opened(place, guard={"allow_networks": ["127.0.0.0/8"], "allow_ports": [theirs.port]}) as made:
        yield made


async def close_account(world: World, theirs: Sink) -> None:
    """The account over what both smarthosts have got."""
    world.sink.intake.messages += theirs.messages
    await world.account()


async def test_what_waits_is_held_and_goes_out_by_the_new_route(world: World, theirs: Sink) -> None:
    await set_upstream(world.relay, theirs.port)
    theirs.script = Script.parse([BUSY])
    heard = [await world.send() for _ in range(3)]
    assert all(one.reply.endswith(" Queued") for one in heard)
    await remove_upstream(world.relay)
    for one in heard:
        assert (await world.await_told(one.id, "held"))["reason"] == "route"
    await asyncio.sleep(1.0)  # some rounds of retry
    assert {entry.held for entry in await world.entries()} == {"route"}
    after = await world.send()  # what comes later was never to go by it
    assert world.count(after.mark) == 1
    assert len(world.sink.messages) == 1

    theirs.script = Script.parse([])
    await set_upstream(world.relay, theirs.port)
    for one in heard:
        await world.await_told(one.id, "unheld")
        await world.await_told(one.id, "delivered")
    assert len(theirs.messages) == 3
    assert len(world.sink.messages) == 1
    await close_account(world, theirs)


async def test_so_are_the_reports_on_it(world: World, theirs: Sink) -> None:
    await set_upstream(world.relay, theirs.port)
    theirs.script = Script.parse([REFUSED, 'rcpt match=busy@* first=1 reply="450 4.2.0 busy"', 'rcpt match=load* reply="450 4.2.0 busy"'])
    heard = await world.send("to@example.net", "busy@example.net")
    dsn = (await world.await_told(heard.id, "reported"))["dsn"]
    await world.await_told(heard.id, "delivered")
    await remove_upstream(world.relay)
    assert (await world.await_told(dsn, "held"))["reason"] == "route"
    assert world.sink.messages == []
    theirs.script = Script.parse([])
    await set_upstream(world.relay, theirs.port)
    await world.await_told(dsn, "delivered")
    assert world.sink.messages == []
    await close_account(world, theirs)
