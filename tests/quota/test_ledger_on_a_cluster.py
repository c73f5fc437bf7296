"""The ledger on a Cluster of three nodes: one user is one slot, and every rule holds wherever that slot lies."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from relay.quota.ledger import Hold, Ledger, Refusal, key
from relay.quota.limit import Rules
from relay.store import fitness
from relay.store.client import Store, StoreForeign, StoreRefused, StoreUnavailable
from tests.quota.cluster import Node, running_cluster

pytestmark = pytest.mark.asyncio(loop_scope="module")

USERS = [f"user{number}" for number in range(24)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes() -> AsyncIterator[list[Node]]:
    async with running_cluster() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def clustered(nodes: list[Node]) -> AsyncIterator[Store]:
    """A client of the Cluster; each user may send three in an hour and five ever."""
    for node in nodes:
        await node.store.command("FLUSHALL")
    store = Store(f"redis+cluster://127.0.0.1:{nodes[0].port}")
    for user in USERS:
        await store.command("HSET", key(user), "status", "E", "ostatus", "E", "gen", 1, "hourly", 3, "total", 5)
    yield store
    await store.close()


async def send(ledger: Ledger, user: str, id: str) -> None:
    hold = await ledger.reserve(user, id, 1, 1)
    assert isinstance(hold, Hold)
    assert (await ledger.settle(user, id, 1, 1)).outcome == "ok"


async def refused(ledger: Ledger, user: str, units: int = 1, generation: int = 1) -> str:
    answer = await ledger.reserve(user, "refused", units, generation)
    assert isinstance(answer, Refusal)
    return answer.reason


async def test_the_rules_hold_for_users_on_every_node(clustered: Store, nodes: list[Node]) -> None:
    assert all([await node.store.command("DBSIZE") > 0 for node in nodes])
    ledger = Ledger(clustered, Rules())
    await asyncio.gather(*(every_rule_once(ledger, clustered, user) for user in USERS))
    # All keys of a user are on its node, and only there.
    sizes = [await node.store.command("DBSIZE") for node in nodes]
    assert all(size % 3 == 0 for size in sizes) and sum(sizes) == 3 * len(USERS)  # the hash, the log and the records
    for user in USERS:
        found = await ledger.audit(user)
        assert found is not None and found.differences == () and found.records == 4


async def every_rule_once(ledger: Ledger, store: Store, user: str) -> None:
    assert await refused(ledger, user, units=4) == "never"
    assert await refused(ledger, user, generation=0) == "stale"
    assert isinstance(await ledger.reserve(user, "1", 2, 1), Hold)
    assert isinstance(await ledger.reserve(user, "1", 2, 1), Hold)
    assert await refused(ledger, user, units=2) == "in_flight"
    assert list(await ledger.open_holds(user)) == ["1:2"]
    settled = [await ledger.settle(user, "1", 2, 2) for _ in range(2)]
    assert [settlement.outcome for settlement in settled] == ["ok", "done"]
    await send(ledger, user, "2")
    answer = await ledger.reserve(user, "3", 1, 1)
    assert isinstance(answer, Refusal) and answer.reason == "hourly"
    assert answer.retry_after is not None and 3590 < answer.retry_after <= 3601
    await store.command("HSET", key(user), "hourly", "")
    await send(ledger, user, "4")
    await send(ledger, user, "5")
    assert await refused(ledger, user) == "total"
    await store.command("HSET", key(user), "status", "D")
    assert await refused(ledger, user) == "disabled"
    usage = await ledger.usage(user)
    assert usage is not None and (usage.taken, usage.window, usage.in_flight, usage.retry_after) == (5, 5, 0, None)


async def test_a_script_is_sent_whole_to_a_node_that_does_not_know_it(clustered: Store, nodes: list[Node]) -> None:
    ledger = Ledger(clustered, Rules())
    await asyncio.gather(*(send(ledger, user, "1") for user in USERS))
    await nodes[1].store.command("SCRIPT", "FLUSH")
    await asyncio.gather(*(send(ledger, user, "2") for user in USERS))
    books = [await ledger.usage(user) for user in USERS]
    assert all(book is not None and book.taken == 2 for book in books)


async def test_a_change_published_on_any_node_is_heard(clustered: Store, nodes: list[Node]) -> None:
    heard = clustered.subscribe("relay:changes")
    async with asyncio.timeout(10):
        assert await anext(heard) is None
        await clustered.command("PUBLISH", "relay:changes", "ada")
        assert await anext(heard) == "ada"
        for node in nodes:
            await node.store.command("PUBLISH", "relay:changes", f"from {node.port}")
            assert await anext(heard) == f"from {node.port}"
    await heard.aclose()  # type: ignore[attr-defined]


async def test_a_cluster_is_fit(clustered: Store) -> None:
    async with asyncio.timeout(3):
        assert await fitness.inspect(clustered) == []


async def test_a_command_that_cannot_be_routed_is_answered(clustered: Store) -> None:
    async with asyncio.timeout(3):
        with pytest.raises((StoreUnavailable, StoreRefused)):
            await clustered.command("GET")


async def test_a_cluster_is_joined_and_recognised(clustered: Store, place: Path) -> None:
    assert await fitness.join(clustered, place / "epoch") is True
    await fitness.agree(clustered, {"unit": "messages"})
    with pytest.raises(fitness.Unfit, match="unit = messages"):
        await fitness.agree(clustered, {"unit": "recipients"})
    assert await fitness.join(clustered, place / "epoch") is False
    assert await fitness.is_ours(clustered)
    await clustered.command("DEL", "relay:epoch")
    assert not await fitness.is_ours(clustered)
    with pytest.raises(StoreForeign, match="is empty"):
        await fitness.join(clustered, place / "epoch")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_the_first_calls_of_a_client_may_be_many(nodes: list[Node]) -> None:
    store = Store(f"redis+cluster://127.0.0.1:{nodes[0].port}")
    try:
        async with asyncio.timeout(3):
            await asyncio.gather(*(store.command("SET", key(user), "x") for user in USERS * 3))
    finally:
        await store.close()
        del store
        gc.collect()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_without_one_of_its_nodes_the_users_there_wait(clustered: Store, nodes: list[Node]) -> None:
    """The last test of this Cluster."""
    # A client of its own: redis-py drops the connections of a Cluster that changed without closing them.
    store = Store(f"redis+cluster://127.0.0.1:{nodes[0].port}")
    await store.command("PING")
    ledger = Ledger(store, Rules())
    await asyncio.gather(*(send(ledger, user, "1") for user in USERS))
    lost = [user for user in USERS if await nodes[2].store.command("CLUSTER", "KEYSLOT", key(user)) >= 2 * 5462]
    assert lost
    nodes[2].process.kill()
    for user in lost[:2]:
        with pytest.raises(StoreUnavailable):
            await ledger.reserve(user, "2", 1, 1)
    for user in set(USERS) - set(lost):
        await send(ledger, user, "2")
    await store.close()
    del store, ledger
    gc.collect()
