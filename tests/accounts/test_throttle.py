"""Guessing is slowed down by address, and never locks another out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from relay.accounts.throttle import Throttle
from relay.store.client import Store


@dataclass(frozen=True)
class Limits:
    failures_per_user: int = 3
    failures_per_address: int = 6
    window_seconds: int = 320


@pytest.fixture
def throttle(store: Store) -> Throttle:
    return Throttle(store, Limits())


async def fail(throttle: Throttle, address: str, name: str, times: int) -> None:
    for _ in range(times):
        await throttle.failed(address, name)


async def test_the_wait_begins_at_the_limit_and_doubles_up_to_the_window(throttle: Throttle) -> None:
    waits = []
    for _ in range(9):
        await throttle.failed("192.0.2.1", "a")
        waits.append(await throttle.check("192.0.2.1", "a"))
    assert waits[:5] == [0, 0, 20, 40, 80]
    assert waits[5:] == [160, 320, 320, 320]


async def test_another_address_may_still_try_the_same_name(throttle: Throttle) -> None:
    await fail(throttle, "192.0.2.1", "a", 20)
    assert await throttle.check("192.0.2.1", "a") > 0
    assert await throttle.check("192.0.2.2", "a") == 0


async def test_an_address_that_tries_many_names_is_barred_for_all(throttle: Throttle) -> None:
    for name in "abcdef":
        assert await throttle.check("192.0.2.1", "z") == 0
        await throttle.failed("192.0.2.1", name)
    assert await throttle.check("192.0.2.1", "z") > 0


async def test_a_success_clears_the_pair_but_not_the_address(throttle: Throttle) -> None:
    await fail(throttle, "192.0.2.1", "a", 2)
    await throttle.succeeded("192.0.2.1", "a")
    await fail(throttle, "192.0.2.1", "a", 2)
    assert await throttle.check("192.0.2.1", "a") == 0
    await throttle.succeeded("192.0.2.1", "a")
    await fail(throttle, "192.0.2.1", "a", 2)
    assert await throttle.check("192.0.2.1", "a") > 0


async def test_ipv6_is_counted_by_its_64_and_mapped_ipv4_as_ipv4(throttle: Throttle) -> None:
    await fail(throttle, "2001:db8:1:2::1", "a", 3)
    assert await throttle.check("2001:db8:1:2:ffff:ffff:ffff:ffff", "a") > 0
    assert await throttle.check("2001:db8:1:3::1", "a") == 0
    await fail(throttle, "::ffff:192.0.2.9", "a", 3)
    assert await throttle.check("192.0.2.9", "a") > 0


async def test_a_bar_ends(store: Store) -> None:
    throttle = Throttle(store, Limits(window_seconds=1))
    await fail(throttle, "192.0.2.1", "a", 3)
    assert await throttle.check("192.0.2.1", "a") == 1
    await asyncio.sleep(0.08)
    assert await throttle.check("192.0.2.1", "a") == 0


async def test_everything_it_keeps_expires_and_no_name_becomes_part_of_a_key(throttle: Throttle, store: Store) -> None:
    await fail(throttle, "fe80::1%eth0", "}\r\nFLUSHALL \udc80", 4)
    await fail(throttle, "", "x", 4)
    keys = [key for key in await store.command("KEYS", "*") if key != b"relay:epoch"]
    assert keys and all(key.startswith(b"{t:") and b"FLUSH" not in key for key in keys)
    assert all([await store.command("PTTL", key) > 0 for key in keys])
