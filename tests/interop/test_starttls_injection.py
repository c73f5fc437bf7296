"""What is said in clear behind STARTTLS is never heard within TLS (RFC 3207 section 4.2): by the relay, nor of a smarthost by it."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from relay.mail.envelope import Envelope, Recipient
from relay.mail.verdict import Deferred, Delivered, Failed, Verdict
from relay.upstream.pool import Pool
from relay.upstream.route import Target
from relay.upstream.smarthost import Message
from relay.upstream.terms import Terms
from tests.interop.client import Front
from tests.running import User
from tests.session.conftest import Wire

pytestmark = pytest.mark.asyncio(loop_scope="module")

# -- a client's ----------------------------------------------------------------------------------------------------------------

_TRANSACTION = b"MAIL FROM:<mallory@example.com>\r\nRCPT TO:<mallory@example.net>\r\nDATA\r\n"


def _plain(user: User) -> bytes:
    return base64.b64encode(f"\0{user.name}\0{user.password}".encode())


def injections(mallory: User) -> list[bytes]:
    """What somebody on the line, who has an account here, puts behind the client's STARTTLS."""
    login = b"EHLO mallory.example\r\nAUTH PLAIN " + _plain(mallory) + b"\r\n"
    return [
        b"NOOP\r\n",
        b"QUIT\r\n",
        login,
        # What the client says next, its password too, would become a message to who waits for it.
        login + _TRANSACTION,
        login + _TRANSACTION.replace(b"DATA\r\n", b"BDAT 300 LAST\r\n"),
        login + _TRANSACTION + b"Subject: x\r\n\r\nmine\r\n.\r\n",
        # The beginning of a line or of a login, to which the client's own words would be the rest.
        b"NOOP ",
        b"EHLO x\r\nAUTH LOGIN\r\n",
        b"STARTTLS\r\n",
        b"RSET\r\n" * 2000,
        b"x" * 20_000,
    ]


async def approach(front: Front, tls: str = "starttls") -> Wire:
    """A connection that was greeted, where the greeting is not within TLS."""
    wire = Wire(*await asyncio.open_connection("127.0.0.1", front.ways[tls].port))
    if tls == "starttls":
        assert (await wire.reply()).startswith(b"220 ")
        assert (await wire.ask(b"EHLO client.example")).startswith(b"250-")
    return wire


async def go_on(front: Front, wire: Wire, user: User) -> None:
    """The client within TLS: it is alone with the relay, and each command of its own has the one reply that it should have."""
    assert await wire.ask(b"NOOP") == b"250 2.0.0 OK\r\n"
    assert (await wire.ask(b"MAIL FROM:<app@example.com>")).startswith(b"503 5.5.1 EHLO first")
    offers = await wire.ask(b"EHLO client.example")
    assert b"client.example" in offers and b"STARTTLS" not in offers
    assert (await wire.ask(b"AUTH PLAIN " + _plain(user))).startswith(b"235 ")
    assert (await wire.offer(f"Subject: {user.name}\r\n\r\nhello\r\n".encode())).startswith(b"250 2.0.0 ")
    assert (await wire.ask(b"QUIT")).startswith(b"221 ")
    assert await wire.is_closed()


async def check_not_obeyed(front: Front, mallory: User) -> None:
    """See that nothing was done in the name of who injected it."""
    assert front.events(mallory, "authenticated") == [] == front.events(mallory, "auth_refused")
    assert not [message for message in front.sink.messages if "mallory" in f"{message.sender} {message.recipients}"]
    await front.check_account(mallory, 0)
    assert front.relay.events("bug") == []


@pytest.mark.parametrize("number", range(len(injections(User("", "")))))
async def test_what_comes_with_starttls_is_thrown_away_and_the_client_goes_on_in_peace(front: Front, number: int) -> None:
    mallory, user = await front.relay.add_user(), await front.relay.add_user()
    wire = await approach(front)
    await wire.write(b"STARTTLS\r\n" + injections(mallory)[number])
    reply = await wire.reply()
    if len(injections(mallory)[number]) < 1000:
        assert reply == b"220 2.0.0 Ready to start TLS\r\n"
        await wire.secure(front.ways["starttls"].trust)
        await go_on(front, wire, user)
        await front.check_account(user, 1)
    else:  # it may take several reads to come in, and then some of it is taken for the handshake
        with suppress(ssl.SSLError, ConnectionError):
            await wire.secure(front.ways["starttls"].trust)
            await go_on(front, wire, user)
    await check_not_obeyed(front, mallory)


async def test_wherever_it_is_cut_it_is_obeyed_neither_in_clear_nor_within_tls(front: Front) -> None:
    mallory, user = await front.relay.add_user(), await front.relay.add_user()
    said = b"STARTTLS\r\n" + b"EHLO m\r\nAUTH PLAIN " + _plain(mallory) + b"\r\n" + _TRANSACTION

    async def attempt(cut: int) -> bool:
        wire = await approach(front)
        await wire.write(said[:cut])
        await asyncio.sleep(0.005)
        await wire.write(said[cut:])
        assert await wire.reply() == b"220 2.0.0 Ready to start TLS\r\n"
        try:
            await wire.secure(front.ways["starttls"].trust)
        except (ssl.SSLError, ConnectionError):
            return False  # it came once the handshake was waited for: no TLS, and no connection
        await go_on(front, wire, user)
        return True

    outcomes = [await attempt(cut) for cut in range(len(said))]
    # Until its line has ended nothing is begun: up to there all of it has come at once.
    assert all(outcomes[: len(b"STARTTLS\r\n")]) and not all(outcomes), outcomes
    await front.check_account(user, sum(outcomes))
    await check_not_obeyed(front, mallory)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_what_comes_in_place_of_a_handshake_ends_the_connection(front: Front, tls: str) -> None:
    mallory = await front.relay.add_user()
    for injected in injections(mallory):
        if injected == b"NOOP ":
            continue  # too short to be known for no handshake
        wire = await approach(front, tls)
        if tls == "starttls":
            assert (await wire.ask(b"STARTTLS")).startswith(b"220 ")
        with suppress(ConnectionError):
            await wire.write(injected)
            async with asyncio.timeout(10):
                said = await wire.reader.read()
            assert b"250" not in said and b"235" not in said and b"354" not in said
        await wire.close()
    await check_not_obeyed(front, mallory)


# -- a smarthost's -------------------------------------------------------------------------------------------------------------

ONE = Recipient("one@example.net")
BELIEVED = (
    b"250 2.0.0 believed\r\n",
    b"250-believed\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 AUTH PLAIN\r\n",
    # To EHLO, MAIL, RCPT, DATA and the final dot.
    b"250-believed\r\n250-PIPELINING\r\n250 8BITMIME\r\n250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 Go on\r\n250 2.0.0 Delivered\r\n",
    b"250-believed\r\n250 8BITMIME\r\n250-believed\r\n250 8BITMIME\r\n250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 Go on\r\n250 2.0.0 Delivered\r\n",
    b"250-believed\r\n250-",
    b"221 2.0.0 Bye\r\n",
    b"421 4.3.2 Gone\r\n",
)
"""What somebody on the line puts behind the smarthost's reply to STARTTLS."""


@dataclass(slots=True)
class Upstream:
    """A smarthost of few words with somebody on its line; within TLS it knows no extension, and refuses every recipient."""

    certificate: ssl.SSLContext
    injected: bytes
    pause: float
    """Seconds between its reply and what is injected; 0: one write."""
    clear_offers: bytes = b"250-PIPELINING\r\n250-8BITMIME\r\n250-AUTH PLAIN LOGIN\r\n"
    heard: list[bytes] = field(default_factory=list)
    """What it was told within TLS."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One session."""
        with suppress(OSError, asyncio.IncompleteReadError):
            writer.write(b"220 sink.example ESMTP\r\n")
            await reader.readuntil(b"\r\n")
            writer.write(b"250-sink.example\r\n" + self.clear_offers + b"250 STARTTLS\r\n")
            assert await reader.readuntil(b"\r\n") == b"STARTTLS\r\n"
            if self.pause:
                writer.write(b"220 2.0.0 Ready\r\n")
                await asyncio.sleep(self.pause)
                writer.write(self.injected)
            else:
                writer.write(b"220 2.0.0 Ready\r\n" + self.injected)
            await writer.start_tls(self.certificate, ssl_handshake_timeout=2)
            while line := await reader.readuntil(b"\r\n"):
                self.heard.append(line)
                writer.write(self._answer(line[:4].upper()))
        writer.transport.abort()

    def _answer(self, verb: bytes) -> bytes:
        return {
            b"EHLO": b"250 sink.example\r\n", b"MAIL": b"250 2.1.0 Ok\r\n", b"RCPT": b"550 5.1.1 Nobody here\r\n",
            b"DATA": b"503 5.5.1 No recipients\r\n", b"RSET": b"250 2.0.0 Ok\r\n", b"QUIT": b"221 2.0.0 Bye\r\n",
        }.get(verb, b"500 5.5.2 What\r\n")  # fmt: skip


@asynccontextmanager
async def pool_before(upstream: Upstream, ca_file: Path, username: str = "") -> AsyncIterator[Pool]:
    """Sessions with it."""
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    route = Target("127.0.0.1", port, "starttls", ca_file=ca_file, username=username, password=username, timeout=3.0, down_seconds=0.0)
    pool = Pool(route, "relay.example")
    try:
        yield pool
    finally:
        pool.close()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.02)


async def _verdict(pool: Pool, wire: bytes = b"Subject: x\r\n\r\nhello\r\n") -> Verdict:
    attempt = await pool.forward(Envelope("app@example.com", (ONE,)), Message(b"", wire), Terms(10.0))
    return attempt.verdicts[ONE]


@pytest.mark.parametrize("pause", [0.0, 0.05])
@pytest.mark.parametrize("injected", BELIEVED)
async def test_replies_injected_behind_a_smarthosts_starttls_are_not_believed(
    certificate: ssl.SSLContext, ca_file: Path, injected: bytes, pause: float
) -> None:
    upstream = Upstream(certificate, injected, pause)
    async with pool_before(upstream, ca_file) as pool:
        for _ in range(2):
            verdict = await _verdict(pool)
            assert not isinstance(verdict, Delivered)
            if upstream.heard:  # it was thrown away, and what counts is what was said within
                assert isinstance(verdict, Failed) and verdict.reply.status == "5.1.1"
            else:
                assert isinstance(verdict, Deferred) and not verdict.in_doubt


async def test_what_a_smarthost_offered_in_clear_is_forgotten_within_tls(certificate: ssl.SSLContext, ca_file: Path) -> None:
    upstream = Upstream(certificate, b"", 0.0)
    async with pool_before(upstream, ca_file) as pool:
        verdict = await _verdict(pool, "Subject: x\r\n\r\nGrüße\r\n".encode())
        assert isinstance(verdict, Failed) and verdict.reply.status == "5.6.3"
        assert [line[:4] for line in upstream.heard] == [b"EHLO"]


@pytest.mark.parametrize("injected", [b"", *BELIEVED])
async def test_a_password_goes_only_where_auth_is_offered_within_tls(certificate: ssl.SSLContext, ca_file: Path, injected: bytes) -> None:
    upstream = Upstream(certificate, injected, 0.0)
    async with pool_before(upstream, ca_file, "me") as pool:
        verdict = await _verdict(pool)
        assert isinstance(verdict, Deferred) and not verdict.in_doubt
        assert not [line for line in upstream.heard if line.upper().startswith(b"AUTH")]
