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
from relay.upstream.pool import Pool
from relay.upstream.route import Route
from relay.upstream.smarthost import Message

Opening = Callable[..., AbstractAsyncContextManager[tuple[Pool, Sink]]]

ONE = Recipient("one@d.example")
TWO = Recipient("two@d.example")
MESSAGE = Message(b"Received: from x by y; now\r\n", b"Subject: x\r\n\r\nhello\r\n")


def envelope(*recipients: Recipient, sender: str = "a@b.example") -> Envelope:
    """An envelope to these, or to one."""
    return Envelope(sender, recipients or (ONE,))


@asynccontextmanager
async def opened(*rules: str, route: dict[str, Any] | None = None, **manners: Any) -> AsyncIterator[tuple[Pool, Sink]]:
    """A sink with a script, and a pool whose route leads to it."""
    sink = Sink(script=Script.parse(rules), keep=True, **manners)
    await sink.start()
    pool = Pool(replace(Route("127.0.0.1", sink.port), **{"timeout": 5.0, "forward_deadline": 5.0, **(route or {})}), "relay.example")
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
