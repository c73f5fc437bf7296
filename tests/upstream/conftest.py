"""Scripted smarthosts, pools of sessions with one, and a dispatch over several."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest

from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from relay.mail.envelope import Envelope, Recipient
from relay.mail.verdict import Verdict, Verdicts
from relay.store.client import Store
from relay.upstream.dispatch import Dispatch
from relay.upstream.guard import Guard
from relay.upstream.pool import Pool
from relay.upstream.route import Choice, Route, Target
from relay.upstream.smarthost import Message
from relay.upstream.terms import Attempt, Terms

Opening = Callable[..., AbstractAsyncContextManager[tuple[Pool, Sink]]]

DEADLINE = 20.0
ONE = Recipient("one@d.example")
TWO = Recipient("two@d.example")
MESSAGE = Message(b"Received: from x by y; now\r\n", b"Subject: x\r\n\r\nhello\r\n")


def envelope(*recipients: Recipient, sender: str = "a@b.example") -> Envelope:
    """An envelope to these, or to one."""
    return Envelope(sender, recipients or (ONE,))


async def verdicts_of(pool: Pool, envelope: Envelope, message: Message = MESSAGE, **terms: Any) -> Verdicts:
    """What one attempt says at its end; `terms` beside a deadline that is far away."""
    attempt = await pool.forward(envelope, message, Terms(**{"deadline": DEADLINE, **terms}))
    assert attempt.late is None and set(attempt.verdicts) == set(envelope.recipients)
    return attempt.verdicts


async def verdict_of(pool: Pool, *recipients: Recipient, **terms: Any) -> Verdict:
    """The verdict over each recipient, where it is the same."""
    (verdict,) = set((await verdicts_of(pool, envelope(*recipients), **terms)).values())
    return verdict


def target_of(sink: Sink, **fields: Any) -> Target:
    """A sink as a target that is never known to be down; `timeout` is that of every step."""
    timeout = fields.get("timeout", 5.0)
    usual = {"timeout": timeout, "connect_timeout": timeout, "greeting_timeout": timeout, "down_seconds": 0.0}
    return replace(Target("127.0.0.1", sink.port), **{**usual, **fields})


@asynccontextmanager
async def opened(*rules: str, route: dict[str, Any] | None = None, **manners: Any) -> AsyncIterator[tuple[Pool, Sink]]:
    """A sink with a script, and a pool of sessions with it; it is never known to be down but where `route` says so."""
    sink = Sink(script=Script.parse(rules), keep=True, **manners)
    await sink.start()
    pool = Pool(target_of(sink, **(route or {})), "relay.example")
    try:
        yield pool, sink
    finally:
        pool.close()
        await end(sink)


async def end(sink: Sink) -> None:
    """Stop a sink, whatever it is about."""
    for conversation in tuple(sink.conversations):
        conversation.abort()
    await asyncio.sleep(0.01)
    sink.conversations.clear()  # one whose handshake failed is never told that its connection is gone
    await sink.stop()


@pytest.fixture
def open_pool() -> Opening:
    """Opens pools: rules of the script, `route` changes the fields of its target, the rest are the sink's."""
    return opened


@dataclass(slots=True)
class Fleet:
    """Sinks that are the smarthosts of one route, and a dispatch that sends to them."""

    sinks: list[Sink]
    route: Route
    dispatch: Dispatch
    told: list[tuple[str, str]] = field(default_factory=list)
    """Events of the dispatch: name and port."""

    def script(self, number: int, *rules: str) -> None:
        """Give one sink another script."""
        self.sinks[number].script = Script.parse(rules)

    def answered(self) -> list[int]:
        """The messages that each took."""
        return [sink.intake.answered for sink in self.sinks]

    def connections(self) -> list[int]:
        """The connections that each had."""
        return [sink.intake.connections for sink in self.sinks]

    def terms(self, **terms: Any) -> Terms:
        """Terms beside a deadline that is far away."""
        return Terms(**{"deadline": DEADLINE, **terms})

    async def forward(self, *recipients: Recipient, user: str = "user", **terms: Any) -> Attempt:
        """Offer a message to the route."""
        return await self.dispatch.forward(self.route, user, envelope(*recipients), MESSAGE, self.terms(**terms))

    async def verdicts(self, *recipients: Recipient, **terms: Any) -> Verdicts:
        """What one attempt says at its end."""
        attempt = await self.forward(*recipients, **terms)
        assert attempt.late is None
        return attempt.verdicts

    async def verdict(self, **terms: Any) -> Verdict:
        """The verdict over one recipient."""
        return (await self.verdicts(**terms))[ONE]


OpeningFleet = Callable[..., AbstractAsyncContextManager[Fleet]]


@asynccontextmanager
async def opened_fleet(
    count: int, *rules: str, priorities: tuple[int, ...] = (), weights: tuple[int, ...] = (), fields: dict[str, Any] | None = None,
    first: dict[str, Any] | None = None, store: Store | None = None, rest: float = 60.0, manners: dict[str, Any] | None = None,
) -> AsyncIterator[Fleet]:  # fmt: skip
    """So many sinks with one script, and a dispatch; `fields` are of all targets, `first` of the first, `manners` of the sinks."""
    sinks = [Sink(script=Script.parse(rules), keep=True, **(manners or {})) for _ in range(count)]
    for sink in sinks:
        await sink.start()
    targets = [target_of(sink, **{**(fields or {}), **(first if first and sink is sinks[0] else {})}) for sink in sinks]
    choices = (Choice(target, *order) for target, *order in zip(targets, priorities or [0] * count, weights or [1] * count, strict=True))
    told: list[tuple[str, str]] = []
    dispatch = Dispatch(
        "relay.example", Guard(), store, dice=Random(1), rest=rest, on_event=lambda name, host, text: told.append((name, host))
    )  # fmt: skip
    try:
        yield Fleet(sinks, Route("", tuple(choices)), dispatch, told)
    finally:
        dispatch.close()
        for sink in sinks:
            await end(sink)


@pytest.fixture
def open_fleet() -> OpeningFleet:
    """Opens fleets."""
    return opened_fleet
