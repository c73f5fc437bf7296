"""A sink on a real socket, and a plain client to talk to it byte by byte."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
import trustme
import uvloop

from relay.loadkit.script import Script
from relay.loadkit.sink import Sink

StartSink = Callable[..., Awaitable[Sink]]


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop of the command line, and the standard library's: their transports differ."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


class Talker:
    """Sends octets and reads replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def hear(self) -> str:
        """One whole reply, lines joined by newlines; "" at the end of the connection."""
        lines = []
        async with asyncio.timeout(5):
            while line := (await self.reader.readline()).decode():
                lines.append(line.rstrip("\r\n"))
                if line[3:4] != "-":
                    break
        return "\n".join(lines)

    async def say(self, *lines: str) -> list[str]:
        """Send lines in one flight and hear as many replies."""
        self.writer.write("".join(f"{line}\r\n" for line in lines).encode())
        return [await self.hear() for _ in lines]

    async def say_raw(self, octets: bytes) -> str:
        """Send octets and hear one reply."""
        self.writer.write(octets)
        return await self.hear()

    async def begin(self, *recipients: str) -> None:
        """Greet and come to the point where data is asked for."""
        await self.say("EHLO client.example", "MAIL FROM:<a@client.example>")
        await self.say(*(f"RCPT TO:<{name}>" for name in recipients or ("b@sink.example",)))
        assert (await self.say("DATA"))[0].startswith("354")


@pytest.fixture
async def start_sink() -> AsyncIterator[StartSink]:
    """Start a sink with these rules; it is stopped at the end."""
    async with AsyncExitStack() as stack:

        async def start(*rules: str, **manners: Any) -> Sink:
            sink = Sink(script=Script.parse(rules), **manners)
            await sink.start()
            stack.push_async_callback(sink.stop)
            return sink

        yield start


@pytest.fixture
async def talk() -> AsyncIterator[Callable[[Sink], Awaitable[Talker]]]:
    """Connect to a sink."""
    writers: list[asyncio.StreamWriter] = []

    async def connect(sink: Sink) -> Talker:
        reader, writer = await asyncio.open_connection("127.0.0.1", sink.port)
        writers.append(writer)
        return Talker(reader, writer)

    yield connect
    for writer in writers:
        writer.close()
        with suppress(ConnectionError):  # the sink was told to cut it
            await writer.wait_closed()


@pytest.fixture(scope="session")
def certificate() -> ssl.SSLContext:
    """A server's certificate that nobody knows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("sink.example").configure_cert(context)
    return context
