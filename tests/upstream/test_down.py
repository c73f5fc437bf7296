"""A smarthost that gives no session is known to be down: nobody waits for it in turn, one tries for all, and its return is noticed."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from relay.loadkit.script import Script
from relay.mail.verdict import Deferred, Delivered, Verdict
from relay.upstream.pool import Pool
from tests.upstream.conftest import Opening, verdict_of

AWAY = "connect reply='421 4.3.2 closed'"
DOWN = {"down_seconds": 0.3}


def is_told_at_once(pool: Pool) -> None:
    """One message is answered without so much as a turn of the loop, and not by the smarthost."""
    with pytest.raises(StopIteration) as end:
        verdict_of(pool).send(None)
    verdict = end.value.value
    assert isinstance(verdict, Deferred) and verdict.unreached and not verdict.in_doubt
    assert verdict.reply.status == "4.4.1" and verdict.reply.text.startswith("Upstream is known to be down (")
    assert pool.down_until > time.monotonic()


async def until_up(pool: Pool) -> None:
    """Wait for the time of the next probe."""
    while (left := pool.down_until - time.monotonic()) > -0.01:  # a loop that was held up lets its timers go off early
        await asyncio.sleep(max(left, 0.0) + 0.01)


def is_unreached(verdict: Verdict) -> bool:
    return isinstance(verdict, Deferred) and verdict.unreached


@pytest.mark.parametrize(
    "rule",
    [AWAY, "connect reply='554 5.3.2 no'", "connect drop", "connect garbage", "connect stall=forever", "ehlo reply='550 5.7.1 no'",
     "ehlo reply='421 4.3.2 bye' close", "ehlo reply='451 4.3.0 later'", "ehlo drop", "ehlo stall=forever"],
)  # fmt: skip
async def test_after_any_failure_to_get_a_session_the_next_is_answered_at_once(open_pool: Opening, rule: str) -> None:
    async with open_pool(rule, route={"timeout": 0.2, **DOWN}) as (pool, sink):
        assert pool.down_until == 0.0
        first = await verdict_of(pool)
        assert is_unreached(first) and "known to be down" not in first.reply.text
        is_told_at_once(pool)
        is_told_at_once(pool)
        assert sink.intake.connections == 1
        sink.script = Script()
        await until_up(pool)
        assert isinstance(await verdict_of(pool), Delivered)
        assert pool.down_until == 0.0


@pytest.mark.parametrize(
    ("rules", "route"),
    [([], {"password": "wrong"}), (["auth reply='454 4.7.0 later'"], {}), ([], {"security": "starttls", "username": ""})],
    ids=["password", "later", "starttls"],
)
async def test_a_login_or_tls_that_fails_counts_and_stays_ours(open_pool: Opening, rules: list[str], route: dict[str, Any]) -> None:
    route = {"username": "me", "password": "right", **DOWN, **route}
    async with open_pool(*rules, route=route, credentials={"me": "right"}) as (pool, sink):
        first = await verdict_of(pool)
        assert is_unreached(first)
        second = await verdict_of(pool)
        assert isinstance(first, Deferred) and isinstance(second, Deferred) and second.ours == first.ours
        assert sink.intake.connections == 1 and "known to be down" in second.reply.text


async def test_nobody_there_is_known_too(open_pool: Opening) -> None:
    async with open_pool(route={"port": 1, **DOWN}) as (pool, _):
        assert is_unreached(await verdict_of(pool))
        is_told_at_once(pool)


async def test_one_probes_while_the_others_are_still_answered_at_once(open_pool: Opening) -> None:
    async with open_pool(AWAY, route=DOWN) as (pool, sink):
        await verdict_of(pool)
        sink.script = Script.parse(["connect stall=0.3"])
        await until_up(pool)
        probe = asyncio.create_task(verdict_of(pool))
        await asyncio.sleep(0)
        for _ in range(5):
            is_told_at_once(pool)
        assert isinstance(await probe, Delivered)
        assert sink.intake.connections == 2
        assert [type(verdict) for verdict in await asyncio.gather(*(verdict_of(pool) for _ in range(5)))] == [Delivered] * 5


async def test_all_at_once_when_the_time_is_up_are_one_probe(open_pool: Opening) -> None:
    async with open_pool(AWAY, route=DOWN) as (pool, sink):
        await verdict_of(pool)
        sink.script = Script()
        await until_up(pool)
        verdicts = await asyncio.gather(*(verdict_of(pool) for _ in range(10)))
        assert [isinstance(verdict, Delivered) for verdict in verdicts] == [True] + [False] * 9
        assert all(is_unreached(verdict) for verdict in verdicts[1:]) and sink.intake.connections == 2


async def test_it_is_left_alone_twice_as_long_after_each_probe_that_fails(open_pool: Opening) -> None:
    async with open_pool(AWAY, route={"down_seconds": 0.1}) as (pool, sink):
        for longest in (0.1, 0.2, 0.4):
            await verdict_of(pool)
            assert longest / 2 < pool.down_until - time.monotonic() <= longest
            await until_up(pool)
        sink.script = Script()
        assert isinstance(await verdict_of(pool), Delivered)


async def test_a_probe_that_hangs_ends_at_its_deadline_and_counts(open_pool: Opening) -> None:
    async with open_pool(AWAY, route={"down_seconds": 0.1}) as (pool, sink):
        await verdict_of(pool)
        sink.script = Script.parse(["connect stall=forever"])
        await until_up(pool)
        probe = asyncio.create_task(verdict_of(pool, deadline=0.3))
        await asyncio.sleep(0.15)  # longer than it is down for, and still only one
        is_told_at_once(pool)
        hung = await probe
        assert is_unreached(hung) and "no answer in time" in hung.reply.text
        assert 0.1 < pool.down_until - time.monotonic() <= 0.2
        assert sink.intake.connections == 2


async def test_a_probe_that_is_cancelled_leaves_it_to_the_next(open_pool: Opening) -> None:
    async with open_pool(AWAY, route=DOWN) as (pool, sink):
        await verdict_of(pool)
        sink.script = Script.parse(["connect first=1 stall=forever"])
        await until_up(pool)
        probe = asyncio.create_task(verdict_of(pool))
        await asyncio.sleep(0.05)
        is_told_at_once(pool)
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        assert isinstance(await verdict_of(pool), Delivered)


async def test_who_waits_for_a_slot_hears_at_once_that_it_is_down(open_pool: Opening) -> None:
    async with open_pool("connect stall=forever", route={"timeout": 0.3, "max_connections": 2, "down_seconds": 5.0}) as (pool, sink):
        began = time.monotonic()
        verdicts = await asyncio.gather(*(verdict_of(pool) for _ in range(20)))
        assert time.monotonic() - began < 2  # not ten times the timeout
        assert all(is_unreached(verdict) for verdict in verdicts) and sink.intake.connections == 2
        assert sum("known to be down" in verdict.reply.text for verdict in verdicts) == 18


async def test_no_slot_in_time_is_unreached_but_not_down(open_pool: Opening) -> None:
    async with open_pool("dot first=1 stall=0.5", route={"max_connections": 1, **DOWN}) as (pool, _):
        busy = asyncio.create_task(verdict_of(pool))
        await asyncio.sleep(0.05)
        verdict = await verdict_of(pool, deadline=0.1)
        assert is_unreached(verdict) and "busy" in verdict.reply.text and pool.down_until == 0.0
        assert isinstance(await busy, Delivered)
        assert isinstance(await verdict_of(pool), Delivered)


async def test_sessions_that_are_there_go_on_being_used(open_pool: Opening) -> None:
    """A smarthost that allows so many connections and no more refuses the next one, and is not down for it."""
    async with open_pool("dot stall=0.05", route={"down_seconds": 5.0}) as (pool, sink):
        assert isinstance(await verdict_of(pool), Delivered)
        sink.script = Script.parse([AWAY, "dot stall=0.05"])
        verdicts = await asyncio.gather(verdict_of(pool), verdict_of(pool))
        assert isinstance(verdicts[0], Delivered) and is_unreached(verdicts[1])
        assert isinstance(await verdict_of(pool), Delivered)
        assert sink.intake.connections == 2


async def test_an_idle_session_that_died_does_not_wait_for_who_is_down(open_pool: Opening) -> None:
    async with open_pool(route={"down_seconds": 5.0}) as (pool, sink):
        assert isinstance(await verdict_of(pool), Delivered)
        sink.script = Script.parse([AWAY])
        for conversation in tuple(sink.conversations):
            conversation.abort()
        first = await verdict_of(pool)
        assert is_unreached(first) and sink.intake.connections == 2
        is_told_at_once(pool)


async def test_if_it_is_never_to_be_left_alone_each_message_tries(open_pool: Opening) -> None:
    async with open_pool(AWAY, route={"down_seconds": 0.0}) as (pool, sink):
        for count in (1, 2, 3):
            assert is_unreached(await verdict_of(pool))
            assert sink.intake.connections == count and pool.down_until == 0.0


async def test_one_that_is_hurried_is_tried_by_one_long_before_its_time(open_pool: Opening) -> None:
    async with open_pool(AWAY, route={"down_seconds": 600.0}) as (pool, sink):
        await verdict_of(pool)
        sink.script = Script()
        is_told_at_once(pool)
        for _ in range(5):
            pool.hurry()
        await until_up(pool)
        verdicts = await asyncio.gather(*(verdict_of(pool) for _ in range(10)))
        assert [isinstance(verdict, Delivered) for verdict in verdicts] == [True] + [False] * 9
        assert sink.intake.connections == 2 and pool.down_until == 0.0
        pool.hurry()
        assert pool.down_until == 0.0
