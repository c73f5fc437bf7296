"""HAProxy before a relay, as its users place it: the client is the client, by either version of the header and under TLS."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
import trustme

from relay.loadkit.sink import Sink
from tests.certificate import trusting, write_pair
from tests.peer import need
from tests.running import Relay, User, free_port, running

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.peer]

CLIENT, BALANCER = "127.0.0.9", "127.0.0.1"
WAYS = {
    "version 1": "send-proxy check inter 100",
    "version 2": "send-proxy-v2 check inter 100",
    "version 2 with more": "send-proxy-v2-ssl-cn proxy-v2-options crc32c,unique-id,authority check inter 100",
    "version 2 and checks of its own": "send-proxy-v2 check check-send-proxy inter 100",
}


@dataclass(frozen=True, slots=True)
class Balanced:
    """A relay that is reached by way of HAProxy."""

    relay: Relay
    sink: Sink
    trust: ssl.SSLContext
    doors: dict[str, tuple[int, int]]
    """The ports of each way: in the clear, and with implicit TLS."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def found() -> AsyncIterator[Balanced]:
    """HAProxy on ports of its own for each way, before each door of one relay."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-", ignore_cleanup_errors=True)))
        sink = Sink()
        await sink.start()
        stack.push_async_callback(sink.stop)
        program, authority = need("haproxy"), trustme.CA()
        file, key = write_pair(authority, folder)
        implicit = free_port()
        extra = f'[[smtp.listen]]\nport = {implicit}\ntls = "implicit"\n[smtp.tls]\ncertificate = "{file}"\nkey = "{key}"\n'
        relay = await stack.enter_async_context(running(folder / "relay", sink.port, extra, is_started=False))
        text = relay.config.read_text().replace("[smtp]\n", f'[smtp]\nproxies = ["{BALANCER}"]\n')
        relay.config.write_text(text.replace("auth_without_tls = true", 'tls = "starttls"\nauth_without_tls = true'))
        await relay.start()
        doors = {way: (free_port(), free_port()) for way in WAYS}
        settings = "global\n  maxconn 100\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
        for way, outer in doors.items():
            for outside, inside in zip(outer, (relay.smtp, implicit), strict=True):
                settings += f"listen at-{outside}\n  bind 127.0.0.1:{outside}\n  unique-id-format %[uuid()]\n"
                settings += f"  server relay {BALANCER}:{inside} {WAYS[way]}\n"
        (folder / "haproxy.cfg").write_text(settings)
        process = await asyncio.create_subprocess_exec(
            program, "-db", "-f", str(folder / "haproxy.cfg"), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            await asyncio.sleep(0.5)  # HAProxy has found that its servers are there, and looked several times
            yield Balanced(relay, sink, trusting(authority), doors)
            assert await relay.stop() == 0
        finally:
            process.terminate()
            await process.wait()


def send(found: Balanced, user: User, way: str, clear: int, implicit: int = 0) -> None:
    """One message from CLIENT, which must be taken."""
    client: smtplib.SMTP
    if way == "implicit":
        client = smtplib.SMTP_SSL("localhost", implicit, timeout=20, context=found.trust, source_address=(CLIENT, 0))
    else:
        client = smtplib.SMTP("localhost", clear, timeout=20, source_address=(CLIENT, 0))
    with client:
        if way == "starttls":
            client.starttls(context=found.trust)
        client.login(user.name, user.password)
        client.sendmail("app@example.com", ["to@example.net"], "Subject: x\r\n\r\nHello\r\n")


def clients(found: Balanced, user: User) -> list[str]:
    """Where those came from who sent this user's mail."""
    taken = {line["id"].partition(".")[0] for line in found.relay.events("taken") if line["user"] == user.name}
    return [line["client"] for line in found.relay.events("connected") if line["id"] in taken]


@pytest.mark.parametrize("way", WAYS)
async def test_the_relay_sees_the_client_and_not_the_balancer(found: Balanced, way: str) -> None:
    user, before = await found.relay.add_user(), found.sink.intake.answered
    for tls in ("none", "starttls", "implicit"):
        await asyncio.to_thread(send, found, user, tls, *found.doors[way])
    assert clients(found, user) == [CLIENT] * 3
    assert found.sink.intake.answered == before + 3
    assert not found.relay.events("proxy_refused", "bug")


async def test_who_comes_past_the_balancer_is_taken_as_it_is(found: Balanced) -> None:
    user = await found.relay.add_user()
    await asyncio.to_thread(send, found, user, "starttls", found.relay.smtp)
    assert clients(found, user) == [CLIENT]
