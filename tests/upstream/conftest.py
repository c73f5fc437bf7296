"""A scripted smarthost, and pools of sessions with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from relay.mail.envelope import Envelope, Recipient
from relay.mail.verdict import Verdict, Verdicts
from relay.upstream.pool import Pool
from relay.upstream.route import Route
from relay.upstream.smarthost import Message
from relay.upstream.terms import Terms

Opening = Callable[..., AbstractAsyncContextManager[tuple[Pool, Sink]]]

ONE = Recipient("one@d.example")
TWO = Recipient("two@d.example")
MESSAGE = Message(b"Received: from x by y; now\r\n", b"Subject: x\r\n\r\nhello\r\n")


def envelope(*recipients: Recipient, sender: str = "a@b.example") -> Envelope:
    """An envelope to these, or to one."""
    return Envelope(sender, recipients or (ONE,))


async def verdicts_of(pool: Pool, envelope: Envelope, message: Message = MESSAGE, **terms: Any) -> Verdicts:
    """What one attempt says at its end; `terms` beside the route's deadline."""
    attempt = await pool.forward(envelope, message, Terms(**{"deadline": pool.route.forward_deadline, **terms}))
    assert attempt.late is None and set(attempt.verdicts) == set(envelope.recipients)
    return attempt.verdicts


async def verdict_of(pool: Pool, *recipients: Recipient, **terms: Any) -> Verdict:
    """The verdict over each recipient, where it is the same."""
    (verdict,) = set((await verdicts_of(pool, envelope(*recipients), **terms)).values())
    return verdict


@asynccontextmanager
async def opened(*rules: str, route: dict[str, Any] | None = None, **manners: Any) -> AsyncIterator[tuple[Pool, Sink]]:
    """A sink with a script, and a pool whose route leads to it; none is known to be down but by a route that says so."""
    sink = Sink(script=Script.parse(rules), keep=True, **manners)
    await sink.start()
    pool = Pool(replace(Route("127.0.0.1", sink.port), **{"timeout": 5.0, "down_seconds": 0.0, **(route or {})}), "relay.example")
    try:
        yield pool, sink
    finally:
        pool.close()
        for conversation in tuple(sink.conversations):
            conversation.abort()
        await asyncio.sleep(0.01)
        sink.conversations.clear()  # one whose handshake failed is never told that its connection is gone
        await sink.stop()


@pytest.fixture
def open_pool() -> Opening:
    """Opens pools: rules of the script, `route` changes the route's fields, the rest are the sink's."""
    return opened
