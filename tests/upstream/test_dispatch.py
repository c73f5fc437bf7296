"""Which of a route's smarthosts takes a message: their order, and what sends it to the next one and what never does."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping

import pytest

from relay.mail.envelope import Recipient
from relay.mail.verdict import Deferred, Delivered, Failed, Verdict
from relay.upstream.route import Route
from tests.upstream.conftest import MESSAGE, ONE, TWO, OpeningFleet, envelope

AWAY = "connect reply='421 4.3.2 closed'"


# -- the order ----------------------------------------------------------------------------------------------------------------------


async def test_the_lowest_priority_comes_first_and_the_others_are_left_alone(open_fleet: OpeningFleet) -> None:
    async with open_fleet(3, priorities=(5, 1, 3)) as fleet:
        for _ in range(5):
            assert isinstance(await fleet.verdict(), Delivered)
        assert fleet.answered() == [0, 5, 0] and fleet.connections() == [0, 1, 0]


async def test_equals_are_drawn_by_weight(open_fleet: OpeningFleet) -> None:
    async with open_fleet(3, priorities=(0, 0, 9), weights=(3, 1, 1)) as fleet:
        for _ in range(400):
            assert isinstance(await fleet.verdict(), Delivered)
        first, second, third = fleet.answered()
        assert first + second == 400 and third == 0
        assert 260 < first < 340


async def test_an_equal_with_a_free_session_is_preferred_to_one_that_is_busy(open_fleet: OpeningFleet) -> None:
    async with open_fleet(2, "dot stall=0.3", fields={"max_connections": 1}) as fleet:
        verdicts = await asyncio.gather(fleet.verdict(), fleet.verdict())
        assert all(isinstance(verdict, Delivered) for verdict in verdicts)
        assert fleet.answered() == [1, 1]


async def test_a_busy_first_is_waited_for_and_nothing_spills_to_the_next_priority(open_fleet: OpeningFleet) -> None:
    async with open_fleet(2, "dot stall=0.1", priorities=(1, 2), fields={"max_connections": 1}) as fleet:
        verdicts = await asyncio.gather(*(fleet.verdict() for _ in range(4)))
        assert all(isinstance(verdict, Delivered) for verdict in verdicts)
        assert fleet.answered() == [4, 0]


async def test_who_has_waited_for_a_busy_first_half_of_its_time_goes_to_the_next(open_fleet: OpeningFleet) -> None:
    async with open_fleet(2, priorities=(1, 2), fields={"max_connections": 1}) as fleet:
        fleet.script(0, "dot stall=forever")
        stuck = asyncio.create_task(fleet.verdict(deadline=5.0))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        assert isinstance(await fleet.verdict(deadline=3.0), Delivered)
        assert 1.4 < time.monotonic() - began < 2 and fleet.answered() == [0, 1]
        stuck.cancel()


async def test_a_route_without_a_smarthost_is_our_fault(open_fleet: OpeningFleet) -> None:
    async with open_fleet(1) as fleet:
        attempt = await fleet.dispatch.forward(Route("x", ()), "user", envelope(), MESSAGE, fleet.terms())
        verdict = attempt.verdicts[ONE]
        assert isinstance(verdict, Deferred) and verdict.ours and verdict.reply.status == "4.3.5"
        assert fleet.dispatch.down_until(Route("x", ())) == 0.0


# -- the next one -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [AWAY, "connect drop", "connect garbage", "ehlo reply='554 5.7.1 no'", "ehlo drop", "mail reply='421 4.3.2 bye' close", "mail drop",
     "mail garbage", "rcpt drop", "data drop", "data reply='250 what'"],
)  # fmt: skip
async def test_what_breaks_before_any_content_was_offered_goes_to_the_next(open_fleet: OpeningFleet, rule: str) -> None:
    async with open_fleet(2, rule, priorities=(1, 2), manners={"without": ["CHUNKING"]}) as fleet:
        fleet.script(1)
        asked: list[Mapping[Recipient, Verdict]] = []

        async def before_dot(refused: Mapping[Recipient, Verdict]) -> None:
            asked.append(refused)

        verdicts = await fleet.verdicts(ONE, TWO, before_dot=before_dot, is_split=True)
        assert all(isinstance(verdict, Delivered) for verdict in verdicts.values())
        assert fleet.answered() == [0, 1] and asked == [{}]


@pytest.mark.parametrize("fields", [{"username": "me", "password": "wrong"}, {"security": "starttls"}], ids=["login", "starttls"])
async def test_a_login_or_tls_that_fails_goes_to_the_next(open_fleet: OpeningFleet, fields: dict[str, str]) -> None:
    async with open_fleet(2, priorities=(1, 2), first=fields) as fleet:
        assert isinstance(await fleet.verdict(), Delivered)
        assert fleet.answered() == [0, 1]


async def test_nobody_there_goes_to_the_next(open_fleet: OpeningFleet) -> None:
    async with open_fleet(2, priorities=(1, 2), first={"port": 1}) as fleet:
        assert isinstance(await fleet.verdict(), Delivered)


@pytest.mark.parametrize("stage", ["connect", "ehlo", "mail", "rcpt", "data"])
async def test_one_that_hangs_takes_half_of_the_time_and_no_more(open_fleet: OpeningFleet, stage: str) -> None:
    async with open_fleet(2, f"{stage} stall=forever", priorities=(1, 2), manners={"without": ["CHUNKING"]}) as fleet:
        fleet.script(1, "dot stall=0.1")
        began = time.monotonic()
        assert isinstance(await fleet.verdict(deadline=3.0), Delivered)
        assert 1.4 < time.monotonic() - began < 2.9


async def test_three_that_hang_share_the_time_and_the_deadline_holds(open_fleet: OpeningFleet) -> None:
    async with open_fleet(3, "ehlo stall=forever", priorities=(1, 2, 3)) as fleet:
        began = time.monotonic()
        verdict = await fleet.verdict(deadline=3.0)
        assert 2.9 < time.monotonic() - began < 5
        assert isinstance(verdict, Deferred) and verdict.unreached and not verdict.in_doubt
        assert fleet.connections() == [1, 1, 1]


async def test_the_verdict_is_the_last_ones(open_fleet: OpeningFleet) -> None:
    async with open_fleet(2, "mail reply='421 4.3.2 first' close", priorities=(1, 2)) as fleet:
        fleet.script(1, "mail reply='421 4.3.2 second' close")
        verdict = await fleet.verdict()
        assert verdict.reply.text == "upstream said: second"


# -- what stays with the first ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "dot"])
@pytest.mark.parametrize("code", [450, 550])
async def test_what_it_says_of_the_message_is_not_asked_of_another(open_fleet: OpeningFleet, stage: str, code: int) -> None:
    async with open_fleet(2, f"{stage} reply='{code} {code // 100}.7.1 because'", priorities=(1, 2)) as fleet:
        fleet.script(1)
        verdict = await fleet.verdict()
        assert isinstance(verdict, Failed if code >= 500 else Deferred) and verdict.reply.text == "upstream said: because"
        assert fleet.connections() == [1, 0]


@pytest.mark.parametrize("deed", ["drop", "drop=after", "garbage", "reply='421 4.3.2 bye' close", "close"])
async def test_once_the_dot_is_sent_nobody_else_gets_it(open_fleet: OpeningFleet, deed: str) -> None:
    async with open_fleet(2, f"dot {deed}", priorities=(1, 2)) as fleet:
        fleet.script(1)
        await fleet.verdict()
        assert fleet.connections() == [1, 0]


async def test_the_answer_to_the_dot_has_all_of_the_time(open_fleet: OpeningFleet) -> None:
    async with open_fleet(2, "dot stall=1.7", priorities=(1, 2)) as fleet:
        assert isinstance(await fleet.verdict(deadline=2.5), Delivered)
        assert fleet.answered() == [1, 0]
        fleet.script(0, "dot stall=forever")
        began = time.monotonic()
        verdict = await fleet.verdict(deadline=1.5)
        assert isinstance(verdict, Deferred) and verdict.in_doubt
        assert 1.4 < time.monotonic() - began < 4 and fleet.connections() == [1, 0]


async def test_the_callers_own_step_has_all_of_the_time_too(open_fleet: OpeningFleet) -> None:
    async with open_fleet(2, priorities=(1, 2)) as fleet:

        async def before_dot(refused: Mapping[Recipient, Verdict]) -> None:
            await asyncio.sleep(1.2)

        assert isinstance(await fleet.verdict(deadline=2.0, before_dot=before_dot), Delivered)
        assert fleet.answered() == [1, 0]


async def test_what_that_step_raises_passes_and_nobody_else_is_asked(open_fleet: OpeningFleet) -> None:
    async with open_fleet(2, priorities=(1, 2)) as fleet:

        async def before_dot(refused: Mapping[Recipient, Verdict]) -> None:
            raise OSError("no")

        with pytest.raises(OSError, match="no"):
            await fleet.verdict(before_dot=before_dot)
        assert fleet.connections() == [1, 0] and fleet.answered() == [0, 0]


async def test_who_was_refused_by_the_first_is_not_offered_to_another_though_it_breaks(open_fleet: OpeningFleet) -> None:
    async with open_fleet(2, "rcpt match=two@* reply='550 5.1.1 no'", "data drop", priorities=(1, 2)) as fleet:
        fleet.script(1)
        verdicts = await fleet.verdicts(ONE, TWO, is_split=True)
        assert isinstance(verdicts[TWO], Failed) and isinstance(verdicts[ONE], Deferred)
        assert fleet.connections() == [1, 0]


async def test_a_caller_that_goes_takes_its_attempt_along(open_fleet: OpeningFleet) -> None:
    async with open_fleet(2, "mail stall=forever", priorities=(1, 2)) as fleet:
        task = asyncio.create_task(fleet.verdict(deadline=3.0))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert fleet.connections() == [1, 0]


async def test_a_late_answer_is_heard_and_says_whose_it_is(open_fleet: OpeningFleet) -> None:
    async with open_fleet(2, "dot first=1 stall=0.4", priorities=(1, 2)) as fleet:
        attempt = await fleet.forward(deadline=0.2, patience=5.0)
        assert attempt.late is not None and attempt.host == "127.0.0.1"
        await fleet.dispatch.wind_up(5.0)
        assert isinstance((await attempt.late)[ONE], Delivered)


async def test_users_take_turns_at_a_smarthost(open_fleet: OpeningFleet) -> None:
    async with open_fleet(1, "dot stall=0.01", fields={"max_connections": 1}) as fleet:
        done: list[str] = []

        async def send(user: str) -> None:
            await fleet.forward(user=user)
            done.append(user)

        burst = [asyncio.create_task(send("a")) for _ in range(30)]
        await asyncio.sleep(0.05)
        before = len(done)
        await send("b")
        assert done.index("b") - before <= 2
        await asyncio.gather(*burst)
        assert Counter(done) == {"a": 30, "b": 1}
