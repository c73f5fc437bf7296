"""A smarthost of several that is down: no message waits for it, none is spent on finding out whether it is back, and people hear of it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from relay.mail.verdict import Deferred, Delivered
from relay.upstream.breaker import SPACING
from relay.upstream.route import Choice, Route
from tests.surroundings import until
from tests.upstream.conftest import MESSAGE, ONE, TWO, Fleet, OpeningFleet, envelope, verdict_of

AWAY = "connect reply='421 4.3.2 closed'"
DOWN = {"down_seconds": 0.3}


def known(fleet: Fleet) -> int:
    """How many pools the dispatch holds."""
    return len(fleet.dispatch._pools)  # what it has let go of is seen nowhere else


async def test_one_that_is_down_is_passed_over_and_tried_without_a_message(open_fleet: OpeningFleet) -> None:
    async with open_fleet(2, AWAY, priorities=(1, 2), fields=DOWN) as fleet:
        fleet.script(1)
        for _ in range(5):
            assert isinstance(await fleet.verdict(), Delivered)
        assert fleet.connections() == [1, 1] and fleet.dispatch.down_until(fleet.route) == 0.0
        await asyncio.sleep(0.35)
        fleet.script(0, "connect stall=0.6")
        for _ in range(3):
            assert isinstance(await fleet.verdict(), Delivered)
        assert fleet.answered() == [0, 8]
        await until(lambda: len(fleet.told) == 2)
        assert fleet.connections() == [2, 1]
        assert isinstance(await fleet.verdict(), Delivered)  # on the probe's session
        assert fleet.answered() == [1, 8] and fleet.connections() == [2, 1]


async def test_its_going_and_coming_are_told_once(open_fleet: OpeningFleet) -> None:
    async with open_fleet(2, AWAY, priorities=(1, 2), fields={"down_seconds": 0.1}) as fleet:
        fleet.script(1)
        end = time.monotonic() + 0.6
        while time.monotonic() < end:
            assert isinstance(await fleet.verdict(), Delivered)
            await asyncio.sleep(0.02)
        assert fleet.connections()[0] >= 3  # each trial failed
        host = str(fleet.route.choices[0].target)
        assert fleet.told == [("smarthost_down", host)]
        fleet.script(0)

        async def is_back() -> bool:
            await fleet.verdict()
            return len(fleet.told) > 1

        await until(is_back)
        assert fleet.told == [("smarthost_down", host), ("smarthost_up", host)]


async def test_a_trial_that_hangs_keeps_nobody_waiting_and_there_is_one_at_a_time(open_fleet: OpeningFleet) -> None:
    async with open_fleet(2, AWAY, priorities=(1, 2), fields={"down_seconds": 0.05, "timeout": 8.0}) as fleet:
        fleet.script(1)
        await fleet.verdict()
        fleet.script(0, "connect stall=forever")
        await asyncio.sleep(0.06)
        began = time.monotonic()
        for _ in range(20):
            assert isinstance(await fleet.verdict(), Delivered)
            await asyncio.sleep(0.01)
        assert time.monotonic() - began < 6 and fleet.connections()[0] == 2  # who waited for the trial would wait for 8 s


async def test_if_all_are_down_everybody_hears_so_at_once_until_one_message_tries(open_fleet: OpeningFleet) -> None:
    async with open_fleet(2, AWAY, priorities=(1, 2), fields=DOWN) as fleet:
        first = await fleet.verdict()
        assert isinstance(first, Deferred) and first.unreached
        began = time.monotonic()
        for _ in range(10):
            later = await fleet.verdict()
            assert isinstance(later, Deferred) and later.unreached and "known to be down" in later.reply.text
        assert time.monotonic() - began < 0.25 and fleet.connections() == [1, 1]
        assert began < fleet.dispatch.down_until(fleet.route) <= time.monotonic() + 0.3
        await asyncio.sleep(0.35)
        fleet.script(1)
        assert isinstance(await fleet.verdict(), Delivered)
        assert fleet.dispatch.down_until(fleet.route) == 0.0


async def test_one_with_a_session_that_is_there_goes_on_being_used(open_fleet: OpeningFleet) -> None:
    async with open_fleet(2, "dot stall=0.05", priorities=(1, 2), fields=DOWN) as fleet:
        await fleet.verdict()
        fleet.script(0, AWAY, "dot stall=0.05")
        verdicts = await asyncio.gather(fleet.verdict(), fleet.verdict())
        assert all(isinstance(verdict, Delivered) for verdict in verdicts)
        assert fleet.answered() == [2, 1]
        await fleet.verdict()
        assert fleet.answered() == [3, 1]


async def test_one_that_dies_under_load_costs_no_message(open_fleet: OpeningFleet) -> None:
    async with open_fleet(2, fields=DOWN) as fleet:
        verdicts = []
        for number in range(200):
            if number == 100:
                await fleet.sinks[0].stop()
            verdicts.append(await fleet.verdict())
        assert all(isinstance(verdict, Delivered) for verdict in verdicts)
        assert sum(fleet.answered()) == 200


async def test_one_whose_sessions_go_silent_costs_those_under_way_half_of_their_time_and_nobody_else(open_fleet: OpeningFleet) -> None:
    async with open_fleet(2, "dot stall=0.05", priorities=(1, 2), fields={"down_seconds": 5.0}) as fleet:
        await asyncio.gather(*(fleet.verdict() for _ in range(5)))
        fleet.script(0, "mail stall=forever")
        began = time.monotonic()
        assert all(isinstance(verdict, Delivered) for verdict in await asyncio.gather(*(fleet.verdict(deadline=2.0) for _ in range(2))))
        assert 0.9 < time.monotonic() - began < 1.5
        began = time.monotonic()
        for _ in range(5):
            assert isinstance(await fleet.verdict(deadline=2.0), Delivered)
        assert time.monotonic() - began < 0.8
        assert [name for name, _ in fleet.told] == ["smarthost_down"]


async def test_one_recipient_that_is_answered_slowly_takes_its_message_elsewhere_and_nobody_elses(open_fleet: OpeningFleet) -> None:
    async with open_fleet(2, "dot stall=0.05", priorities=(1, 2), fields={"down_seconds": 5.0}) as fleet:
        await asyncio.gather(*(fleet.verdict() for _ in range(3)))
        fleet.script(0, "rcpt match=two@* stall=3")
        slow = asyncio.create_task(fleet.forward(TWO, user="other", deadline=2.0))
        await asyncio.sleep(1.2)
        assert isinstance(await fleet.verdict(), Delivered)
        assert isinstance((await slow).verdicts[TWO], Delivered)
        assert fleet.answered() == [4, 1] and fleet.connections() == [3, 1] and fleet.told == []


async def test_a_route_that_is_hurried_has_each_of_its_smarthosts_tried(open_fleet: OpeningFleet) -> None:
    async with open_fleet(3, AWAY, priorities=(1, 2, 3), fields={"down_seconds": 600.0}) as fleet:
        fleet.script(2)
        assert isinstance(await fleet.verdict(), Delivered)
        assert fleet.connections() == [1, 1, 1]
        await asyncio.sleep(SPACING)
        fleet.dispatch.hurry(fleet.route)
        fleet.dispatch.hurry(fleet.route)
        for _ in range(5):
            assert isinstance(await fleet.verdict(), Delivered)
        await until(lambda: fleet.connections()[:2] == [2, 2])
        assert isinstance(await fleet.verdict(), Delivered)
        assert fleet.connections() == [2, 2, 1] and fleet.answered() == [0, 0, 7]


# -- what is kept -------------------------------------------------------------------------------------------------------------------


async def test_equal_smarthosts_share_their_sessions(open_fleet: OpeningFleet) -> None:
    async with open_fleet(1) as fleet:
        target = fleet.route.choices[0].target
        for number in range(3):
            route = Route(str(number), (Choice(replace(target)),))
            await fleet.dispatch.forward(route, "u", envelope(), MESSAGE, fleet.terms())
        assert fleet.connections() == [1] and known(fleet) == 1


async def test_owners_who_name_one_open_smarthost_do_not_share_them(open_fleet: OpeningFleet) -> None:
    async with open_fleet(1) as fleet:
        target = fleet.route.choices[0].target
        for fields, pools in (({}, 2), ({"username": "me", "password": "right"}, 3), ({"max_rate": 100.0}, 5)):
            for id in ("a", "b"):
                route = Route(id, (Choice(replace(target, is_guarded=True, **fields)),))
                await fleet.dispatch.forward(route, "u", envelope(), MESSAGE, fleet.terms())
            assert known(fleet) == pools


async def test_a_password_changed_a_thousand_times_leaves_no_thousand_pools(open_fleet: OpeningFleet) -> None:
    async with open_fleet(1, fields={"max_idle": 0.05}, rest=0.1) as fleet:
        target = fleet.route.choices[0].target
        for number in range(1000):
            route = Route("x", (Choice(replace(target, name=f"n{number}.example")),))
            if number % 100 == 0:
                await fleet.dispatch.forward(route, "u", envelope(), MESSAGE, fleet.terms())
            else:
                fleet.dispatch.down_until(route)
        await until(lambda: known(fleet) == 0)
        assert isinstance(await fleet.verdict(), Delivered)  # and what is forgotten is made again
        assert known(fleet) == 1


async def test_a_changed_settings_old_smarthost_ends_what_it_has(open_fleet: OpeningFleet) -> None:
    async with open_fleet(2, "dot stall=0.4", rest=0.05) as fleet:
        old, new = (Route("x", (choice,)) for choice in fleet.route.choices)
        slow = asyncio.create_task(fleet.dispatch.forward(old, "u", envelope(), MESSAGE, fleet.terms()))
        await asyncio.sleep(0.2)
        await fleet.dispatch.forward(new, "u", envelope(), MESSAGE, fleet.terms())
        assert isinstance((await slow).verdicts[ONE], Delivered)


async def test_it_stays_known_that_one_is_down_as_long_as_its_route_is_used(open_fleet: OpeningFleet) -> None:
    async with open_fleet(1, AWAY, fields={"down_seconds": 5.0}, rest=0.05) as fleet:
        for _ in range(10):
            await fleet.verdict()
            await asyncio.sleep(0.03)
        assert fleet.connections() == [1]


async def test_nothing_is_forgotten_while_a_message_may_come_to_it(open_fleet: OpeningFleet) -> None:
    patient = {"timeout": 9.0, "connect_timeout": 9.0, "greeting_timeout": 9.0}
    async with open_fleet(2, "connect stall=9", priorities=(1, 2), fields=patient, rest=0.1) as fleet:
        fleet.script(1, "dot stall=1.2")
        attempt = await fleet.forward(deadline=2.0, patience=9.0)
        assert attempt.late is not None and isinstance((await attempt.late)[ONE], Delivered)
        await until(lambda: known(fleet) == 1)  # the idle session is there yet


async def test_one_choice_of_smarthosts_may_be_of_several_routes(open_fleet: OpeningFleet) -> None:
    async with open_fleet(2, "connect stall=9", priorities=(1, 2), rest=0.1) as fleet:
        fleet.script(1, "dot stall=1.2")
        slow = asyncio.create_task(fleet.forward(deadline=2.0, patience=9.0))
        await asyncio.sleep(0.01)
        fleet.dispatch.down_until(Route("another", fleet.route.choices))
        late = (await slow).late
        assert late is not None and isinstance((await late)[ONE], Delivered)


async def test_what_was_forgotten_is_heard_of_no_more(open_fleet: OpeningFleet) -> None:
    async with open_fleet(2, AWAY, priorities=(1, 2), fields={"down_seconds": 0.1, "max_idle": 0.05}, rest=0.05) as fleet:
        fleet.script(1)
        await fleet.verdict()
        down, up = fleet.dispatch._pools.values()
        await until(lambda: known(fleet) == 0)
        assert not fleet.dispatch._down and [name for name, _ in fleet.told] == ["smarthost_down"]
        connections = fleet.connections()
        await down.probe()
        assert fleet.connections() == connections
        fleet.script(0)
        fleet.script(1, AWAY)
        await until(lambda: down.down_until <= time.monotonic())
        assert isinstance(await verdict_of(down), Delivered) and isinstance(await verdict_of(up), Deferred)
        assert not fleet.dispatch._down and len(fleet.told) == 1
