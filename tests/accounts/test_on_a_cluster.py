"""Guessing and connections are counted on a Cluster as on one server: what belongs together is one slot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from relay.accounts.presence import Presence
from relay.accounts.throttle import Throttle
from relay.store.client import Store
from tests.accounts.conftest import Limits
from tests.quota.cluster import running_cluster


@pytest.fixture
async def clustered() -> AsyncIterator[Store]:
    async with running_cluster() as nodes:
        store = Store(f"redis+cluster://127.0.0.1:{nodes[0].port}")
        yield store
        await store.close()


async def guess(throttle: Throttle, address: str) -> int:
    with throttle.attempt(address, "a") as attempt:
        if await attempt.admitted():
            await attempt.failed()
        return attempt.wait


async def test_guesses_and_connections_of_many_are_counted_wherever_their_slots_lie(clustered: Store) -> None:
    throttle = Throttle(clustered, Limits())
    for number in range(1, 9):
        waits = await asyncio.gather(*(guess(throttle, f"192.0.2.{number}") for _ in range(6)))
        assert sorted(waits) == [0, 0, 0, 20, 20, 20]
    workers = [Presence(clustered, f"w{i}", 3) for i in range(2)]
    for number in range(8):
        entered = await asyncio.gather(*(workers[i % 2].enter(f"user{number}") for i in range(6)))
        assert sum(entered) == 3
    for worker in workers:
        await worker.close()
    for number in range(8):
        assert await clustered.command("EXISTS", f"{{u:user{number}}}:sessions") == 0
