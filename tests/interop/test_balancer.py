"""HAProxy before a relay, as its users place it: the client is the client, by either version of the header and under TLS."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from relay.loadkit.sink import Sink
from tests.certificate import trusting, write_pair
from tests.peer import need
from tests.running import Relay, User, free_port, running

pytestmark = pytest.mark.peer

CLIENT, BALANCER = "127.0.0.9", "127.0.0.1"
WAYS = {
    "version 1": "send-proxy check inter 100",
    "version 2": "send-proxy-v2 check inter 100",
    "version 2 with more": "send-proxy-v2-ssl-cn proxy-v2-options crc32c,unique-id,authority check inter 100",
    "version 2 and checks of its own": "send-proxy-v2 check check-send-proxy inter 100",
}


@dataclass(slots=True)
class Balanced:
    """A relay that is reached by way of HAProxy."""

    relay: Relay
    trust: ssl.SSLContext
    clear: int
    implicit: int


@asynccontextmanager
async def balanced(folder: Path, upstream: int, way: str) -> AsyncIterator[Balanced]:
    """HAProxy on ports of its own, before each door of a relay."""
    program, authority = need("haproxy"), trustme.CA()
    file, key = write_pair(authority, folder)
    implicit, outer = free_port(), (free_port(), free_port())
    extra = f'[[smtp.listen]]\nport = {implicit}\ntls = "implicit"\n[smtp.tls]\ncertificate = "{file}"\nkey = "{key}"\n'
    async with running(folder / "relay", upstream, extra, is_started=False) as relay:
        text = relay.config.read_text().replace("[smtp]\n", f'[smtp]\nproxies = ["{BALANCER}"]\n')
        relay.config.write_text(text.replace("auth_without_tls = true", 'tls = "starttls"\nauth_without_tls = true'))
        await relay.start()
        settings = "global\n  maxconn 100\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
        for outside, inside in zip(outer, (relay.smtp, implicit), strict=True):
            settings += f"listen at-{outside}\n  bind 127.0.0.1:{outside}\n  unique-id-format %[uuid()]\n"
            settings += f"  server relay {BALANCER}:{inside} {WAYS[way]}\n"
        (folder / "haproxy.cfg").write_text(settings)
        process = await asyncio.create_subprocess_exec(
            program, "-db", "-f", str(folder / "haproxy.cfg"), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            yield Balanced(relay, trusting(authority), *outer)
        finally:
            process.terminate()
            await process.wait()


def send(found: Balanced, user: User, way: str) -> None:
    """One message from CLIENT, which must be taken."""
    client: smtplib.SMTP
    if way == "implicit":
        client = smtplib.SMTP_SSL("localhost", found.implicit, timeout=20, context=found.trust, source_address=(CLIENT, 0))
    else:
        client = smtplib.SMTP("localhost", found.clear, timeout=20, source_address=(CLIENT, 0))
    with client:
        if way == "starttls":
            client.starttls(context=found.trust)
        client.login(user.name, user.password)
        client.sendmail("app@example.com", ["to@example.net"], "Subject: x\r\n\r\nHello\r\n")


@pytest.mark.parametrize("way", WAYS)
async def test_the_relay_sees_the_client_and_not_the_balancer(place: Path, sink: Sink, way: str) -> None:
    async with balanced(place, sink.port, way) as found:
        user = await found.relay.add_user()
        await asyncio.sleep(0.5)  # HAProxy has found that its servers are there, and looked several times
        for tls in ("none", "starttls", "implicit"):
            await asyncio.to_thread(send, found, user, tls)
        taken = {line["id"].partition(".")[0] for line in found.relay.events("taken")}
        clients = [line["client"] for line in found.relay.events("connected") if line["id"] in taken]
        assert clients == [CLIENT] * 3
        assert sink.intake.answered == 3
        assert not found.relay.events("proxy_refused", "bug")


async def test_who_comes_past_the_balancer_is_taken_as_it_is(place: Path, sink: Sink) -> None:
    async with balanced(place, sink.port, "version 1") as found:
        user = await found.relay.add_user()
        found.clear = found.relay.smtp
        await asyncio.to_thread(send, found, user, "starttls")
        assert CLIENT in {line["client"] for line in found.relay.events("connected")}
        assert await found.relay.stop() == 0
