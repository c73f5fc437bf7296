"""A book that an earlier version has written is read as it stands, and lives on."""

from __future__ import annotations

import hashlib

import pytest

from relay.quota.ledger import Ledger
from relay.store.client import Store
from tests.quota.history import USER, live
from tests.quota.test_verify import FULL, LATEST, K, differences, steps, store, url

__all__ = ["store", "url"]


async def as_an_earlier_version_left_it(store: Store) -> Ledger:
    """A book whose records are a stream, and whose holds are counted by another digest."""
    ledger = await live(store, FULL)
    records = await ledger.records(USER)
    entries = [
        f"{each.id} {each.units} {each.accepted} {each.rejected} {each.outcome} {each.at} {each.taken} {each.all_rejected}"
        for each in records
    ]
    flat = [part for name in ("open", "lapsed") for part in await store.command("ZRANGE", f"{K}:{name}", 0, -1, "WITHSCORES")]
    holds = sum(int(hashlib.sha1(b":".join(pair)).hexdigest()[:8], 16) for pair in zip(flat[::2], flat[1::2], strict=True))
    await store.many([("DEL", f"{K}:settles"), ("HDEL", K, "marks"), ("HSET", K, "holds", holds % 2**32)])
    await store.many([("XADD", f"{K}:settles", "*", "r", text) for text in entries])
    return ledger


async def test_a_book_of_an_earlier_version_has_no_difference_and_lives_on(store: Store) -> None:
    ledger = await as_an_earlier_version_left_it(store)
    before = await ledger.records(USER)
    assert len(before) >= FULL and await differences(ledger) == []
    for step in await steps(store, ledger):
        await step()
        assert await differences(ledger) == []
    after = await ledger.records(USER)
    assert after[: len(before)] == before and after[len(before)].id == "lapsed1"
    assert await store.command("TYPE", f"{K}:settles") == b"list" and await store.command("HEXISTS", K, "holds") == 0


@pytest.mark.parametrize("plant", ["open: an id changed", "lapsed: one removed", "lapsed: its instant changed"])
async def test_a_plant_in_a_book_of_an_earlier_version_is_found(store: Store, plant: str) -> None:
    ledger = await as_an_earlier_version_left_it(store)
    await store.many(LATEST[plant][0])
    assert any("holds: expected" in line for line in await differences(ledger))
