"""The clock of the store is set back and forward under a running relay: no limit is exceeded, and nothing is charged twice."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from relay.loadkit.script import Script
from tests.store_faults import Scene, scene
from tests.surroundings import WallClock, until


async def test_set_back_it_lets_nothing_through_and_says_no_wait_below_zero(place: Path) -> None:
    clock = WallClock(place)
    async with scene(place, {"quota": {"window_seconds": 3}}, own_store=True, is_started=False) as found:
        await _start_on(found, clock)
        user = await found.add_user(hourly=2)
        caller = await found.dial(user)
        assert [(await found.send(user, caller=caller)).outcome for _ in range(2)] == ["taken"] * 2
        clock.set(-1000)
        await asyncio.sleep(0.3)  # a busy server may answer once more by the clock it has read before
        for _ in range(8):  # longer than the window
            assert _wait_of((await found.send(user, caller=caller)).reply) >= 995
            await asyncio.sleep(0.5)
        assert (await found.relay.usage(user))["retry_after"] >= 995
        clock.set(0)
        await found.until_taken(user, caller=caller)
        await caller.quit()
        assert found.sink.intake.answered == 3
        await found.closed()


async def test_set_forward_it_ends_the_lease_of_what_is_on_its_way_which_is_charged_once(place: Path) -> None:
    clock = WallClock(place)
    async with scene(place, own_store=True, is_started=False) as found:
        await _start_on(found, clock)
        found.sink.script = Script.parse(["dot first=1 stall=1"])
        user = await found.add_user(hourly=1)
        sending = asyncio.create_task(found.send(user))
        await until(lambda: found.sink.replies[354] == 1)
        clock.set(600)  # ten minutes: beyond the lease, within the window
        # The first one's lease has ended, so this one is let in: what is beyond the limit is an overdraft and held against the user.
        assert (await found.send(user)).outcome == "taken"
        assert (await sending).outcome == "taken"
        overdrafts = found.relay.events("overdraft")
        assert [event["units"] for event in overdrafts] == [1]
        reply = (await found.send(user)).reply
        assert reply.startswith("451 4.7.0 Hourly sending limit reached (2/1 messages)")
        assert 3000 < _wait_of(reply) <= 3601
        await found.closed()


async def _start_on(found: Scene, clock: WallClock) -> None:
    """Start the relay on a store with this clock."""
    assert found.store is not None
    await found.store.end()
    with clock.within():
        await found.store.start()
    await found.relay.start()


def _wait_of(reply: str) -> int:
    found = re.fullmatch(r"451 4\.7\.0 Hourly sending limit reached \(\d+/\d+ messages\); retry-after=(\d+) at=\S+", reply)
    assert found is not None, reply
    return int(found[1])
