"""The certificate runs out: an alarm before and after, from one process of the node, and mail goes on for whom it suits."""

from __future__ import annotations

import asyncio
import datetime
import smtplib
import ssl
from pathlib import Path

import pytest
import trustme

from relay.loadkit.sink import Sink
from tests.certificate import trusting, write_pair
from tests.running import Relay, free_port, running


@pytest.mark.parametrize(
    ("days", "event", "other"), [(-1, "certificate_expired", "certificate_expires"), (5, "certificate_expires", "certificate_expired")]
)
async def test_a_certificate_near_or_past_its_end_is_an_alarm(place: Path, sink: Sink, days: int, event: str, other: str) -> None:
    authority, port = trustme.CA(), free_port()
    ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    file, key = write_pair(authority, place, not_after=ends)
    extra = f'[[smtp.listen]]\nport = {port}\ntls = "starttls"\n[smtp.tls]\ncertificate = "{file}"\nkey = "{key}"\n'
    async with running(place / "relay", sink.port, extra) as relay:
        told = await relay.await_event(event)
        assert told["alarm"] and told["not_after"] == ends.strftime("%Y-%m-%dT%H:%M:%SZ") and told["file"] == str(file)
        await asyncio.sleep(0.5)
        assert len(relay.events(event)) == 1 and not relay.events(other, "certificate_unusable")
        _, figures = await relay.get("/metrics")
        assert f'relay_alarms_total{{event="{event}"}} 1.0' in figures
        assert await asyncio.to_thread(_can_start_tls, relay, port, trusting(authority)) == (days > 0)
        user = await relay.add_user()
        assert (await asyncio.to_thread(relay.send, user))[0].startswith("250 ")


def _can_start_tls(relay: Relay, port: int, trust: ssl.SSLContext) -> bool:
    """Whether a client that verifies certificates takes this one."""
    client = smtplib.SMTP("localhost", port, timeout=30)
    try:
        client.starttls(context=trust)
    except ssl.SSLCertVerificationError:
        return False
    finally:
        client.close()
    return True
