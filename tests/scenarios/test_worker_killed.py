"""A worker is killed with mail in flight: what it held comes back at once, and what the smarthost had taken is charged."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import smtplib
import time
from datetime import datetime
from pathlib import Path

from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from tests.running import Relay, User, running
from tests.talking import until_reply


async def test_capacity_held_by_a_killed_worker_is_back_within_two_seconds(place: Path, sink: Sink) -> None:
    sink.script = Script.parse(["dot stall=forever"])
    async with running(place / "relay", sink.port) as relay:
        user = await relay.add_user(hourly=3)
        waiting = [asyncio.create_task(asyncio.to_thread(_send_until_cut, relay, user)) for _ in range(3)]
        await _until(relay, user, in_flight=3)
        assert (await asyncio.to_thread(relay.send, user))[0].startswith("451 4.7.0 Sending limit taken by messages in flight")

        for name, pid in relay.workers().items():
            if name.startswith("smtp"):
                os.kill(pid, signal.SIGKILL)
        killed = time.time()
        # By the mail log's clock: how soon a busy machine lets this test look is not the relay's doing.
        assert await _returned(relay, 3) - killed < 2
        assert (await relay.usage(user))["in_flight"] == 0
        await asyncio.gather(*waiting)

        sink.script = Script()
        assert (await until_reply(relay, user)).startswith("250 ")
        usage = await relay.usage(user)
        assert (usage["sent_in_window"], usage["in_flight"]) == (1, 0)
        end = time.monotonic() + 5  # a worker tells what it has taken twice a second
        while 'relay_messages_total{outcome="taken"} 1.0' not in (figures := (await relay.get("/metrics"))[1]):
            assert time.monotonic() < end, figures
            await asyncio.sleep(0.05)
        assert 'relay_worker_deaths_total{role="smtp"} 2.0' in figures


def _send_until_cut(relay: Relay, user: User) -> None:
    with contextlib.suppress(OSError, smtplib.SMTPException):
        relay.send(user)


async def _returned(relay: Relay, holds: int) -> float:
    """Wait until so many holds have come back, and return when the last did, in seconds since 1970."""
    async with asyncio.timeout(10):
        while sum(event["holds"] for event in relay.events("holds_returned")) < holds:
            await asyncio.sleep(0.02)
    return max(datetime.fromisoformat(event["ts"]).timestamp() for event in relay.events("holds_returned"))


async def _until(relay: Relay, user: User, in_flight: int) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if (await relay.usage(user))["in_flight"] == in_flight:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"never {in_flight} in flight")
