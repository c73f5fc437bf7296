"""The store dies, or hangs, under a running relay: nothing new is accepted, nothing taken is forgotten, no restart is needed."""

from __future__ import annotations

import asyncio
import os
import signal
import smtplib
import time
from pathlib import Path

from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from tests.running import running
from tests.talking import logged_in, offer, try_login


async def test_without_the_store_nothing_new_is_accepted_and_it_recovers_without_a_restart(place: Path, sink: Sink) -> None:
    async with running(place / "relay", sink.port) as relay:
        user = await relay.add_user()
        client = await asyncio.to_thread(logged_in, relay, user)
        store = relay.store_pid()
        os.kill(store, signal.SIGSTOP)  # alive, and silent: worse than dead
        try:
            assert await asyncio.to_thread(offer, client) == (451, b"4.3.0 Temporary backend failure, try again later")
            code, text = await asyncio.to_thread(try_login, relay, user)
            assert (code, text[:5]) == (454, b"4.7.0")
            status, _ = await relay.get("/readyz")
            assert status == 503
        finally:
            os.kill(store, signal.SIGKILL)
        await relay.await_event("store_started")
        assert await _recovers(client)
        assert sink.intake.answered == (await relay.usage(user))["sent_total"] == 1
        await asyncio.to_thread(client.close)


async def test_a_message_in_flight_is_answered_250_and_its_charge_recorded_when_the_store_is_back(place: Path, sink: Sink) -> None:
    sink.script = Script.parse(["dot stall=1"])
    async with running(place / "relay", sink.port) as relay:
        user = await relay.add_user()
        sending = asyncio.create_task(asyncio.to_thread(relay.send, user))
        while sink.replies[354] == 0:  # the smarthost has the message, and thinks about it for a second
            await asyncio.sleep(0.01)
        store = relay.store_pid()
        os.kill(store, signal.SIGSTOP)
        try:
            replies = await sending
            assert replies[0].startswith("250 2.0.0 ")
            assert relay.events("taken")[0]["at"] == 0
            assert relay.events("charge_kept")[0]["alarm"]  # in the spool
        finally:
            os.kill(store, signal.SIGCONT)
        await relay.await_event("settled_before")  # what it had not read when it was stopped it carries out now
        usage = await relay.usage(user)
        assert (usage["sent_total"], usage["in_flight"]) == (1, 0)
        assert sink.intake.answered == 1


async def _recovers(client: smtplib.SMTP) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        code, _ = await asyncio.to_thread(offer, client)
        if code == 250:
            return True
        assert code == 451
        await asyncio.sleep(0.1)
    return False
