"""What a hostile server says to a load costs it its connection, and the load no more than a reply's memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest

from relay.loadkit.attempt import Attempt
from relay.loadkit.caller import MAX_REPLY, UNASKED, Caller, Unwelcome, dial
from relay.loadkit.generator import Load
from tests.loadkit.conftest import StartSink

MOST_SENT = 64 << 20
"""What a server sends before it gives up: far more than a load may take."""


class Hostile:
    """Speaks SMTP until a verb comes, and answers that with the same octets again and again, until it is cut or has sent MOST_SENT."""

    def __init__(self, verb: bytes, begin: bytes, more: bytes) -> None:
        self._verb, self._begin, self._more = verb, begin, more
        self.sent = 0
        self.is_cut = asyncio.Event()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await self._go_on(reader, writer)
        self.is_cut.set()
        writer.close()

    async def _go_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._verb == b"":
            await self._flood(writer)
        writer.write(b"220 hostile.example\r\n")
        while True:
            verb = (await reader.readuntil(b"\r\n"))[:4].upper().strip()
            if verb == self._verb:
                await self._flood(writer)
            elif verb == b"DATA":
                writer.write(b"354 go on\r\n")
                await reader.readuntil(b"\r\n.\r\n")
                if self._verb == b".":
                    await self._flood(writer)
            writer.write(b"250 2.0.0 id Ok\r\n")

    async def _flood(self, writer: asyncio.StreamWriter) -> None:
        writer.write(self._begin)
        while self.sent < MOST_SENT:
            writer.write(self._more)
            self.sent += len(self._more)
            await writer.drain()


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Hostile], Awaitable[int]]]:
    servers: list[asyncio.Server] = []

    async def start(hostile: Hostile) -> int:
        servers.append(await asyncio.start_server(hostile.talk, "127.0.0.1", 0))
        return int(servers[0].sockets[0].getsockname()[1])

    yield start
    for server in servers:
        server.close()


ENDLESS = {
    "a line": (b"250 ", b"x" * 65_536),
    "a line in small pieces": (b"250 ", b"x" * 2048),
    "a reply of many lines": (b"", b"250-and more\r\n" * 1000),
    "replies": (b"", b"250 yes\r\n" * 1000),
}


@pytest.mark.parametrize("what", ENDLESS)
@pytest.mark.parametrize("verb", ["", "EHLO", "DATA", "."])
async def test_what_has_no_end_is_cut(serve: Callable[[Hostile], Awaitable[int]], verb: str, what: str) -> None:
    hostile = Hostile(verb.encode(), *ENDLESS[what])
    port = await serve(hostile)
    attempts = await Load("127.0.0.1", port, connections=1, messages=1, patience=0.0, timeout=60.0).run()
    await asyncio.wait_for(hostile.is_cut.wait(), 60)
    assert hostile.sent < MOST_SENT
    [attempt] = attempts
    if what == "replies":  # the first of them is an answer
        assert attempt.code in (0, 250)
    else:
        assert (attempt.code, attempt.is_taken, attempt.is_unanswered) == (0, False, verb == ".")


@pytest.mark.parametrize("octets", [MAX_REPLY - 100, MAX_REPLY + 100])
async def test_a_long_reply_is_heard_up_to_a_bound(octets: int) -> None:
    for whole in (b"250 " + b"x" * octets + b"\r\n", b"250-" + b"x" * 70 + b"\r\n"):
        caller, transport = Caller(5), Ear()
        caller.connection_made(transport)
        count = octets // len(whole) or 1
        for _ in range(count):
            for place in range(0, len(whole), 4096):
                caller.data_received(whole[place : place + 4096])
        caller.data_received(b"250 end\r\n")
        assert transport.is_aborted == (octets > MAX_REPLY)


@pytest.mark.parametrize("reply", [b"000 nothing", b"199 nearly", b"600 more", b"25", b"\xb2\xb2\xb2 x", b"+25 x", b""])
async def test_what_is_no_code_of_a_reply_ends_the_connection(reply: bytes) -> None:
    caller, transport = Caller(5), Ear()
    caller.connection_made(transport)
    caller.data_received(b"250 fine\r\n" + reply + b"\r\n")
    assert transport.is_aborted
    assert caller.is_lost


async def test_some_replies_may_come_unasked() -> None:
    caller, transport = Caller(5), Ear()
    caller.connection_made(transport)
    caller.data_received(b"421 4.3.2 going\r\n" * UNASKED)
    assert not transport.is_aborted
    caller.data_received(b"421 4.3.2 going\r\n")
    assert transport.is_aborted


class Ear(asyncio.Transport):
    """A transport that only hears that it is to be aborted."""

    is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True


async def test_an_endless_greeting_is_no_welcome(serve: Callable[[Hostile], Awaitable[int]]) -> None:
    port = await serve(Hostile(b"", b"220 ", b"x" * 65_536))
    with pytest.raises(Unwelcome, match="connect: no reply"):
        await dial("127.0.0.1", port, "", "", "none", 60.0)


async def test_an_attempt_knows_its_envelope_and_of_its_recipients_those_accepted(start_sink: StartSink) -> None:
    sink = await start_sink('rcpt match=r1@* reply="550 5.1.1 unknown"', 'rcpt match=r3@* reply="450 4.2.0 busy"')
    attempts = await Load("127.0.0.1", sink.port, connections=1, messages=2, recipients=4, sender="me@load.example").run()
    for attempt, message in zip(attempts, sink.messages, strict=True):
        assert attempt.sender == message.sender == "me@load.example"
        assert tuple(attempt.recipients) == message.recipients == ("r0@load.example", "r2@load.example")
    sink = await start_sink('data reply="451 4.3.0 not now"')
    attempts = await Load("127.0.0.1", sink.port, connections=1, messages=1, recipients=2).run()
    assert [tuple(attempt.recipients) for attempt in attempts] == [("r0@load.example", "r1@load.example")]
    assert Attempt("l", "u", 0, 1).recipients == ()
