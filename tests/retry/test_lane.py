"""How the sessions are shared out among the routes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from relay.mail.envelope import Envelope, Recipient
from relay.retry.lane import Lane, Lanes
from relay.spool.entry import Entry, Standing
from relay.spool.pile import Pile
from relay.upstream.dispatch import Dispatch
from relay.upstream.guard import Guard
from relay.upstream.route import Choice, Route, Target, only
from relay.upstream.smarthost import Message
from relay.upstream.terms import Terms
from tests.running import free_port

TO = Recipient("to@example.net")


def an_entry(pile: Pile, number: int = 0) -> Entry:
    return Entry(f"{pile.owner}.{number}", "u", pile.owner, Envelope("", (TO,)), (Standing(TO),), 0.0, 0.0, route=pile.route)


def a_route(id: str, **features: float) -> Route:
    return only(Target(f"{id or 'own'}.example", 25, **features), id)  # type: ignore[arg-type]


@pytest.fixture
async def dispatch() -> AsyncIterator[Dispatch]:
    made = Dispatch("relay.example", Guard(), rest=0.01)
    yield made
    made.close()
    await asyncio.sleep(0.02)


def lanes_of(dispatch: Dispatch, sessions: int, *ids: str, **features: float) -> Lanes:
    """Lanes that have proved good for as many sessions as there are."""
    lanes = Lanes(a_route(""), dispatch, sessions)
    for id in ids:
        lanes.learn(a_route(id, **features))
    for id in ("", *ids):
        lane = lanes.of(id)
        assert lane is not None
        for _ in range(10):
            lane.ramp = lane.ramp.succeeded()
    return lanes


def fill(lanes: Lanes, piles: list[Pile]) -> dict[Pile, int]:
    """Claim what is wanted, as the runner does."""
    wanted = lanes.wanted(piles)
    for pile, count in wanted.items():
        for number in range(count):
            lanes.add(an_entry(pile, number))
    return wanted


def begin(lanes: Lanes, piles: list[Pile]) -> list[tuple[Lane, Entry]]:
    """Claim and begin until nothing more can be."""
    begun: list[tuple[Lane, Entry]] = []
    while True:
        fill(lanes, piles)
        some = list(lanes.begin())
        if not some:
            return begun
        begun += some


def by_route(begun: list[tuple[Lane, Entry]]) -> dict[str, int]:
    return dict(Counter(entry.route for _, entry in begun))


async def test_one_lane_alone_leaves_a_session_for_who_may_come(dispatch: Dispatch) -> None:
    lanes = lanes_of(dispatch, 10, "a", "b", "c")
    assert by_route(begin(lanes, [Pile("o", "")])) == {"": 8}
    assert by_route(begin(lanes, [Pile("o", ""), Pile("p", "b")])) == {"b": 1}
    assert by_route(begin(lanes, [Pile("o", ""), Pile("p", "b"), Pile("q", "c")])) == {"c": 1}
    assert begin(lanes, [Pile("r", "a")]) == []


async def test_one_session_is_the_relays_own_routes_however_many_others_there_are(dispatch: Dispatch) -> None:
    ids = [f"r{number}" for number in range(30)]
    lanes = lanes_of(dispatch, 10, *ids)
    piles = [Pile(id, id) for id in ids]
    assert sum(by_route(begin(lanes, piles)).values()) == 9
    assert by_route(begin(lanes, [*piles, Pile("o", "")])) == {"": 1}


@pytest.mark.parametrize("sessions", [1, 2, 3, 10, 50])
async def test_there_are_never_more_sessions_than_there_may_be(dispatch: Dispatch, sessions: int) -> None:
    ids = ["", *(f"r{number}" for number in range(60))]
    lanes = lanes_of(dispatch, sessions, *ids[1:])
    begun = begin(lanes, [Pile(id, id) for id in ids])
    assert len(begun) == sessions
    ready = sum(len(lane.ready) for id in ids if (lane := lanes.of(id)) is not None)
    assert ready <= 2 * sessions


async def test_what_a_lane_gives_up_goes_to_who_has_fewest(dispatch: Dispatch) -> None:
    lanes = lanes_of(dispatch, 10, "a", "b")
    first = begin(lanes, [Pile("o", "a")])
    for lane, _ in first[:6]:
        lanes.end(lane)
    begun = by_route(begin(lanes, [Pile("o", "a"), Pile("p", "b")]))
    assert begun["b"] >= 3


async def test_the_piles_of_a_lane_get_the_same(dispatch: Dispatch) -> None:
    lanes = lanes_of(dispatch, 12)
    wanted = fill(lanes, [Pile(owner, "") for owner in "abcd"])
    assert set(wanted.values()) == {3}
    assert sum(lanes_of(dispatch, 3).wanted([Pile(f"o{number}", "") for number in range(40)]).values()) == 3


async def test_a_new_lane_begins_with_one_and_a_changed_one_again(dispatch: Dispatch) -> None:
    lanes = Lanes(a_route(""), dispatch, 10)
    assert lanes.wanted([Pile("o", "a")]) == {Pile("o", "a"): 1}
    lanes.learn(a_route("a"))
    lane = lanes.of("a")
    assert lane is not None
    lane.ramp = lane.ramp.succeeded().succeeded()
    lanes.learn(a_route("a"))
    assert lane.ramp.width == 4
    lanes.learn(a_route("a", max_age=1.0))
    assert lane.ramp.width == 1


@pytest.mark.parametrize(("features", "most"), [({"max_connections": 3}, 3), ({"max_rate": 1.5}, 2), ({"max_rate": 0.1}, 1), ({}, 7)])
async def test_a_lane_takes_no_more_than_its_smarthost_does(dispatch: Dispatch, features: dict[str, float], most: int) -> None:
    lanes = lanes_of(dispatch, 10, "a", **features)
    assert by_route(begin(lanes, [Pile("o", "a")])) == {"a": most}


async def test_nothing_is_wanted_for_a_lane_that_leads_nowhere(dispatch: Dispatch) -> None:
    lanes = lanes_of(dispatch, 10, "a")
    lanes.learn(Route("b", ()))
    gone = Route("c", (Choice(Target("127.0.0.1", free_port())),))
    lanes.learn(gone)
    assert not lanes.is_blocked("c")
    await dispatch.forward(gone, "u", Envelope("", (TO,)), Message(b"", b""), Terms(2.0))
    assert [lanes.is_blocked(id) for id in ("", "a", "b", "c", "never heard of")] == [False, False, True, True, False]
    assert set(lanes.wanted([Pile("o", id) for id in ("a", "b", "c")])) == {Pile("o", "a")}


async def test_what_is_taken_out_is_ready_no_more_and_an_unused_lane_is_forgotten(dispatch: Dispatch) -> None:
    lanes = lanes_of(dispatch, 10, "a", "b")
    [(lane, _), *_] = begin(lanes, [Pile("o", "a")])
    assert len(lanes.empty(lane)) > 0
    assert lanes.empty_all() == []
    lanes.forget([])
    assert lanes.of("b") is None
    assert lanes.of("a") is lane and lanes.of("") is not None
