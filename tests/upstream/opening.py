"""Smarthosts to open sessions with, and what is said where there is none."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from relay.upstream.guard import Guard
from relay.upstream.opening import NoSession, connect
from relay.upstream.route import Security, Target, tls_context
from relay.upstream.smarthost import Smarthost

TLS: dict[Security, str] = {"starttls": "starttls", "opportunistic": "starttls", "tls": "implicit"}
"""What a sink does for each kind of TLS."""

PASSWORD = "hidden"

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def a_sink(*rules: str, port: int = 0, **manners: Any) -> AsyncIterator[Sink]:
    """A scripted smarthost."""
    sink = Sink(port=port, script=Script.parse(rules), **manners)
    await sink.start()
    try:
        yield sink
    finally:
        for conversation in tuple(sink.conversations):
            conversation.abort()
        await asyncio.sleep(0.01)
        sink.conversations.clear()  # one whose handshake failed is never told that its connection is gone
        await sink.stop()


@asynccontextmanager
async def a_server(answer: Answer) -> AsyncIterator[int]:
    """Something that listens and is no smarthost; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await answer(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.01)


def leading(*addresses: str) -> Guard:
    """A guard to which this machine is open; every name leads to these addresses."""

    async def look_up(host: str, port: int) -> list[str]:
        return list(addresses)

    return Guard(["127.0.0.0/8", "::1/128"], range(1024, 65536), look_up)


async def opened(target: Target, guard: Guard | None = None, context: ssl.SSLContext | None = None) -> Smarthost:
    """A session."""
    return await connect(target, context or tls_context(target), "relay.example", guard)


async def refused(target: Target, guard: Guard | None = None) -> NoSession:
    """What is said of a session that is not had; never a secret, and in the verdict never a name."""
    with pytest.raises(NoSession) as caught:
        (await opened(replace(target, timeout=min(target.timeout, 2.0)), guard)).abort()
    none = caught.value
    assert PASSWORD not in f"{none.text} {none.reply} {none.verdict.reply} {none!r}"
    assert none.verdict.unreached and not none.verdict.in_doubt and none.verdict.reply.code == 451
    assert target.host not in none.verdict.reply.text
    assert "\n" not in none.text and len(none.text) > 20
    return none
