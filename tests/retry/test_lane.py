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
    """Lanes that have proved good for as many sessions as there are; each is of the owner who bears its first letter."""
    lanes = Lanes(a_route(""), dispatch, sessions)
    for id in ids:
        lanes.learn(a_route(id, **features), id[0])
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
            assert lanes.add(an_entry(pile, number))
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
    assert by_route(begin(lanes, [Pile("o", ""), Pile("b", "b")])) == {"b": 1}
    assert by_route(begin(lanes, [Pile("o", ""), Pile("b", "b"), Pile("c", "c")])) == {"c": 1}
    assert begin(lanes, [Pile("a", "a")]) == []


async def test_one_session_is_the_relays_own_routes_however_many_others_there_are(dispatch: Dispatch) -> None:
    ids = [chr(ord("A") + number) for number in range(30)]
    lanes = lanes_of(dispatch, 10, *ids)
    piles = [Pile(id, id) for id in ids]
    assert sum(by_route(begin(lanes, piles)).values()) == 9
    assert by_route(begin(lanes, [*piles, Pile("o", "")])) == {"": 1}


@pytest.mark.parametrize("sessions", [1, 2, 3, 10, 50])
async def test_there_are_never_more_sessions_than_there_may_be(dispatch: Dispatch, sessions: int) -> None:
    ids = ["", *(chr(ord("A") + number) for number in range(60))]
    lanes = lanes_of(dispatch, sessions, *ids[1:])
    begun = begin(lanes, [Pile(id, id) for id in ids])
    assert len(begun) == sessions
    ready = sum(len(lane.ready) for id in ids if (lane := lanes.of(id)) is not None)
    assert ready <= 2 * sessions


async def test_what_a_lane_gives_up_goes_to_who_has_fewest(dispatch: Dispatch) -> None:
    lanes = lanes_of(dispatch, 10, "a", "b")
    first = begin(lanes, [Pile("a", "a")])
    for lane, _ in first[:6]:
        lanes.end(lane)
    begun = by_route(begin(lanes, [Pile("a", "a"), Pile("b", "b")]))
    assert begun["b"] >= 3


async def test_the_piles_of_a_lane_get_the_same(dispatch: Dispatch) -> None:
    lanes = lanes_of(dispatch, 12)
    wanted = fill(lanes, [Pile(owner, "") for owner in "abcd"])
    assert set(wanted.values()) == {3}
    assert sum(lanes_of(dispatch, 3).wanted([Pile(f"o{number}", "") for number in range(40)]).values()) == 3


async def test_a_new_lane_begins_with_one_and_a_changed_one_again(dispatch: Dispatch) -> None:
    lanes = Lanes(a_route(""), dispatch, 10)
    assert lanes.wanted([Pile("o", "a")]) == {Pile("o", "a"): 1}
    lanes.learn(a_route("a"), "o")
    lane = lanes.of("a")
    assert lane is not None
    lane.ramp = lane.ramp.succeeded().succeeded()
    lanes.learn(a_route("a"), "o")
    assert lane.ramp.width == 4
    lanes.learn(a_route("a", max_age=1.0), "o")
    assert lane.ramp.width == 1


@pytest.mark.parametrize(("features", "most"), [({"max_connections": 3}, 3), ({"max_rate": 1.5}, 2), ({"max_rate": 0.1}, 1), ({}, 7)])
async def test_a_lane_takes_no_more_than_its_smarthost_does(dispatch: Dispatch, features: dict[str, float], most: int) -> None:
    lanes = lanes_of(dispatch, 10, "a", **features)
    assert by_route(begin(lanes, [Pile("a", "a")])) == {"a": most}


async def test_nothing_is_wanted_for_a_lane_that_leads_nowhere(dispatch: Dispatch) -> None:
    lanes = lanes_of(dispatch, 10, "a")
    lanes.learn(Route("b", ()), "o")
    gone = Route("c", (Choice(Target("127.0.0.1", free_port())),))
    lanes.learn(gone, "o")
    assert not lanes.is_blocked("c")
    await dispatch.forward(gone, "u", Envelope("", (TO,)), Message(b"", b""), Terms(2.0))
    assert [lanes.is_blocked(id) for id in ("", "a", "b", "c", "never heard of")] == [False, False, True, True, False]
    assert set(lanes.wanted([Pile("o", id) for id in ("a", "b", "c")])) == {Pile("o", "a")}


async def test_what_is_taken_out_is_ready_no_more_and_an_unused_lane_is_forgotten(dispatch: Dispatch) -> None:
    lanes = lanes_of(dispatch, 10, "a", "b")
    [(lane, _), *_] = begin(lanes, [Pile("a", "a")])
    assert len(lanes.empty(lane)) > 0
    assert lanes.empty_all() == []
    lanes.forget([])
    assert lanes.of("b") is None
    assert lanes.of("a") is lane and lanes.of("") is not None


def of_one(many: int) -> list[str]:
    """Routes of an owner named a."""
    return [f"a{number}" for number in range(many)]


@pytest.mark.parametrize("many", [1, 2, 9, 40])
async def test_an_owner_gets_no_more_by_many_routes_than_by_one(dispatch: Dispatch, many: int) -> None:
    lanes = lanes_of(dispatch, 10, *of_one(many), "b", "c")
    piles = [Pile("a", id) for id in of_one(many)]
    assert len(begin(lanes, piles)) == 7
    assert by_route(begin(lanes, [*piles, Pile("b", "b")])) == {"b": 1}
    assert by_route(begin(lanes, [*piles, Pile("b", "b"), Pile("c", "c")])) == {"c": 1}
    assert by_route(begin(lanes, [*piles, Pile("o", "")])) == {"": 1}


@pytest.mark.parametrize("sessions", [3, 4, 10, 50])
async def test_an_owner_who_has_some_never_gets_the_last(dispatch: Dispatch, sessions: int) -> None:
    lanes = lanes_of(dispatch, sessions, *of_one(60), "b")
    piles = [Pile("a", id) for id in of_one(60)]
    begin(lanes, piles)
    assert by_route(begin(lanes, [*piles, Pile("b", "b")]))["b"] >= 1
    assert by_route(begin(lanes, [*piles, Pile("b", "b"), Pile("o", "")]))[""] >= 1


async def test_what_is_claimed_and_cannot_be_begun_keeps_no_session_from_another_owner(dispatch: Dispatch) -> None:
    lanes = lanes_of(dispatch, 10, *of_one(9), "b")
    for id in of_one(9):
        assert lanes.add(an_entry(Pile("a", id)))
    assert len(list(lanes.begin())) == 7
    assert by_route(begin(lanes, [Pile("b", "b")]))["b"] == 1


async def test_a_session_that_is_free_goes_to_the_owner_with_fewest(dispatch: Dispatch) -> None:
    lanes = lanes_of(dispatch, 10, *of_one(9), "b", "c")
    theirs, others = [Pile("a", id) for id in of_one(9)], [Pile("b", "b"), Pile("c", "c")]
    begun = begin(lanes, theirs) + begin(lanes, [*theirs, *others])
    assert by_route(begun)["b"] == 1
    for lane, _ in begun[:4]:
        lanes.end(lane)
        assert set(by_route(begin(lanes, [*theirs, *others]))) < {"b", "c"}


async def test_a_route_of_an_owners_leaves_one_of_the_owners_sessions_for_the_others(dispatch: Dispatch) -> None:
    lanes = lanes_of(dispatch, 10, *of_one(2))
    assert by_route(begin(lanes, [Pile("a", "a0")])) == {"a0": 6}
    assert by_route(begin(lanes, [Pile("a", "a0"), Pile("a", "a1")])) == {"a1": 1}


async def test_owners_take_turns_where_there_are_more_than_sessions(dispatch: Dispatch) -> None:
    owners = [chr(ord("A") + number) for number in range(20)]
    lanes = lanes_of(dispatch, 10, *owners)
    piles = [Pile(owner, owner) for owner in owners]
    going = begin(lanes, piles)
    met = set(by_route(going))
    for _ in range(300):
        lanes.end(going.pop(0)[0])
        more = [*lanes.begin()] or begin(lanes, piles)
        met |= set(by_route(more))
        going += more
        assert len(going) == 9
    assert met == set(owners)


async def test_an_entry_of_a_lane_that_is_forgotten_is_not_taken(dispatch: Dispatch) -> None:
    lanes = lanes_of(dispatch, 10, "a")
    lanes.forget([])
    assert not lanes.add(an_entry(Pile("a", "a")))
    assert list(lanes.begin()) == []


class Unwell(Dispatch):
    """Cannot tell how a route named b is, as long as it is told so."""

    is_unwell = True

    def down_until(self, route: Route) -> float:
        if self.is_unwell and route.id == "b":
            raise RuntimeError("a bug")
        return super().down_until(route)

    def hurry(self, route: Route) -> None:
        self.down_until(route)
        super().hurry(route)


async def test_a_lane_of_which_nothing_can_be_known_is_blocked_and_told_of_once() -> None:
    dispatch, told = Unwell("relay.example", Guard()), list[tuple[str, str]]()
    lanes = Lanes(a_route(""), dispatch, 10, lambda lane, error: told.append((lane.route.id, str(error))))
    for id in "ab":
        lanes.learn(a_route(id), id)
    piles = [Pile("a", "a"), Pile("b", "b")]
    for _ in range(3):
        assert set(lanes.wanted(piles)) == {Pile("a", "a")}
        lanes.hurry("b")
    assert lanes.is_blocked("b") and told == [("b", "a bug")]
    dispatch.is_unwell = False
    lanes.hurry("never heard of")
    assert not lanes.is_blocked("b") and set(lanes.wanted(piles)) == set(piles)
    dispatch.is_unwell = True
    assert lanes.is_blocked("b") and told == [("b", "a bug")] * 2
    dispatch.close()
