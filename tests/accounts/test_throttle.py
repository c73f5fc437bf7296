"""Guessing is slowed down by address, is counted before it is done, and never locks another out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.accounts.throttle import Throttle
from relay.store.client import Argument, Script, Store, StoreUnavailable
from tests.accounts.conftest import Limits


@pytest.fixture
def throttle(store: Store) -> Throttle:
    return Throttle(store, Limits())


@pytest.fixture
async def elsewhere(store: Store, place: Path) -> AsyncIterator[Throttle]:
    """The throttle of another process on the same store."""
    other = Store(f"unix://{place / 'data' / 'store.sock'}")
    yield Throttle(other, Limits())
    await other.close()


async def fail(throttle: Throttle, address: str, name: str) -> int:
    """Guess wrong; returns how long the address has to wait instead."""
    with throttle.attempt(address, name) as attempt:
        if await attempt.admitted():
            await attempt.failed()
        return attempt.wait


async def wait_of(throttle: Throttle, address: str, name: str) -> int:
    """How long an address has to wait; nothing is counted."""
    with throttle.attempt(address, name) as attempt:
        await attempt.admitted()
        return attempt.wait


async def succeed(throttle: Throttle, address: str, name: str) -> int:
    with throttle.attempt(address, name) as attempt:
        if await attempt.admitted():
            attempt.succeeded()
        return attempt.wait


async def keys_of(store: Store) -> list[bytes]:
    return [key for key in await store.command("KEYS", "*") if key.startswith(b"{t:")]


# -- the bar -----------------------------------------------------------------------------------------------------------------


async def test_the_wait_begins_at_the_limit_and_doubles_up_to_the_window(store: Store) -> None:
    # Windows of ever so many seconds are looked at, not sat out: the bar is taken away as if it had ended.
    throttle, waits = Throttle(store, Limits(failures_per_address=100)), []
    for _ in range(9):
        assert await fail(throttle, "192.0.2.1", "a") == 0
        waits.append(await wait_of(throttle, "192.0.2.1", "a"))
        for key in await keys_of(store):
            await store.command("HSET", key, "bar", 0)
    assert waits == [0, 0, 20, 40, 80, 160, 320, 320, 320]


async def test_a_bar_ends_and_then_one_attempt_is_made_at_a_time(store: Store) -> None:
    throttle = Throttle(store, Limits(window_seconds=1))
    for _ in range(3):
        await fail(throttle, "192.0.2.1", "a")
    assert await wait_of(throttle, "192.0.2.1", "a") == 1
    await asyncio.sleep(0.08)
    admitted = await asyncio.gather(*(fail(throttle, "192.0.2.1", "a") for _ in range(10)))
    assert sorted(admitted) == [0] + [1] * 9


async def test_a_failure_counts_for_a_window(store: Store) -> None:
    throttle = Throttle(store, Limits(window_seconds=1))
    for _ in range(2):
        for _ in range(2):
            await fail(throttle, "192.0.2.1", "a")
        assert await wait_of(throttle, "192.0.2.1", "a") == 0
        await asyncio.sleep(1.05)


async def test_another_address_may_still_try_the_same_name(throttle: Throttle) -> None:
    for _ in range(20):
        await fail(throttle, "192.0.2.1", "a")
    assert await wait_of(throttle, "192.0.2.1", "a") > 0
    assert await succeed(throttle, "192.0.2.2", "a") == 0
    assert await wait_of(throttle, "192.0.2.1", "a") > 0


async def test_an_address_that_tries_many_names_is_barred_for_all(throttle: Throttle) -> None:
    for name in "abcdef":
        assert await wait_of(throttle, "192.0.2.1", "z") == 0
        await fail(throttle, "192.0.2.1", name)
    assert await wait_of(throttle, "192.0.2.1", "z") > 0


async def test_a_success_clears_the_name_but_not_the_address(throttle: Throttle) -> None:
    for _ in range(2):
        for _ in range(2):
            await fail(throttle, "192.0.2.1", "a")
        assert await succeed(throttle, "192.0.2.1", "a") == 0
    for _ in range(2):
        await fail(throttle, "192.0.2.1", "a")
    assert await wait_of(throttle, "192.0.2.1", "a") > 0


async def test_an_attempt_that_was_not_made_is_not_counted(throttle: Throttle, store: Store) -> None:
    for _ in range(20):
        assert await wait_of(throttle, "192.0.2.1", "a") == 0
    assert await keys_of(store) == []


async def test_ipv6_is_counted_by_its_64_and_mapped_ipv4_as_ipv4(throttle: Throttle) -> None:
    for _ in range(3):
        await fail(throttle, "2001:db8:1:2::1", "a")
        await fail(throttle, "::ffff:192.0.2.9", "a")
    assert await wait_of(throttle, "2001:db8:1:2:ffff:ffff:ffff:ffff", "a") > 0
    assert await wait_of(throttle, "2001:db8:1:3::1", "a") == 0
    assert await wait_of(throttle, "192.0.2.9", "a") > 0


async def test_everything_it_keeps_expires_and_no_name_becomes_part_of_a_key(throttle: Throttle, store: Store) -> None:
    for _ in range(4):
        await fail(throttle, "fe80::1%eth0", "}\r\nFLUSHALL \udc80")
        await fail(throttle, "", "x" * 20_000)
    keys = await keys_of(store)
    assert len(keys) == 4 and all(b"FLUSH" not in key and len(key) < 100 for key in keys)
    assert all([await store.command("PTTL", key) > 0 for key in keys])


# -- many at once ------------------------------------------------------------------------------------------------------------


async def test_of_many_guesses_at_once_no_more_are_made_than_may_fail(throttle: Throttle, elsewhere: Throttle) -> None:
    made = 0

    async def guess(through: Throttle) -> int:
        nonlocal made
        with through.attempt("192.0.2.1", "a") as attempt:
            if await attempt.admitted():
                made += 1
                await asyncio.sleep(0.02)
                await attempt.failed()
            return attempt.wait

    waits = await asyncio.gather(*(guess(throttle if i % 2 else elsewhere) for i in range(50)))
    assert made == 3
    assert sum(wait == 20 for wait in waits) == 47


async def test_of_many_names_at_once_no_more_are_tried_than_may_fail(throttle: Throttle, elsewhere: Throttle) -> None:
    async def guess(number: int) -> int:
        return await fail(throttle if number % 2 else elsewhere, "192.0.2.1", f"name{number}")

    waits = await asyncio.gather(*map(guess, range(50)))
    assert waits.count(0) == 6


async def test_who_knows_the_secret_is_never_refused_however_many_come_at_once(throttle: Throttle, elsewhere: Throttle) -> None:
    under_way = most = 0

    async def enter(through: Throttle) -> int:
        nonlocal under_way, most
        with through.attempt("192.0.2.1", "a") as attempt:
            assert await attempt.admitted()
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.001)
            under_way -= 1
            attempt.succeeded()
            return attempt.wait

    async with asyncio.timeout(10):
        assert not any(await asyncio.gather(*(enter(throttle if i % 2 else elsewhere) for i in range(100))))
    assert 1 < most <= 3


async def test_a_success_among_many_is_awaited_though_all_but_one_attempt_have_failed(throttle: Throttle) -> None:
    for _ in range(2):
        await fail(throttle, "192.0.2.1", "a")
    async with asyncio.timeout(10):
        assert not any(await asyncio.gather(*(succeed(throttle, "192.0.2.1", "a") for _ in range(50))))


async def test_nothing_is_left_once_everybody_knew_the_secret(throttle: Throttle, store: Store) -> None:
    await asyncio.gather(*(succeed(throttle, "192.0.2.1", name) for name in "aaaaabbbbb"))
    assert await keys_of(store) == []


async def test_who_stands_in_line_for_too_long_is_told_to_come_again(store: Store, elsewhere: Throttle) -> None:
    hasty = Throttle(store, Limits(failures_per_user=1), patience=0.05)
    with elsewhere.attempt("192.0.2.1", "a") as slow:
        assert await slow.admitted()
        assert await asyncio.gather(*(wait_of(hasty, "192.0.2.1", "a") for _ in range(3))) == [1, 1, 1]
        slow.succeeded()
    assert await wait_of(hasty, "192.0.2.1", "a") == 0


async def test_what_was_under_way_in_a_process_that_died_is_a_failure(store: Store, throttle: Throttle) -> None:
    with throttle.attempt("192.0.2.1", "a") as attempt:
        assert await attempt.admitted()
        of_address, of_name = sorted(await keys_of(store))
        attempt.succeeded()
    for id in ("one", "two", "three"):
        await store.command("HSET", of_name, id, await _ms_ago(store, 1000))
    for number in range(6):
        await store.command("HSET", of_address, number, 1)  # so long ago that a failure would no longer count
    assert await wait_of(throttle, "192.0.2.1", "a") == 0  # nobody is barred for it
    await fail(throttle, "192.0.2.1", "a")
    assert await wait_of(throttle, "192.0.2.1", "a") == 40  # the fourth
    assert await wait_of(throttle, "192.0.2.1", "z") == 0


async def test_without_the_store_nobody_is_admitted_and_nobody_stays_in_line(place: Path) -> None:
    nowhere = Store(f"unix://{place / 'nothing'}")
    throttle = Throttle(nowhere, Limits())
    for _ in range(5):
        with pytest.raises(StoreUnavailable):
            await wait_of(throttle, "192.0.2.1", "a")
    await nowhere.close()


async def _ms_ago(store: Store, ms: int) -> int:
    seconds, micros = await store.command("TIME")
    return int(seconds) * 1000 + int(micros) // 1000 - ms


async def test_failures_that_come_rarely_are_never_added_up(store: Store) -> None:
    """Each failure counts for one window and no longer, however many follow it."""
    throttle = Throttle(store, Limits(failures_per_user=3, window_seconds=1))
    for _ in range(7):
        assert await fail(throttle, "192.0.2.1", "a") == 0
        await asyncio.sleep(0.6)


async def test_a_crowd_with_right_passwords_stands_in_line_and_does_not_ask_again_and_again(store: Store, place: Path) -> None:
    asked = 0

    class Counting(Store):
        def run(self, script: Script, key: Argument, *arguments: Argument) -> asyncio.Future[Any]:
            nonlocal asked
            asked += 1
            return super().run(script, key, *arguments)

    counting = Counting(f"unix://{place / 'data' / 'store.sock'}")
    throttle = Throttle(counting, Limits())
    waits = await asyncio.gather(*(succeed(throttle, "192.0.2.1", f"name{number}") for number in range(400)))
    assert set(waits) == {0}
    assert asked < 1000
    await counting.close()
