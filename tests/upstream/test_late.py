"""An answer to the final dot that comes after the deadline: the caller does not wait for it, and it is heard all the same."""

from __future__ import annotations

import asyncio
import time

import pytest

from relay.loadkit.script import Script
from relay.mail.verdict import Deferred, Delivered, Failed, Verdict, Verdicts
from relay.upstream.pool import Pool
from relay.upstream.terms import Terms
from tests.surroundings import until
from tests.upstream.conftest import MESSAGE, ONE, TWO, Opening, envelope, verdict_of

TERMS = Terms(0.2, is_split=True, patience=5.0)


async def overdue(pool: Pool, terms: Terms = TERMS) -> asyncio.Task[Verdicts]:
    """Who still listens, after an attempt for one recipient that ended in doubt at its deadline."""
    began = time.monotonic()
    attempt = await pool.forward(envelope(), MESSAGE, terms)
    assert 0.15 < time.monotonic() - began < 4
    verdict = attempt.verdicts[ONE]
    assert isinstance(verdict, Deferred) and verdict.in_doubt
    assert attempt.late is not None
    return attempt.late


async def final(late: asyncio.Task[Verdicts]) -> Verdict:
    """What it heard in the end."""
    return (await late)[ONE]


async def test_a_late_250_is_delivered_once_and_the_session_goes_on(open_pool: Opening) -> None:
    async with open_pool("dot first=1 stall=0.6") as (pool, sink):
        assert isinstance(await final(await overdue(pool)), Delivered)
        assert sink.intake.answered == len(sink.messages) == 1
        assert isinstance(await verdict_of(pool), Delivered)
        assert (sink.intake.connections, sink.intake.answered) == (1, 2)


@pytest.mark.parametrize(("reply", "kind"), [("451 4.3.0 later", Deferred), ("554 5.6.0 no", Failed), ("421 4.3.2 bye", Deferred)])
async def test_a_late_refusal_is_no_doubt(open_pool: Opening, reply: str, kind: type) -> None:
    async with open_pool(f"dot first=1 stall=0.4 reply='{reply}'") as (pool, sink):
        verdict = await final(await overdue(pool))
        assert type(verdict) is kind and not (isinstance(verdict, Deferred) and verdict.in_doubt)
        assert verdict.reply.text == "upstream said: " + reply[10:]
        assert isinstance(await verdict_of(pool), Delivered)
        assert sink.intake.connections == (2 if reply.startswith("421") else 1)


@pytest.mark.parametrize("deed", ["drop", "garbage", "reply='354 go on'"])
async def test_what_is_no_answer_stays_in_doubt(open_pool: Opening, deed: str) -> None:
    async with open_pool(f"dot first=1 stall=0.4 {deed}") as (pool, sink):
        verdict = await final(await overdue(pool))
        assert isinstance(verdict, Deferred) and verdict.in_doubt
        assert isinstance(await verdict_of(pool), Delivered)
        assert sink.intake.connections == 2


async def test_patience_counts_from_the_dot_and_its_end_closes_the_connection(open_pool: Opening) -> None:
    async with open_pool("dot stall=forever") as (pool, sink):
        began = time.monotonic()
        verdict = await final(await overdue(pool, Terms(0.2, patience=0.5)))
        assert isinstance(verdict, Deferred) and verdict.in_doubt
        assert 0.4 < time.monotonic() - began < 4
        while sink.conversations:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("patience", [0.0, 0.1])
async def test_no_patience_beyond_the_deadline_leaves_nobody_listening(open_pool: Opening, patience: float) -> None:
    async with open_pool("dot stall=forever") as (pool, sink):
        verdict = await verdict_of(pool, deadline=0.2, patience=patience)
        assert isinstance(verdict, Deferred) and verdict.in_doubt
        while sink.conversations:
            await asyncio.sleep(0.01)


async def test_the_slot_of_a_late_answer_is_free_for_other_mail(open_pool: Opening) -> None:
    async with open_pool("dot first=3 stall=0.8", route={"max_connections": 1}) as (pool, sink):
        late = [await overdue(pool) for _ in range(3)]
        assert isinstance(await verdict_of(pool), Delivered)
        assert not any(task.done() for task in late)
        assert [type(await final(task)) for task in late] == [Delivered] * 3
        assert (sink.intake.answered, sink.duplicates) == (4, 0)
        await asyncio.sleep(0.05)
        assert len(sink.conversations) == 1  # no more are kept than may be in use
        assert isinstance(await verdict_of(pool), Delivered)
        assert sink.intake.connections == 4


@pytest.mark.parametrize(("connections", "most"), [(1, 5), (2, 10)])
async def test_a_smarthost_that_answers_nobody_bears_so_many_late_sessions_and_no_more(
    open_pool: Opening, connections: int, most: int
) -> None:
    async with open_pool("dot stall=forever", route={"max_connections": connections}) as (pool, sink):
        terms = Terms(0.25, patience=60.0)
        late = []
        for _ in range(most + 3):
            attempt = await pool.forward(envelope(), MESSAGE, terms)
            assert attempt.late is not None
            late.append(attempt.late)
        for task in late[:3]:  # the oldest
            verdict = await asyncio.wait_for(final(task), 5)
            assert isinstance(verdict, Deferred) and verdict.in_doubt
        assert not any(task.done() for task in late[3:])
        await until(lambda: len(sink.conversations) == most)
        pool.close()
        await asyncio.wait(late, timeout=1)


async def test_those_that_are_late_at_once_are_so_many_too(open_pool: Opening) -> None:
    async with open_pool("dot stall=forever", route={"max_connections": 4}) as (pool, sink):
        late: list[asyncio.Task[Verdicts]] = []
        for _ in range(8):
            attempts = await asyncio.gather(*(pool.forward(envelope(), MESSAGE, Terms(0.5, patience=60.0)) for _ in range(4)))
            late += [attempt.late for attempt in attempts if attempt.late is not None]
        await until(lambda: len(sink.conversations) == 20)
        assert len(late) == 32 and [task.done() for task in late] == [True] * 12 + [False] * 20


async def test_who_was_refused_before_the_dot_keeps_the_verdict(open_pool: Opening) -> None:
    async with open_pool("rcpt match=two@* reply='550 5.1.1 no'", "dot first=1 stall=0.4") as (pool, _):
        attempt = await pool.forward(envelope(ONE, TWO), MESSAGE, TERMS)
        doubt, refusal = attempt.verdicts[ONE], attempt.verdicts[TWO]
        assert isinstance(doubt, Deferred) and doubt.in_doubt and isinstance(refusal, Failed)
        assert attempt.late is not None
        verdicts = await attempt.late
        assert isinstance(verdicts[ONE], Delivered) and verdicts[TWO] == refusal


async def test_an_answer_about_the_time_of_the_deadline_is_told_once_and_truly(open_pool: Opening) -> None:
    async with open_pool("dot stall=0.05", route={"max_connections": 50}) as (pool, sink):
        for _ in range(2):  # the first time to open the sessions
            before, delivered = sink.intake.answered, 0
            deadlines = [0.04 + 0.002 * step for step in range(50)]
            attempts = await asyncio.gather(*(pool.forward(envelope(), MESSAGE, Terms(each, patience=5.0)) for each in deadlines))
            for attempt in attempts:
                verdict = (await attempt.late if attempt.late is not None else attempt.verdicts)[ONE]
                assert not isinstance(verdict, Deferred) or not verdict.in_doubt
                delivered += isinstance(verdict, Delivered)
            assert sink.intake.answered - before == delivered
        sink.script = Script()
        assert all(isinstance(verdict, Delivered) for verdict in await asyncio.gather(*(verdict_of(pool) for _ in range(50))))


async def test_cancelling_the_caller_cuts_the_connection_and_nobody_listens(open_pool: Opening) -> None:
    async with open_pool("dot stall=forever") as (pool, sink):
        attempt = asyncio.create_task(pool.forward(envelope(), MESSAGE, Terms(5.0, patience=5.0)))
        await asyncio.sleep(0.1)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        while sink.conversations:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("has_run", [False, True])
async def test_cancelling_who_listens_cuts_the_connection(open_pool: Opening, has_run: bool) -> None:
    async with open_pool("dot stall=forever") as (pool, sink):
        late = await overdue(pool)
        if has_run:
            await asyncio.sleep(0.05)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        while sink.conversations:
            await asyncio.sleep(0.01)


async def test_a_cancellation_that_meets_the_deadline_is_never_swallowed(open_pool: Opening) -> None:
    async with open_pool("mail stall=forever", route={"max_connections": 60}) as (pool, _):
        attempts = [asyncio.create_task(pool.forward(envelope(), MESSAGE, Terms(0.1))) for _ in range(50)]
        await asyncio.sleep(0.09)
        for attempt in attempts:
            await asyncio.sleep(0.0004)
            if not attempt.done():
                attempt.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await attempt


async def test_a_pool_that_closes_ends_the_wait_and_the_doubt_remains(open_pool: Opening) -> None:
    async with open_pool("dot stall=forever") as (pool, sink):
        late = [await overdue(pool) for _ in range(2)]
        pool.close()
        for task in late:
            verdict = await asyncio.wait_for(final(task), 5)
            assert isinstance(verdict, Deferred) and verdict.in_doubt
        while sink.conversations:
            await asyncio.sleep(0.01)


async def test_a_pool_that_is_wound_up_hears_what_comes_in_time(open_pool: Opening) -> None:
    async with open_pool("dot first=1 stall=0.5", "dot stall=forever") as (pool, sink):
        soon, never = await overdue(pool), await overdue(pool)
        await pool.wind_up(0.6)
        assert isinstance(await final(soon), Delivered)
        doubt = await asyncio.wait_for(final(never), 1)
        assert isinstance(doubt, Deferred) and doubt.in_doubt
        while sink.conversations:
            await asyncio.sleep(0.01)
        assert sink.replies[221] == 1


async def test_after_a_pool_was_closed_nobody_begins_to_listen(open_pool: Opening) -> None:
    async with open_pool("dot stall=forever") as (pool, _):
        attempt = asyncio.create_task(pool.forward(envelope(), MESSAGE, TERMS))
        await asyncio.sleep(0.05)
        pool.close()
        assert (await attempt).late is None
