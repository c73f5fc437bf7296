"""The client of the session benchmark: the same few calls for every server, each group of commands in one write (RFC 2920)."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

PLAIN = base64.b64encode(b"\0smtp123456789\0correct horse battery staple").decode().encode()
ENVELOPE = b"MAIL FROM:<sender@example.com>\r\nRCPT TO:<recipient@example.org>\r\n"
GROUP = 50
"""Commands that are sent at once where commands are measured."""


class Talk(asyncio.Protocol):
    """One connection, seen as replies."""

    def __init__(self) -> None:
        self._rest = b""
        self._codes: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._is_lost = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The server is there."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Keep the last line of each reply."""
        *lines, self._rest = (self._rest + data).split(b"\r\n")
        self._codes += [line[:3] for line in lines if line[3:4] == b" "]
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """The server is gone."""
        self._is_lost = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _more(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    async def expect(self, *codes: bytes) -> None:
        """Wait for as many replies, which must be these."""
        while len(self._codes) < len(codes):
            assert not self._is_lost, f"the server closed after {self._codes}, expected were {codes}"
            await self._more()
        found, self._codes = self._codes[: len(codes)], self._codes[len(codes) :]
        assert found == list(codes), f"{found} instead of {codes}"

    async def ended(self) -> None:
        """Wait until the server has closed."""
        while not self._is_lost:
            await self._more()


@dataclass(frozen=True, slots=True)
class Server:
    """Where to go, and whether to log in."""

    plain: int
    tls: int
    is_authenticating: bool

    async def connect(self, trust: ssl.SSLContext | None = None) -> Talk:
        """Connect and read the greeting."""
        loop = asyncio.get_running_loop()
        where = {"ssl": trust, "server_hostname": "localhost"} if trust else {}
        _, talk = await loop.create_connection(Talk, "127.0.0.1", self.tls if trust else self.plain, **where)  # type: ignore[call-overload]
        await talk.expect(b"220")
        assert isinstance(talk, Talk)
        return talk

    async def enter(self, trust: ssl.SSLContext | None = None) -> Talk:
        """Connect, say EHLO, and log in where that is needed."""
        talk = await self.connect(trust)
        talk.transport.write(b"EHLO client.example\r\n")
        await talk.expect(b"250")
        if self.is_authenticating:
            talk.transport.write(b"AUTH PLAIN " + PLAIN + b"\r\n")
            await talk.expect(b"235")
        return talk


def content(size: int) -> bytes:
    """A message of about that size in wire form, lines of 78 octets, with its final dot."""
    header = (
        b"Date: Sat, 21 Nov 2026 10:00:00 +0000\r\nFrom: Sender <sender@example.com>\r\nTo: recipient@example.org\r\n"
        b"Message-ID: <20261121100000.1@example.com>\r\nSubject: Benchmark\r\nMIME-Version: 1.0\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n\r\n"
    )
    return header + (b"x" * 76 + b"\r\n") * ((size - len(header)) // 78) + b".\r\n"


async def send(talk: Talk, wire: bytes) -> int:
    """One message."""
    talk.transport.write(ENVELOPE + b"DATA\r\n")
    await talk.expect(b"250", b"250", b"354")
    talk.transport.write(wire)
    await talk.expect(b"250")
    return 1


async def leave(talk: Talk) -> None:
    """QUIT."""
    talk.transport.write(b"QUIT\r\n")
    await talk.expect(b"221")
    await talk.ended()
    talk.transport.close()


async def noops(talk: Talk) -> int:
    """A group of NOOPs."""
    talk.transport.write(b"NOOP\r\n" * GROUP)
    await talk.expect(*[b"250"] * GROUP)
    return GROUP


async def envelopes(talk: Talk) -> int:
    """A group of MAIL, RCPT, RSET."""
    talk.transport.write((ENVELOPE + b"RSET\r\n") * (GROUP // 3))
    await talk.expect(*[b"250"] * (GROUP // 3 * 3))
    return GROUP // 3


async def repeat(one: Callable[[], Awaitable[int]], seconds: float) -> int:
    """Do something again and again; returns how many were done."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    done = await one()
    while loop.time() < end:
        done += await one()
    return done
