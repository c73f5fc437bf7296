"""Exactly the limit, whatever comes at it: many connections over several workers, and over several nodes, on one user."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from relay.loadkit.attempt import Attempt
from relay.loadkit.generator import Load
from relay.loadkit.sink import Sink
from relay.store.embedded import Embedded
from tests.running import Relay, User, running

LIMIT = 1000
ATTEMPTS = 5000
CONNECTIONS = 100


@pytest.mark.parametrize("unit", ["messages", "recipients"])
async def test_one_user_on_a_hundred_connections_over_four_workers_gets_exactly_its_limit(place: Path, sink: Sink, unit: str) -> None:
    async with running(place / "relay", sink.port, f"[quota]\nunit = '{unit}'\n", workers=4) as relay:
        user = await relay.add_user(hourly=LIMIT)
        attempts = await _load(relay, user, ATTEMPTS, CONNECTIONS)
        _check(attempts, sink, relay.events("taken"))
        assert (await relay.usage(user))["sent_in_window"] == LIMIT


async def test_one_user_on_two_nodes_that_share_a_store_gets_exactly_its_limit(place: Path, sink: Sink) -> None:
    server = Embedded(place / "store", None, "256mb", lambda name, text: None)
    shared = f"[store]\nurl = '{await server.start()}'\n[accounts]\nkey_file = '{place / 'key'}'\n"
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(running(place / name, sink.port, shared, workers=2)) for name in ("one", "two")]
        user = await nodes[0].add_user(hourly=LIMIT)
        halves = await asyncio.gather(*(_load(node, user, ATTEMPTS // 2, CONNECTIONS // 2) for node in nodes))
        _check([attempt for half in halves for attempt in half], sink, [line for node in nodes for line in node.events("taken")])
        assert all([(await node.usage(user))["sent_in_window"] == LIMIT for node in nodes])
    await server.stop()


async def test_the_recipients_unit_counts_each_recipient_and_never_a_message_in_part(place: Path, sink: Sink) -> None:
    async with running(place / "relay", sink.port, "[quota]\nunit = 'recipients'\n") as relay:
        user = await relay.add_user(hourly=100)
        load = Load("127.0.0.1", relay.smtp, [(user.name, user.password)], connections=20, messages=100, recipients=7)
        attempts = await load.run()
        taken = [attempt for attempt in attempts if attempt.is_taken]
        usage = await relay.usage(user)
        assert len(taken) * 7 == usage["sent_in_window"] == 98
        assert {attempt.code for attempt in attempts} == {250, 451}
        assert sum(len(message.recipients) for message in sink.messages) == 98


async def _load(relay: Relay, user: User, messages: int, connections: int) -> list[Attempt]:
    load = Load("127.0.0.1", relay.smtp, [(user.name, user.password)], connections=connections, messages=messages, size=500)
    return await load.run()


def _check(attempts: list[Attempt], sink: Sink, taken: list[dict[str, object]]) -> None:
    codes = Counter(attempt.code for attempt in attempts)
    assert codes == {250: LIMIT, 451: ATTEMPTS - LIMIT}, codes
    assert sum(attempt.is_taken for attempt in attempts) == LIMIT
    assert (sink.intake.answered, len(sink.ids), sink.damaged) == (LIMIT, LIMIT, 0)
    assert {line["id"] for line in taken} == {attempt.relay_id for attempt in attempts if attempt.is_taken}
    instants = sorted(int(str(line["at"])) for line in taken)
    assert len(instants) == LIMIT
    assert instants[-1] - instants[0] < 3_600_000_000
