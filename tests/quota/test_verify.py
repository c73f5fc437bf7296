"""The recount finds whatever was planted in a book, and nothing in one that only the ledger has written."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from relay.quota.audit import INSTANT
from relay.quota.ledger import Ledger, key
from relay.quota.limit import Rules
from relay.store.client import Argument, Store
from tests.quota import counters
from tests.quota.history import CLOCK, LENGTH, QUIET, START, USER, hold, live, send, set_clock

K = key(USER)
NOW = (START + LENGTH) * 1_000_000 + 250_000
FULL, FEW = 60, 8
"""Records kept: with the first they reach back beyond the window, with the other not."""


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    client = Store(url)
    await client.command("FLUSHALL")
    yield client
    await client.close()


# -- counters, entries and holds -------------------------------------------------------------------------------------------------

Plant = tuple[tuple[Argument, ...], ...]


def hset(field: str, value: object) -> Plant:
    return (("HSET", K, field, str(value)),)


def moved(counter: str, by: int) -> Plant:
    return (counters.moved(K, counter, by),)


def zset(part: str, member: object, score: object) -> Plant:
    return (("ZADD", f"{K}:{part}", str(score), str(member)),)


def gone(part: str, member: object) -> Plant:
    return (("ZREM", f"{K}:{part}", str(member)),)


BUCKET = START + LENGTH - 5
"""A bucket in the middle of the log: five units were taken in each but one, two rejected in every odd one (and so in this one)."""
TAKEN = 5 * LENGTH
AT_BUCKET = TAKEN - 25
REJECTED = 2 * (LENGTH // 2)
R_AT_BUCKET = REJECTED - 4

COUNTERS: dict[str, tuple[Plant, str]] = {
    "taken, more": (moved("taken", 1), "taken"),
    "taken, less": (moved("taken", -1), "taken"),
    "taken, no number": (hset("taken", "x"), "taken: expected a whole number, found 'x'"),
    "taken, negative": (moved("taken", -(10**6)), "taken: expected a whole number, found '-"),
    "taken, gone and their sum alike": (moved("taken", 1) + moved("gone", 1), "taken"),
    "gone, more": (moved("gone", 1), "check: expected"),
    "gone, less": (moved("gone", -1), "check: expected"),
    "gone, beyond everything": (moved("gone", 10**6), "gone: expected 0 to taken"),
    "check": (moved("check", 1), "check: expected"),
    "rejected, more": (moved("rejected", 1), "rejected"),
    "rejected, less": (moved("rejected", -1), "rejected"),
    "rgone, more": (moved("rgone", 1), "check: expected"),
    "rgone, less": (moved("rgone", -1), "check: expected"),
    "held, more": (moved("held", 1), "held: expected 6 (the open holds), found 7"),
    "held, less": (moved("held", -1), "held: expected 6 (the open holds), found 5"),
    "held, none": (moved("held", -6), "held: expected 6 (the open holds), found 0"),
    "last, later": (moved("last", 1), "is ahead of the store's clock"),
    "last, earlier": (moved("last", -1), f"last: expected {NOW} or later (the last record), found {NOW - 1}"),
    "last, much earlier": (moved("last", -20_000_000), "last: expected"),
    "last, another octet": (moved("last", -(2**40)), "check: expected"),
    "soonest, another octet": (moved("soonest", -(2**40)), "check: expected"),
    "prefix": (counters.begun(K, "Zbcdefgh"), ", and ids that begin with Zbcdefgh, not "),
    "lapses, with the check": (moved("lapses", -1) + moved("check", -1), "lapses: expected 1 (there are lapsed holds), found 0"),
    "soonest, later": (moved("soonest", 10_000_000), "soonest: expected"),
    "soonest, earlier": (moved("soonest", -1), "check: expected"),
    "lapses": (moved("lapses", -1), "check: expected"),
    "all of them gone": ((("HDEL", K, "taken"),), "last: expected"),
    "marks": (moved("marks", 1), "marks: expected"),
    "base": (hset("base", 10**6), "base: expected"),
}
LATEST: dict[str, tuple[Plant, str]] = {
    "log: the last sum": (zset("log", START + LENGTH, TAKEN + 1), "log: bucket"),
    "log: an entry added behind": (zset("log", START + LENGTH + 1, TAKEN + 1), "log: bucket"),
    "log: the last removed": (gone("log", START + LENGTH), "log: expected the entries to sum up to taken - gone"),
    "log: all removed": ((("DEL", f"{K}:log"),), "log: expected the entries to sum up to"),
    "log: an entry that is none": (zset("log", "x", AT_BUCKET), "log: entry 'x'"),
    "log: a sum that is no whole number": (zset("log", START + LENGTH, TAKEN - 0.5), "is no bucket with a sum"),
    "log: one sum twice": (zset("log", BUCKET + 1, AT_BUCKET), "expected a sum above"),
    "log: an entry of long ago": (zset("log", START - 5000, AT_BUCKET - 24), f"bucket {START - 5000}: it left the window"),
    "log: buckets out of order": (gone("log", BUCKET) + zset("log", BUCKET + 2, AT_BUCKET), "log: bucket"),
    "rlog: the last sum": (zset("rlog", START + LENGTH - 1, REJECTED + 1), "rlog: bucket"),
    "rlog: the last removed": (gone("rlog", START + LENGTH - 1), "rlog: expected the entries to sum up to"),
    "rlog: all removed": ((("DEL", f"{K}:rlog"),), "rlog: expected the entries to sum up to"),
    "rlog: an entry that is none": (zset("rlog", "", REJECTED), "rlog: entry ''"),
    "open: one added": (zset("open", "x:1", NOW + 1_000_000), "held: expected 7"),
    "open: one removed": (gone("open", "open1:1"), "held: expected 5"),
    "open: units changed": (gone("open", "open1:1") + zset("open", "open1:2", NOW + 4_000_000), "held: expected 7"),
    "open: a lease beyond any": (zset("open", "open1:1", NOW + 400_000_000), "open: open1:1: expected its lease to end at"),
    "open: a lease that is over": (zset("open", "open1:1", NOW - 1), "open: open1:1: its lease ended"),
    "open: an endless lease": (zset("open", "open1:1", "inf"), "open: open1:1: expected its lease to end at"),
    "open: a member that is none": (zset("open", "open3", NOW + 1_000_000), "open: 'open3' is no hold"),
    "open: an id changed": (gone("open", "open1:1") + zset("open", "openx:1", NOW + 4_000_000), "marks: expected"),
    "open: a lease shortened": (zset("open", "open1:1", NOW + 1), "marks: expected"),
    "open: a lease shortened by less than 1 µs": (zset("open", "open1:1", NOW + 4_000_000 - 0.25), "marks: expected"),
    "open: no units": (zset("open", "open3:0", NOW + 1_000_000), "open: 'open3:0' is no hold"),
    "lapsed: a member that is none": (zset("lapsed", "x:y", NOW - 1), "lapsed: 'x:y' is no hold"),
    "lapsed: one that is open": (zset("lapsed", "open1:1", NOW - 1), "lapsed: open1:1: it is open as well"),
    "lapsed: one added": (zset("lapsed", "x:1", NOW - 1), "marks: expected"),
    "lapsed: an id changed": (gone("lapsed", "lapsed1:1") + zset("lapsed", "lapsedx:1", NOW - 1), "marks: expected"),
    "lapsed: its instant changed": (zset("lapsed", "lapsed1:1", NOW - 500), "marks: expected"),
    "lapsed: one removed": (gone("lapsed", "lapsed1:1"), "marks: expected"),
    "lapsed: units changed": (gone("lapsed", "lapsed1:1") + zset("lapsed", "lapsed1:2", NOW - 1), "marks: expected"),
    "lapsed: all removed": ((("DEL", f"{K}:lapsed"),), "marks: expected"),
    "lapsed: later than now": (zset("lapsed", "lapsed1:1", NOW + 1), "lapsed: lapsed1:1: expected"),
}
WITHIN_REACH: dict[str, tuple[Plant, str]] = {
    "log: a sum in the middle": (zset("log", BUCKET, AT_BUCKET - 1), f"log: bucket {BUCKET}: expected the sum {AT_BUCKET} (records)"),
    "log: a member in the middle": (
        gone("log", BUCKET) + gone("log", BUCKET + 1) + zset("log", BUCKET + 1, AT_BUCKET),
        f"log: bucket {BUCKET}: expected an entry with the sum {AT_BUCKET} (records), found none",
    ),
    "log: an entry added": (zset("log", START + QUIET, TAKEN - 34), f"log: bucket {START + QUIET}: expected no entry (records)"),
    "log: one removed in the middle": (gone("log", BUCKET), f"log: bucket {BUCKET}: expected an entry with the sum {AT_BUCKET}"),
    "log: the first removed": (gone("log", START + LENGTH - 10), "found none"),
    "gone with its sum": (moved("gone", 1) + moved("check", 3), "gone: expected"),
    "rlog: a sum in the middle": (zset("rlog", BUCKET, R_AT_BUCKET - 1), f"rlog: bucket {BUCKET}: expected the sum {R_AT_BUCKET}"),
    "rlog: a member": (gone("rlog", BUCKET) + zset("rlog", BUCKET + 1, R_AT_BUCKET), f"rlog: bucket {BUCKET}: expected an entry"),
    "rlog: one added": (zset("rlog", BUCKET - 1, R_AT_BUCKET - 1), f"rlog: bucket {BUCKET - 1}: expected no entry (records)"),
    "rlog: one removed": (gone("rlog", BUCKET), f"rlog: bucket {BUCKET}: expected an entry"),
}


async def differences(ledger: Ledger) -> list[str]:
    found = await ledger.audit(USER)
    assert found is not None
    return list(found.differences)


async def finds(store: Store, ledger: Ledger, plant: Plant, text: str) -> None:
    """Assert that a plant is found, and that looking for it changed nothing."""
    assert await differences(ledger) == []
    await store.many(plant)
    before = [await store.command("DUMP", name) for name in sorted(await store.command("KEYS", f"{K}*"))]
    found = await differences(ledger)
    assert found and all("\n" not in line for line in found)
    assert any(text in line for line in found), found
    assert before == [await store.command("DUMP", name) for name in sorted(await store.command("KEYS", f"{K}*"))]


@pytest.mark.parametrize("records", [FULL, FEW])
@pytest.mark.parametrize("plant", [*COUNTERS, *LATEST])
async def test_a_plant_is_found_however_few_records_are_kept(store: Store, plant: str, records: int) -> None:
    await finds(store, await live(store, records), *(COUNTERS | LATEST)[plant])


@pytest.mark.parametrize("plant", ["open: a lease shortened", "lapsed: one added", "lapsed: one removed"])
async def test_a_planted_hold_is_found_however_the_book_lives_on(store: Store, plant: str) -> None:
    ledger = await live(store, FULL)
    await store.many(LATEST[plant][0])
    for step in (await steps(store, ledger))[1:]:
        await step()
        assert any("marks: expected" in line for line in await differences(ledger))


@pytest.mark.parametrize("plant", WITHIN_REACH)
async def test_a_plant_is_found_as_far_as_the_records_reach(store: Store, plant: str) -> None:
    await finds(store, await live(store, FULL), *WITHIN_REACH[plant])


# -- records ---------------------------------------------------------------------------------------------------------------------


async def rewrite(store: Store, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Write the records anew, changed."""
    entries = await store.command("LRANGE", f"{K}:settles", 0, -1)
    await store.command("DEL", f"{K}:settles")
    await store.command("RPUSH", f"{K}:settles", *change(entries))


def changed(number: int, word: int, value: bytes) -> Callable[[list[bytes]], list[bytes]]:
    """Another word in one of them; a word is what is between spaces or commas, after the instant."""

    def change(records: list[bytes]) -> list[bytes]:
        words = re.split(rb"([ ,])", records[number][INSTANT:])
        words[2 * word] = value
        return [*records[:number], records[number][:INSTANT] + b"".join(words), *records[number:][1:]]

    return change


def moved_to(number: int, instant: bytes) -> Callable[[list[bytes]], list[bytes]]:
    """Another instant in one of them."""
    return lambda records: [*records[:number], instant + records[number][INSTANT:], *records[number:][1:]]


RECORDS: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "one removed from the middle": (lambda records: records[:3] + records[4:], "expected the sums"),
    "the last removed": (lambda records: records[:-1], "taken and rejected: expected"),
    "one twice": (lambda records: [*records[:4], records[3], *records[4:]], "settled more than once"),
    "two exchanged": (lambda records: [*records[:3], records[4], records[3], *records[5:]], "expected the sums"),
    "one removed from the middle of a call's": (lambda records: [*records[:-1], _cut(records[-1])], "expected the sums"),
    "accepted changed": (changed(-1, 3, b"1"), "expected the sums"),
    "rejected changed": (changed(-1, 4, b"1"), "expected the sums"),
    "units changed": (changed(-1, 5, b"s30.1:4"), "expected the sums"),
    "its sum changed": (changed(3, 0, b"999"), "expected the sums"),
    "the first one's sum changed": (changed(0, 0, b"999"), "expected the sums"),
    "the first one's sum less than itself": (lambda records: changed(0, 1, b"0")(changed(0, 0, b"0")(records)), "are less than itself"),
    "its instant changed": (moved_to(3, b"\0\0\0\0\0\0\1"), "or later, found 1"),
    "its outcome changed": (changed(-1, 4, b"0,done"), "cannot be read"),
    "text": (lambda records: [*records[:3], b"text \xff", *records[3:]], "records: number 4 cannot be read: 'text"),
    "nothing charged": (lambda records: [*records, b"\0\0\0\0\0\0\0011,1 x:1,0,0"], "cannot be read"),
    "no settle": (lambda records: [*records, b"\0\0\0\0\0\0\0011,1"], "cannot be read"),
    "no id": (changed(2, 2, b":1"), "cannot be read"),
}


def _cut(entry: bytes) -> bytes:
    words = entry[INSTANT:].split(b" ")
    assert len(words) == 3  # two sums in one, and two settles
    return entry[:INSTANT] + b" ".join(words[:1] + words[2:])


@pytest.mark.parametrize("records", [FULL, FEW])
@pytest.mark.parametrize("plant", RECORDS)
async def test_a_record_that_was_tampered_with_is_found(store: Store, plant: str, records: int) -> None:
    ledger = await live(store, records)
    assert await differences(ledger) == []
    change, text = RECORDS[plant]
    await rewrite(store, change)
    assert any(text in line for line in await differences(ledger)), await differences(ledger)


# -- books that only the ledger has written --------------------------------------------------------------------------------------


@pytest.mark.parametrize("records", [FULL, FEW, 1])
async def test_an_untouched_book_has_no_difference_and_says_how_far_it_reaches(store: Store, records: int) -> None:
    found = await (await live(store, records)).audit(USER)
    assert found is not None and found.differences == ()
    assert records <= found.records <= records + max(4, records // 2)
    assert found.since is not None and START * 1_000_000 < found.since <= NOW


async def steps(store: Store, ledger: Ledger) -> list[Callable[[], Awaitable[object]]]:
    """What may happen to a book."""
    return [
        lambda: ledger.settle(USER, "lapsed1", 1, 1),
        lambda: ledger.settle(USER, "open2", 5, 0, 3),
        lambda: ledger.settle(USER, "open2", 5, 0, 3),
        lambda: set_clock(store, LENGTH + 4),
        lambda: ledger.usage(USER),
        lambda: send(ledger, "n1", 1, 1, 0),
        lambda: set_clock(store, LENGTH + 12),
        lambda: ledger.usage(USER),
        lambda: hold(ledger, "n2", 1),
        lambda: set_clock(store, LENGTH + 500),
        lambda: ledger.usage(USER),
        lambda: send(ledger, "n3", 1, 0, 1),
        lambda: send(ledger, "n4", 2, 1, 1),
        lambda: set_clock(store, LENGTH + 510),
        lambda: ledger.usage(USER),
        lambda: set_clock(store, LENGTH + 512),
        lambda: ledger.usage(USER),
    ]


@pytest.mark.parametrize("records", [FULL, FEW, 1])
async def test_a_book_that_lives_on_has_no_difference(store: Store, records: int) -> None:
    ledger = await live(store, records)
    for step in await steps(store, ledger):
        await step()
        assert await differences(ledger) == []


async def test_a_clock_that_was_set_back_is_a_difference_that_says_so(store: Store) -> None:
    ledger = await live(store, FULL)
    await set_clock(store, LENGTH - 3)
    found = await differences(ledger)
    assert len(found) == 1 and "is ahead of the store's clock" in found[0] and "by 3.000000 s: it was set back" in found[0]


async def test_records_that_were_switched_off_and_on_again_begin_anew(store: Store) -> None:
    kept = await live(store, FULL)
    off = Ledger(store, Rules(window=10, lease=4.0, records=0), CLOCK)
    await send(off, "n1", 1, 1, 0)
    assert await differences(kept) == [] and await store.command("EXISTS", f"{K}:settles") == 0
    await send(kept, "n2", 1, 1, 0)
    found = await kept.audit(USER)
    assert found is not None and (found.differences, found.records) == ((), 1)


@pytest.mark.parametrize("records", [FULL, FEW])
async def test_a_book_whose_records_were_all_removed_is_told_apart(store: Store, records: int) -> None:
    ledger = await live(store, records)
    await store.command("DEL", f"{K}:settles")
    assert any(line.startswith("records: expected some") for line in await differences(ledger))


async def test_what_cannot_be_put_on_record_is_charged_all_the_same(store: Store) -> None:
    ledger = await live(store, FULL)
    await store.command("SET", f"{K}:settles", "no stream")
    await send(ledger, "n1", 1, 1, 0)
    await store.command("DEL", f"{K}:settles")
    usage = await ledger.usage(USER)
    assert usage is not None and usage.taken == TAKEN + 1
    assert await differences(ledger) == [
        f"records: expected some of {TAKEN + 1 + REJECTED} units, found none (unless records were kept only from now on)"
    ]


async def test_a_hold_that_is_only_given_back_leaves_no_record(store: Store) -> None:
    ledger = await live(store, FULL)
    before = await ledger.audit(USER)
    await ledger.settle(USER, "open1", 1, 0)
    assert await ledger.audit(USER) == before
    assert await ledger.record(USER, "open1") is None


async def test_a_record_says_what_was_charged_and_when(store: Store) -> None:
    ledger = await live(store, FULL)
    record = await ledger.record(USER, f"s{LENGTH}.1")
    assert record is not None
    assert (record.units, record.accepted, record.rejected, record.outcome, record.at) == (3, 3, 0, "ok", NOW)
    assert (record.taken, record.all_rejected) == (TAKEN, REJECTED)
    assert (await ledger.settle(USER, "lapsed2", 2, 2)).outcome == "late"
    late = await ledger.record(USER, "lapsed2")
    assert late is not None and (late.outcome, late.taken) == ("late", TAKEN + 2)


async def test_without_such_a_user_there_is_nothing_to_recount(store: Store) -> None:
    ledger = Ledger(store, Rules())
    assert await ledger.audit("nobody") is None
    await store.command("HSET", key("new"), "status", "E", "ostatus", "E", "gen", 1, "hourly", 10, "total", "")
    found = await ledger.audit("new")
    assert found is not None and found.differences == ()
