"""Records are written short: ids that begin as the first of all does, without that; and are read in full all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from relay.quota.audit import INSTANT
from relay.quota.ledger import Hold, Ledger, key
from relay.quota.limit import Rules
from relay.store.client import Store

USER = "ada"
K = key(USER)
ONE, OTHER = "0abcdefg", "1hijklmn"
KEPT = 8


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    client = Store(url)
    await client.command("FLUSHALL")
    await client.command("HSET", K, "status", "E", "ostatus", "E", "gen", 1, "hourly", 10_000, "total", 10_000)
    yield client
    await client.close()


async def send(ledger: Ledger, ids: Sequence[str]) -> None:
    for id in ids:
        assert isinstance(await ledger.reserve(USER, id, 1, 1), Hold)
        assert (await ledger.settle(USER, id, 1, 1)).outcome == "ok"


def ids_of(process: str, count: int, first: int = 0) -> list[str]:
    return [f"{process}{number:06x}" for number in range(first, first + count)]


async def see(ledger: Ledger, sent: Sequence[str]) -> None:
    """Assert that the records are those of the latest of what was sent, and that nothing is wrong with them."""
    records = await ledger.records(USER)
    assert [record.id for record in records] == list(sent)[-len(records) :] and len(records) >= min(KEPT, len(sent))
    found = await ledger.audit(USER)
    assert found is not None and found.differences == ()


@pytest.mark.parametrize(
    "parts",
    [
        [(ONE, 40)],
        [(ONE, 5), (OTHER, 40), (ONE, 40)],
        [("w1.", 3), (ONE, 30), ("w1.", 9), (OTHER, 30)],
        [(ONE, 1), ("x", 2), (OTHER, 1), (ONE, 1), (OTHER, 30)],
    ],
)
async def test_records_are_read_in_full_whoever_gave_the_ids_and_however_they_are_cut(store: Store, parts: list[tuple[str, int]]) -> None:
    ledger = Ledger(store, Rules(records=KEPT))
    sent: list[str] = []
    for process, count in parts:
        for id in ids_of(process, count, len(sent)):
            await send(ledger, [id])
            sent.append(id)
            await see(ledger, sent)


async def test_only_the_first_id_of_a_process_is_written_whole(store: Store) -> None:
    ledger = Ledger(store, Rules(records=100))
    await send(ledger, ids_of(ONE, 3))
    entries = await store.command("LRANGE", f"{K}:settles", 0, -1)
    assert [entry[INSTANT:] for entry in entries] == [b"1 0abcdefg000000", b"2 ,000001", b"3 ,000002"]


async def test_a_list_that_has_lost_its_first_says_so(store: Store) -> None:
    ledger = Ledger(store, Rules(records=100))
    await send(ledger, ids_of(ONE, 3))
    await store.command("LPOP", f"{K}:settles")
    found = await ledger.audit(USER)
    assert found is not None and any("cannot be read" in line for line in found.differences)
