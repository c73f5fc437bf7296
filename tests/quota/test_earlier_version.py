"""A book that an earlier version has written is read as it stands, and lives on."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

import pytest

from relay.quota.ledger import Ledger
from relay.store.client import Store, StoreRefused
from tests.quota.counters import write_a_field_each
from tests.quota.history import USER, live, send
from tests.quota.test_verify import FEW, FULL, LATEST, K, Plant, differences, hset, steps, store

__all__ = ["store"]

FIELDS = ("gone", "sum", "rejected", "rgone", "rsum", "held", "marks", "last", "holds")


async def with_a_field_each(store: Store, records: int = FULL) -> Ledger:
    """A book that has a field for each counter."""
    ledger = await live(store, records)
    await write_a_field_each(store, K)
    return ledger


async def with_a_stream(store: Store, records: int = FULL) -> Ledger:
    """A book whose records are a stream besides, and whose holds are counted by another digest."""
    ledger = await with_a_field_each(store, records)
    entries = [
        f"{each.id} {each.units} {each.accepted} {each.rejected} {each.outcome} {each.at} {each.taken} {each.all_rejected}"
        for each in await ledger.records(USER)
    ]
    flat = [part for name in ("open", "lapsed") for part in await store.command("ZRANGE", f"{K}:{name}", 0, -1, "WITHSCORES")]
    holds = sum(int(hashlib.sha1(b":".join(pair)).hexdigest()[:8], 16) for pair in zip(flat[::2], flat[1::2], strict=True))
    await store.many([("DEL", f"{K}:settles"), ("HDEL", K, "marks"), ("HSET", K, "holds", holds % 2**32)])
    await store.many([("XADD", f"{K}:settles", "*", "r", text) for text in entries])
    return ledger


async def with_sums_alone(store: Store, records: int = FULL) -> Ledger:
    """A book of before there were records and digests."""
    ledger = await with_a_field_each(store, records)
    await store.many([("DEL", f"{K}:settles"), ("HDEL", K, "sum", "rsum", "marks")])
    return ledger


Forms = Callable[[Store, int], Awaitable[Ledger]]
FORMS = pytest.mark.parametrize("form", [with_a_field_each, with_a_stream])


@FORMS
@pytest.mark.parametrize("records", [FULL, FEW])
async def test_a_book_of_an_earlier_version_has_no_difference_and_lives_on(store: Store, form: Forms, records: int) -> None:
    ledger = await form(store, records)
    before = await ledger.records(USER)
    assert len(before) >= records and await differences(ledger) == []
    for step in await steps(store, ledger):
        await step()
        assert await differences(ledger) == []
    after = await ledger.records(USER)
    kept = [record for record in before if record in after]
    assert before[len(before) - len(kept) :] == kept and (records == FEW or after[len(kept)].id == "lapsed1")
    assert await store.command("TYPE", f"{K}:settles") == b"list"
    assert await store.command("HMGET", K, *FIELDS) == [None] * len(FIELDS)


@FORMS
async def test_what_a_book_of_an_earlier_version_counts_is_what_it_counted(store: Store, form: Forms) -> None:
    before = await (await live(store, FULL)).usage(USER)
    assert before is not None and await (await form(store, FULL)).usage(USER) == before


PLANTS: dict[str, tuple[Plant, str]] = {
    "taken": ((("HINCRBY", K, "taken", 1),), "taken"),
    "taken, no number": (hset("taken", "x"), "taken: expected a whole number, found 'x'"),
    "gone": ((("HINCRBY", K, "gone", 1),), "sum: expected taken - gone"),
    "sum": ((("HINCRBY", K, "sum", 1),), "sum: expected taken - gone"),
    "rgone": ((("HINCRBY", K, "rgone", 1),), "rsum: expected rejected - rgone"),
    "rsum": ((("HINCRBY", K, "rsum", 1),), "rsum: expected rejected - rgone"),
    "held": ((("HINCRBY", K, "held", 1),), "held: expected 6 (the open holds), found 7"),
    "last": ((("HINCRBY", K, "last", -1),), "last: expected"),
    "marks": ((("HINCRBY", K, "marks", 1),), "marks: expected"),
    "last, gone": ((("HDEL", K, "last"),), "last: expected"),
    "sum, gone": ((("HDEL", K, "sum"),), "sum: expected beside the other counters, found none"),
    "rsum, gone": ((("HDEL", K, "rsum"),), "rsum: expected beside the other counters, found none"),
    "marks, gone": ((("HDEL", K, "marks"),), "marks: expected beside the other counters, found none"),
    "marks, no number": (hset("marks", "x"), "marks: expected a whole number, found 'x'"),
}


@pytest.mark.parametrize("plant", PLANTS)
async def test_a_plant_among_the_counters_of_an_earlier_version_is_found(store: Store, plant: str) -> None:
    ledger = await with_a_field_each(store)
    planted, text = PLANTS[plant]
    await store.many(planted)
    assert any(text in line for line in await differences(ledger)), await differences(ledger)


@pytest.mark.parametrize("plant", ["gone", "sum", "rsum", "held", "marks"])
async def test_a_plant_in_a_book_of_an_earlier_version_is_not_hidden_when_it_is_used(store: Store, plant: str) -> None:
    ledger = await with_a_field_each(store)
    await store.many(PLANTS[plant][0])
    await send(ledger, "n1", 1, 1, 0)
    counter = "sum" if plant == "gone" else plant
    assert any(line.startswith(counter) for line in await differences(ledger)), await differences(ledger)


@pytest.mark.parametrize("plant", ["open: an id changed", "lapsed: one removed", "lapsed: its instant changed"])
async def test_a_plant_among_the_holds_of_an_earlier_version_is_found(store: Store, plant: str) -> None:
    ledger = await with_a_stream(store)
    await store.many(LATEST[plant][0])
    assert any("holds: expected" in line for line in await differences(ledger))


@pytest.mark.parametrize("counter", ["taken", "gone", "rejected", "rgone", "held", "marks", "last"])
async def test_a_book_of_an_earlier_version_whose_counter_is_no_number_is_refused_until_it_is_mended(store: Store, counter: str) -> None:
    ledger = await with_a_field_each(store)
    before = await store.command("HGET", K, counter)
    await store.many(hset(counter, "x"))
    for _ in range(2):
        with pytest.raises(StoreRefused):
            await ledger.settle(USER, "open2", 5, 5)
    await store.command("HSET", K, counter, before)
    assert (await ledger.settle(USER, "open2", 5, 5)).outcome == "ok"
    assert await differences(ledger) == []


@pytest.mark.parametrize("number", ["0", "1.5", "nan", "inf", "-3", "1e300", "0x10"])
async def test_a_number_written_over_all_counters_is_refused_and_not_taken_for_an_earlier_version(store: Store, number: str) -> None:
    ledger = await live(store, FULL)
    await store.many(hset("taken", number))
    for _ in range(2):
        with pytest.raises(StoreRefused):
            await ledger.settle(USER, "open2", 5, 5)
    assert await store.command("HGET", K, "taken") == number.encode()


async def test_a_digest_taken_away_with_a_hold_is_not_counted_anew(store: Store) -> None:
    ledger = await with_a_field_each(store)
    await store.many([("HDEL", K, "marks"), ("ZREM", f"{K}:lapsed", "lapsed1:1")])
    await ledger.usage(USER)
    assert any("marks: expected" in line for line in await differences(ledger))


async def test_a_book_without_digests_that_was_only_opened_since_has_no_difference(store: Store) -> None:
    ledger = await with_sums_alone(store)
    await ledger.usage(USER)
    assert await differences(ledger) == []
    await ledger.settle(USER, "lapsed2", 2, 0)
    await ledger.settle(USER, "open1", 1, 0)
    assert await differences(ledger) == []


async def test_a_book_without_records_has_no_difference(store: Store) -> None:
    ledger = await with_sums_alone(store)
    found = await ledger.audit(USER)
    assert found is not None and (found.differences, found.records, found.since) == ((), 0, None)
    await send(ledger, "n1", 1, 1, 0)
    found = await ledger.audit(USER)
    assert found is not None and (found.differences, found.records) == ((), 1)


async def test_the_scripts_of_an_earlier_version_find_no_number_in_a_book_of_this_one(store: Store) -> None:
    await live(store, FULL)
    assert await store.command("EVAL", "return tonumber(redis.call('HGET', KEYS[1], 'taken')) or 'none'", 1, K) == b"none"
