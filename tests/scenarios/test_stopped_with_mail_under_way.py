"""SIGTERM while mail is under way: what is being forwarded is heard to its end, taken and answered; an upload is cut off."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from tests.running import Relay, running
from tests.talking import logged_in


async def test_a_message_being_forwarded_when_the_patience_ends_is_taken_and_answered(place: Path, sink: Sink) -> None:
    sink.script = Script.parse(["dot stall=2"])
    async with running(place / "relay", sink.port, is_started=False) as relay:
        _hasten(relay)
        await relay.start()
        user = await relay.add_user()
        client = await asyncio.to_thread(logged_in, relay, user)
        client.mail("app@example.com")
        client.rcpt("to@example.net")
        assert client.docmd("DATA")[0] == 354
        assert relay.process is not None
        relay.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(2)
        client.send(b"Subject: late\r\n\r\nbut in time\r\n.\r\n")  # the patience ends before the smarthost answers
        code, text = await asyncio.to_thread(client.getreply)
        assert (code, text[:6]) == (250, b"2.0.0 ")
        client.close()
        assert await relay.stop() == 0
        assert len(relay.events("taken")) == sink.intake.answered == 1
        assert relay.events("taken")[0]["at"] > 0


async def test_an_upload_is_cut_off_at_the_end_of_the_patience_and_costs_nothing(place: Path, sink: Sink) -> None:
    async with running(place / "relay", sink.port, is_started=False) as relay:
        _hasten(relay)
        await relay.start()
        user = await relay.add_user()
        client = await asyncio.to_thread(logged_in, relay, user)
        client.mail("app@example.com")
        client.rcpt("to@example.net")
        assert client.docmd("DATA")[0] == 354
        client.send(b"Subject: never")
        assert await relay.stop() == 0
        assert client.getreply()[0] == 421
        client.close()
        assert [line["reason"] for line in relay.events("released")] == ["aborted"]
        assert sink.intake.answered == 0


def _hasten(relay: Relay) -> None:
    """A drain of 3 s, a forward deadline of 2.5 s: a message may be on its way when the patience ends."""
    text = relay.config.read_text().replace("[smtp]\n", "[smtp]\ndrain_seconds = 3\n")
    text = text.replace("[upstream]\n", "[upstream]\nforward_deadline_seconds = 2.5\n")
    relay.config.write_text(text + "[store]\ntimeout_seconds = 0.5\n")
