"""Stories of an honest relay, however they go, hold nothing against it; and whatever is done to one of them is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from relay.loadkit.change import Change
from relay.loadkit.oracle import judge
from relay.loadkit.refusal import sequential
from relay.loadkit.verdict import Limits, Promise, Verdict
from tests.loadkit.honesty import RULES, WIDTH, Step, steps, tell
from tests.loadkit.story import EPOCH, US, World

LIMITS = st.builds(Limits, st.integers(1, 4), st.integers(3, 30))
PLAIN = steps("silence")
"""Without changes, and with nothing rejected: every refusal can be judged."""


def verdict_of(world: World) -> Verdict:
    return judge(world.evidence(), RULES)


@given(steps("bounce", "silence", "disable", "enable", "limits"), LIMITS)
def test_an_honest_story_holds(happenings: list[Step], limits: Limits) -> None:
    verdict = verdict_of(tell(happenings, limits))
    assert verdict.holds, "\n".join(verdict.lines())


@given(
    steps("silence", "disable", "enable", "limits"), LIMITS, st.lists(st.sampled_from((0.001, 0.001, 0.3, 2.0, WIDTH + 1.0)), min_size=1)
)
def test_an_honest_story_of_another_server_holds_however_slow_its_answers(
    happenings: list[Step], limits: Limits, slowness: list[float]
) -> None:
    world = tell(happenings, limits)
    for number, attempt in enumerate(world.attempts):
        if attempt.dot_sent:
            attempt.dot_sent -= slowness[number % len(slowness)]
    verdict = judge(world.evidence(is_foreign=True), RULES)
    assert verdict.holds, "\n".join(verdict.lines())


def _taken(world: World) -> list[int]:
    """Where in the journal something was taken that its client heard of."""
    heard = {attempt.relay_id for attempt in world.attempts if attempt.is_taken}
    return [index for index, line in enumerate(world.journal) if line["event"] == "taken" and line["id"] in heard]


def drop_a_commit(world: World, pick: int) -> None:
    places = _taken(world)
    assume(places)
    del world.journal[places[pick % len(places)]]


def let_one_more_in(world: World, pick: int) -> None:
    instants = [line["at"] for line in world.journal if line["event"] == "taken"]
    limit = world.limits["u"].hourly or 0
    full = [at for index, at in enumerate(instants) if index + 1 >= limit and at - instants[index + 1 - limit] < WIDTH * US]
    assume(full)
    at = full[pick % len(full)]
    world.taken((at - EPOCH * US) / US + 0.000_001)
    world.journal[-1]["at"] = at + 1


def let_more_in_than_ever(world: World, pick: int) -> None:
    for number in range(world.limits["u"].total or 0):
        world.taken(1000 + number * (WIDTH + 2))
    world.taken(900)


def shift_a_retry_after(world: World, pick: int) -> None:
    limited = [attempt for attempt in sequential(world.attempts) if attempt.retry_after is not None]
    assume(limited)
    judged = limited[pick % len(limited)]
    shift = 4 if pick % 2 else -4
    judged.text = judged.text.replace(f"retry-after={judged.retry_after}", f"retry-after={max(0, (judged.retry_after or 0) + shift)}")
    assume(judged.retry_after != 0)


def lose_a_delivery(world: World, pick: int) -> None:
    heard = [index for index, message in enumerate(world.received) if any(a.is_taken and a.load_id == message.id for a in world.attempts)]
    assume(heard)
    del world.received[heard[pick % len(heard)]]


def change_too_late(world: World, pick: int) -> None:
    places = _taken(world)
    assume(places)
    at = world.journal[places[pick % len(places)]]["at"]
    world.changes.append(Change("disable", "u", at - 600_000, at - 500_000))


def forget_a_charge(world: World, pick: int) -> None:
    assert world.ledger is not None
    world.ledger["u"] += 1 if pick % 2 or not world.ledger["u"] else -1


def count_late(world: World, pick: int) -> None:
    places = _taken(world)
    assume(places)
    world.journal[places[pick % len(places)]]["at"] += 150_000 + pick


def refuse_with_room(world: World, pick: int) -> None:
    world.refused(10_000, 3)


def reject_too_much(world: World, pick: int) -> None:
    for _ in range(RULES.cap(world.limits["u"].hourly or 0) + 1):
        world.attempt(5_000, 550, "5.1.1 unknown", "dot", seconds=0.001)
        world.write("rejected", 5_000, outcome="rejected")


DEEDS: dict[str, tuple[Callable[[World, int], None], Promise]] = {
    "a commit that is not in the journal": (drop_a_commit, "250s = taken"),
    "one more than the hourly limit": (let_one_more_in, "over-admission (hourly)"),
    "more than the total limit": (let_more_in_than_ever, "over-admission (total)"),
    "another second than the right one": (shift_a_retry_after, "retry-after"),
    "a message that the sink did not get": (lose_a_delivery, "taken = sink"),
    "a commit after a disable": (change_too_late, "overtaken edits and disables"),
    "another sum in the ledger": (forget_a_charge, "taken = ledger"),
    "a commit after its 250": (count_late, "counted before the 250"),
    "a refusal with room": (refuse_with_room, "wrong refusals"),
    "more rejected than the cap": (reject_too_much, "rejected-mail cap"),
}


@pytest.mark.parametrize("what", DEEDS)
@given(happenings=PLAIN, limits=LIMITS, pick=st.integers(0, 1000))
def test_what_is_done_to_an_honest_story_is_found(what: str, happenings: list[Step], limits: Limits, pick: int) -> None:
    do, promise = DEEDS[what]
    world = tell([Step(0, "send"), *happenings, *[Step(1, "send")] * 5], limits)
    assert verdict_of(world).holds
    do(world, pick)
    verdict = verdict_of(world)
    assert promise in verdict.broken, "\n".join(verdict.lines())
    as_text: dict[str, Any] = json.loads(json.dumps(verdict.as_dict()))
    assert [check["is_held"] for check in as_text["checks"]] == [check.is_held for check in verdict.checks]
