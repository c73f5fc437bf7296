"""What a person wants tried now is tried now, though its smarthost would be left alone for long yet; and that is no storm."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from relay.loadkit.sink import Sink
from relay.upstream.breaker import SPACING
from relay.upstream.dispatch import Dispatch
from relay.upstream.route import Route
from tests.retry.conftest import Bench, Starting

LONG = {"down_seconds": 600.0}
"""So long a smarthost that is down is left alone: until long after a test has given up."""
AWAY = "connect reply='421 4.3.2 closed'"


@asynccontextmanager
async def down(bench: Bench, retrying: Starting) -> AsyncIterator[None]:
    """A retry process that knows the smarthost to be down, and leaves it alone."""
    bench.script(AWAY)
    async with retrying(own=LONG):
        await bench.until(lambda: bool(bench.events("deferred")))
        await asyncio.sleep(SPACING)
        assert bench.sink.intake.connections == 1
        yield


async def test_a_flush_delivers_what_waits_for_a_smarthost_that_is_back(bench: Bench, retrying: Starting) -> None:
    for _ in range(5):
        await bench.put()
    async with down(bench, retrying):
        bench.script()
        await bench.spool.flush()
        await bench.until_gone()
    assert bench.sink.intake.answered == 5


async def test_a_retry_does_so_for_one_message_and_so_for_all_that_wait_there(bench: Bench, retrying: Starting) -> None:
    for _ in range(3):
        await bench.put()
    async with down(bench, retrying):
        bench.script()
        assert await bench.spool.retry("m.3")
        await bench.until_gone()


async def test_what_is_released_is_tried_at_once(bench: Bench, retrying: Starting) -> None:
    await bench.put()
    await bench.put()
    await bench.spool.hold("m.2", "operator")
    async with down(bench, retrying):
        bench.script()
        assert await bench.spool.unhold("m.2")
        await bench.until_gone()


async def test_several_at_once_are_one_probe_and_then_all_goes_on_as_usual(bench: Bench, retrying: Starting) -> None:
    for _ in range(30):
        await bench.put()
    async with down(bench, retrying):
        await asyncio.gather(*(bench.spool.flush() for _ in range(5)), *(bench.spool.retry(f"m.{number}") for number in range(1, 31)))
        await bench.until(lambda: bench.sink.intake.connections > 1)
        await asyncio.sleep(SPACING / 2)
        assert bench.sink.intake.connections == 2
        await asyncio.sleep(SPACING)  # nobody asks
        connections = bench.sink.intake.connections
        bench.script()
        await asyncio.sleep(2 * SPACING)
        assert (bench.sink.intake.connections, bench.sink.intake.answered) == (connections, 0)
        assert len(bench.events("deferred")) == connections
        await bench.spool.flush()
        await bench.until_gone()


async def test_a_flush_while_a_probe_hangs_begins_no_second_one(bench: Bench, retrying: Starting) -> None:
    for _ in range(10):
        await bench.put()
    async with down(bench, retrying):
        bench.script("connect stall=1.5")
        await bench.spool.flush()
        await bench.until(lambda: bench.sink.intake.connections == 2)
        for _ in range(10):
            await bench.spool.flush()
            await asyncio.sleep(0.1)
            assert bench.sink.intake.connections == 2
        bench.script()
        await bench.until_gone()


async def test_an_owners_flush_concerns_the_smarthosts_of_his_mail_alone(bench: Bench, retrying: Starting, theirs: Sink) -> None:
    id = await bench.set_route(theirs.port, down_seconds=600.0)
    await bench.put(route=id)
    bench.user, owner = await bench.another(), bench.user
    await bench.put()
    bench.script(AWAY)
    theirs.script = bench.sink.script
    async with retrying(own=LONG):
        await bench.until(lambda: len(bench.events("deferred")) == 2)
        bench.script()
        theirs.script = bench.sink.script
        await bench.spool.flush(owner.owner_id)
        await bench.until(lambda: theirs.intake.answered == 1)
        await asyncio.sleep(SPACING)
        assert (bench.sink.intake.connections, bench.sink.intake.answered) == (1, 0)
        await bench.spool.flush(bench.user.owner_id)
        await bench.until_gone()
    assert bench.sink.intake.answered == 1


async def test_what_was_asked_of_a_process_before_is_asked_of_no_later_one(bench: Bench, retrying: Starting) -> None:
    await bench.put()
    await bench.spool.flush()
    async with down(bench, retrying):  # sees no more than one connection
        assert len(bench.events("deferred")) == 1


async def test_a_smarthost_that_was_gone_and_is_back_on_its_port_is_met_at_once(bench: Bench, retrying: Starting) -> None:
    port = bench.sink.port
    await bench.sink.stop()
    await bench.put()
    async with retrying(port=port, own=LONG):
        await bench.until(lambda: bool(bench.events("deferred")))
        await bench.sink.start()
        await bench.spool.flush()
        await bench.until_gone()
    assert bench.sink.intake.answered == 1


# -- a lane that is not well -------------------------------------------------------------------------------------------------------


class Faulty(Dispatch):
    """Knows nothing of the owners' routes."""

    def down_until(self, route: Route) -> float:
        if route.id:
            raise RuntimeError("a fault of this route's")
        return super().down_until(route)

    def hurry(self, route: Route) -> None:
        if route.id:
            raise RuntimeError("another")
        super().hurry(route)


async def test_an_error_in_one_lane_keeps_no_other_from_being_served(bench: Bench, retrying: Starting, theirs: Sink) -> None:
    id = await bench.set_route(theirs.port)
    await bench.put(route=id)
    bench.user = await bench.another()
    async with retrying(dispatching=Faulty):
        await bench.until(lambda: bool(bench.events("bug")))
        for _ in range(3):
            await bench.put()
            await bench.spool.flush()
        await bench.until(lambda: bench.sink.intake.answered == 3)
    assert theirs.intake.connections == 0
    [bug] = bench.events("bug")
    assert bug["id"] == f"retry {id}" and "a fault of this route's" in bug["traceback"]
