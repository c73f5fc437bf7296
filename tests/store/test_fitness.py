"""A store that cannot keep the promises is refused, a weaker one is named with what it loses, a strange one answers nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.store import fitness
from relay.store.client import Script, Store, StoreForeign, StoreUnavailable
from relay.store.embedded import Embedded
from relay.store.fitness import Unfit
from tests.store.patience import patiently

PROBE = Script.of("return redis.call('GET', KEYS[1])")
FACTS = {"window_seconds": "3600", "resolution_seconds": "1", "unit": "messages"}


@pytest.fixture
async def operator(server: Embedded, place: Path) -> AsyncIterator[Store]:
    """A client that asks for no epoch: another program, or a person."""
    client = Store(f"unix://{place / 'data' / 'store.sock'}")
    await client.command("PING")
    yield client
    await client.close()


async def drop_connections(operator: Store) -> None:
    """Cut every connection but the operator's."""
    await operator.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


# -- fit or not ------------------------------------------------------------------------------------------------------------------


async def test_the_embedded_server_is_fit(store: Store) -> None:
    assert await fitness.inspect(store) == []


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "allkeys-random"])
async def test_an_evicting_store_is_unfit(store: Store, policy: str) -> None:
    await store.command("CONFIG", "SET", "maxmemory-policy", policy)
    with pytest.raises(Unfit, match=f"{policy}, it would evict"):
        await fitness.inspect(store)


@pytest.mark.parametrize(("fsync", "loss"), [("everysec", "about one second of acknowledged sends"), ("no", "some acknowledged sends")])
async def test_weaker_persistence_is_named_with_what_it_loses(store: Store, fsync: str, loss: str) -> None:
    await store.command("CONFIG", "SET", "appendfsync", fsync)
    (warning,) = await fitness.inspect(store)
    assert f"appendfsync is {fsync}" in warning and loss in warning


async def test_a_store_without_an_append_only_file_is_named_with_what_it_loses(store: Store) -> None:
    await store.command("CONFIG", "SET", "appendonly", "no")
    (warning,) = await fitness.inspect(store)
    assert "everything since the last snapshot" in warning


async def test_a_store_whose_configuration_may_not_be_read_is_named_with_the_doubt(store: Store, operator: Store, place: Path) -> None:
    await operator.command("ACL", "SETUSER", "relay", "on", "nopass", "~*", "&*", "+@all", "-config")
    guest = Store(f"unix://relay:any@{place / 'data' / 'store.sock'}")
    (warning,) = await fitness.inspect(guest)
    assert "cannot be read" in warning and "power failure" in warning
    await guest.close()


async def test_nodes_that_count_differently_do_not_share_a_store(store: Store) -> None:
    await fitness.agree(store, FACTS)
    await fitness.agree(store, FACTS)
    for name, other in (("window_seconds", "60"), ("resolution_seconds", "10"), ("unit", "recipients")):
        with pytest.raises(Unfit, match=f"{name} = {FACTS[name]}, this one has {other}"):
            await fitness.agree(store, FACTS | {name: other})
    await fitness.agree(store, FACTS)


# -- ours or not -----------------------------------------------------------------------------------------------------------------


async def test_a_new_node_joins_and_finds_its_store_again(operator: Store, place: Path) -> None:
    file = place / "node" / "epoch"
    assert await fitness.join(operator, file) is True
    assert await fitness.join(operator, file) is False
    assert await fitness.is_ours(operator)
    assert await operator.command("GET", "relay:epoch") == file.read_bytes().strip()


async def test_nodes_that_join_the_same_store_share_its_epoch(operator: Store, place: Path) -> None:
    await fitness.join(operator, place / "a")
    await fitness.join(operator, place / "b")
    assert (place / "a").read_bytes() == (place / "b").read_bytes()


async def test_a_store_that_came_back_empty_is_not_joined(operator: Store, place: Path) -> None:
    await fitness.join(operator, place / "epoch")
    operator.epoch = None
    await operator.command("FLUSHALL")
    for _ in range(2):
        with pytest.raises(StoreForeign, match="is empty: epoch none instead of"):
            await fitness.join(operator, place / "epoch")
    operator.epoch = None
    assert await operator.command("EXISTS", "relay:epoch") == 0


async def test_another_store_is_not_joined(operator: Store, place: Path) -> None:
    await fitness.join(operator, place / "epoch")
    operator.epoch = None
    await operator.command("SET", "relay:epoch", "another")
    with pytest.raises(StoreForeign, match="is another store: epoch another instead of"):
        await fitness.join(operator, place / "epoch")


@pytest.mark.parametrize("change", [("FLUSHALL",), ("SET", "relay:epoch", "another")])
async def test_a_new_connection_to_a_store_that_changed_answers_nothing(store: Store, operator: Store, change: tuple[str, ...]) -> None:
    await store.command("SET", "k", "v")
    await operator.command(*change)
    await drop_connections(operator)
    await operator.command("SET", "k", "a stranger's")
    for _ in range(5):
        with pytest.raises(StoreForeign):
            await store.command("GET", "k")
    with pytest.raises(StoreForeign):
        await store.run(PROBE, "k")


async def test_a_subscription_to_a_store_that_changed_never_stands(store: Store, operator: Store) -> None:
    """Whoever thought that it listens would believe that nothing changes."""
    await operator.command("FLUSHALL")
    for _ in range(3):
        with pytest.raises(StoreForeign):
            await anext(store.subscribe("changes"))


async def test_the_right_store_is_taken_back_without_a_restart(store: Store, operator: Store, place: Path) -> None:
    epoch = (place / "data" / "epoch").read_bytes().strip()
    await operator.command("FLUSHALL")
    await drop_connections(operator)
    with pytest.raises(StoreForeign):
        await store.command("PING")
    await operator.command("SET", "relay:epoch", epoch)
    assert await store.command("ECHO", "back") == b"back"


async def test_an_open_connection_to_a_flushed_store_is_told_by_the_epoch(store: Store, operator: Store) -> None:
    assert await fitness.is_ours(store)
    await operator.command("FLUSHALL")
    assert not await fitness.is_ours(store)


async def test_a_store_is_adopted_whatever_it_was_before(store: Store, operator: Store, place: Path) -> None:
    file = place / "data" / "epoch"
    before = file.read_bytes().strip().decode()
    await operator.command("FLUSHALL")
    await drop_connections(operator)
    with pytest.raises(StoreForeign):
        await fitness.join(store, file)
    epoch = await fitness.adopt(store, file)
    assert epoch != before and file.read_bytes().strip().decode() == epoch
    assert await fitness.is_ours(store)
    assert await fitness.join(store, file) is False


async def test_the_epoch_outlives_a_killed_server(store: Store, server: Embedded, place: Path) -> None:
    await store.command("SET", "k", "v")
    os.kill(server.pid, signal.SIGKILL)
    assert await patiently(store, "GET", "k") == b"v"
    assert await fitness.join(store, place / "data" / "epoch") is False


async def test_a_full_store_is_unavailable_not_unfit(store: Store) -> None:
    await store.command("CONFIG", "SET", "maxmemory", "100kb")
    with pytest.raises(StoreUnavailable, match="OOM"):
        await store.command("SET", "k", "v" * 100)
