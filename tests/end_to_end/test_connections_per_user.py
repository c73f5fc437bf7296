"""Connections of one user over the worker processes of a running relay: never more than configured, and room again as they end."""

from __future__ import annotations

import asyncio
import base64
import smtplib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relay.loadkit.sink import Sink
from tests.running import Relay, User, running

LIMIT = 3


def enter(relay: Relay, user: User) -> smtplib.SMTP | None:
    """A connection that has logged in; None if it was told that there are too many."""
    client = smtplib.SMTP("127.0.0.1", relay.smtp, timeout=30)
    client.ehlo()
    claim = base64.b64encode(f"\0{user.name}\0{user.password}".encode()).decode()
    code, text = client.docmd("AUTH", f"PLAIN {claim}")  # its own `login` would go on with another mechanism after a refusal
    if code == 235:
        return client
    client.close()
    assert (code, text) == (421, b"4.7.0 Too many connections for this account")
    return None


@contextmanager
def entered(relay: Relay, user: User, count: int) -> Iterator[list[smtplib.SMTP]]:
    """Connections of a user, as many of `count` as were let in."""
    clients = [client for client in (enter(relay, user) for _ in range(count)) if client is not None]
    try:
        yield clients
    finally:
        for client in clients:
            client.close()


async def test_connections_of_a_user_are_limited_over_all_workers(place: Path, sink: Sink) -> None:
    async with running(place / "relay", sink.port, workers=2, is_started=False) as relay:
        relay.config.write_text(relay.config.read_text().replace("workers = 2\n", f"workers = 2\nmax_connections_per_user = {LIMIT}\n"))
        await relay.start()
        user, other = await relay.add_user(), await relay.add_user()
        await asyncio.to_thread(exercise, relay, user, other)
        refused = [line for line in relay.events("auth_refused") if line["reply"].startswith("421 4.7.0 Too many connections")]
        assert refused and {line["user"] for line in refused} == {user.name, other.name}


def exercise(relay: Relay, user: User, other: User) -> None:
    for _ in range(3):
        let_in = (0, 0)
        end = time.monotonic() + 20
        while let_in != (LIMIT, LIMIT):  # those of the round before have ended, and the relay hears of it a moment later
            assert time.monotonic() < end
            with entered(relay, user, 5) as mine, entered(relay, other, 5) as others:
                let_in = (len(mine), len(others))
                assert max(let_in) <= LIMIT
