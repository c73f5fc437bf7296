"""The wall's clock of the relay is set back and forward: nothing is tried early or twice, nothing expires, no claim is stolen."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from relay.loadkit.script import Script
from tests.store_faults import Scene, scene
from tests.surroundings import WallClock, until

DAY = 86400


@pytest.mark.parametrize("days", [-10, 10])
async def test_waits_doubts_and_leases_are_not_the_wall_clocks(place: Path, days: int) -> None:
    clock = WallClock(place)
    retry = {"first_wait_seconds": 1, "longest_wait_seconds": 1, "doubt_seconds": 3}
    async with scene(place, {"retry": retry}, own_store=True, is_started=False) as found:
        with clock.within():
            await found.relay.start()
        user = await found.add_user(hourly=1)
        found.sink.script = Script.parse(['data first=2 reply="451 4.3.0 not now"', "dot first=1 stall=2"])
        began = time.monotonic()
        sent = await found.send(user)
        assert sent.outcome == "taken"
        clock.set(days * DAY)
        # A second, give or take the jitter (and a slow machine): not at once, and not in ten days.
        assert await _until_count(found, 2) > 0.5
        clock.set(0)
        await until(lambda: found.sink.replies[354] == 1)
        clock.set(days * DAY)  # while it is being sent: its claim is not free, and it is sent once
        await asyncio.sleep(1)
        assert (await found.entries())[0].claimed_by
        await until(lambda: found.sink.intake.answered == 1)
        assert (await found.send(user)).reply.startswith("451 4.7.0 Hourly sending limit reached (1/1 messages)")
        passed = time.monotonic() - began
        assert 3600 - passed <= found.relay.events("refused")[-1]["retry_after"] <= 3601  # its window is the store's
        await found.closed()
        assert found.sink.intake.answered == 1
        assert not found.relay.events("reported", "in_doubt", "killed_in_flight", "overdraft", "claim_lost")


@pytest.mark.parametrize("days", [-10, 10])
async def test_a_relay_that_is_started_under_another_date_tries_when_it_would_have(place: Path, days: int) -> None:
    clock = WallClock(place)
    async with scene(place, {"retry": {"first_wait_seconds": 4, "longest_wait_seconds": 4}}, own_store=True, is_started=False) as found:
        with clock.within():
            await found.relay.start()
            user = await found.add_user()
            found.sink.script = Script.parse(['data first=1 reply="451 4.3.0 not now"'])
            assert (await found.send(user)).outcome == "taken"
            [entry] = await found.entries()
            due = time.monotonic() + entry.due - await _now(found)
            await found.relay.stop()
            clock.set(days * DAY)
            await found.relay.start()
        await until(lambda: found.sink.intake.answered == 1, 15)
        assert time.monotonic() > due - 0.1
        await found.closed()
        assert not found.relay.events("reported", "in_doubt", "killed_in_flight")


async def _until_count(found: Scene, count: int) -> float:
    began = time.monotonic()
    await until(lambda: found.sink.replies[451] == count)
    return time.monotonic() - began


async def _now(found: Scene) -> float:
    async with found.spool() as spool:
        return spool.now()
