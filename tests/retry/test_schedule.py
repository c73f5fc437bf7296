"""When a message is tried again: the waits grow and are bounded, and its last attempt is made at its expiry."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.retry import schedule
from relay.retry.schedule import Ramp, Schedule

DICE = st.floats(0.0, 1.0, exclude_max=True)
SCHEDULES = st.builds(
    Schedule, first=st.floats(1.0, 600.0), longest=st.floats(1.0, 86_400.0), factor=st.floats(1.0, 10.0), jitter=st.floats(0.0, 0.9),
    expire=st.floats(1.0, 30_000.0), warn_after=st.floats(0.0, 1e6),
)  # fmt: skip


def attempts_of(plan: Schedule, arrived: float, dice: Callable[[], float]) -> list[float]:
    """The instants at which a message is tried that never gets through; the first is its arrival."""
    times = [arrived]
    while (due := plan.next_due(arrived, times[-1], len(times), dice())) is not None:
        times.append(due)
    return times


@given(SCHEDULES, st.integers(0, 10_000), DICE)
def test_no_wait_is_longer_or_shorter_than_its_spread_allows(plan: Schedule, attempts: int, dice: float) -> None:
    wait = plan.wait(attempts, dice)
    least = min(plan.first, plan.longest)
    assert least * (1 - plan.jitter) - 1e-6 <= wait <= plan.longest * (1 + plan.jitter) + 1e-6


@given(SCHEDULES, st.integers(0, 5_000), DICE)
def test_at_one_place_of_the_spread_the_waits_never_shrink(plan: Schedule, attempts: int, dice: float) -> None:
    assert plan.wait(attempts, dice) <= plan.wait(attempts + 1, dice) * (1 + 1e-12)


@given(SCHEDULES, st.integers(1, 40), DICE, DICE)
def test_two_waits_after_as_many_attempts_differ_by_the_spread_at_most(plan: Schedule, attempts: int, one: float, other: float) -> None:
    middle = plan.wait(attempts, 0.5)
    assert abs(plan.wait(attempts, one) - plan.wait(attempts, other)) <= 2 * plan.jitter * middle + 1e-6


LONG = st.builds(
    Schedule, first=st.floats(10.0, 600.0), longest=st.floats(60.0, 86_400.0), factor=st.floats(1.0, 10.0), jitter=st.floats(0.0, 0.9),
    expire=st.floats(1.0, 2_000.0),
)  # fmt: skip


@given(LONG, st.floats(0, 2e9), st.randoms(use_true_random=False))
def test_the_last_attempt_is_made_at_the_expiry_and_none_after_it(plan: Schedule, arrived: float, dice: random.Random) -> None:
    times = attempts_of(plan, arrived, dice.random)
    assert times[-1] == plan.expiry(arrived)
    assert all(earlier < later for earlier, later in itertools.pairwise(times))


@given(SCHEDULES, st.floats(0, 2e9), st.floats(0, 1e6), st.integers(0, 100), DICE)
def test_given_up_is_what_has_expired_and_nothing_else(plan: Schedule, arrived: float, age: float, attempts: int, dice: float) -> None:
    due = plan.next_due(arrived, arrived + age, attempts, dice)
    if arrived + age >= arrived + plan.expire:
        assert due is None
    else:
        assert due is not None
        assert arrived + age < due <= arrived + plan.expire


def test_the_default_times_are_those_that_the_module_tells() -> None:
    told = schedule.__doc__ or ""
    times = attempts_of(Schedule(), 0.0, lambda: 0.5)
    assert times[:8] == [0, 60, 180, 420, 900, 1860, 3780, 7380]
    assert [times[8], times[52], times[53]] == [3 * 3600 + 180, 47 * 3600 + 180, 48 * 3600]
    for number, age in enumerate(("0 s", "1 min", "3 min", "7 min", "15 min", "31 min", "1 h 3 min", "2 h 3 min"), 1):
        assert re.search(rf"(?m)^    {number} .* {age}\b", told), number
    assert "9 ... 53       1 h each         3 h 3 min ... 47 h 3 min" in told
    assert f"is tried {len(times)} times" in told
    fewest, most = (len(attempts_of(Schedule(), 0.0, lambda dice=dice: dice)) for dice in (1 - 2**-53, 0.0))  # type: ignore[misc]
    assert f"at least {fewest} and at most {most}" in " ".join(told.split())


@pytest.mark.parametrize(
    ("warn_after", "age", "is_warned", "is_due"),
    [
        (0.0, 1e6, False, False),
        (14_400.0, 14_399.9, False, False),
        (14_400.0, 14_400.0, False, True),
        (14_400.0, 14_400.0, True, False),
    ],
)
def test_a_warning_is_due_once_and_only_where_it_is_asked_for(warn_after: float, age: float, is_warned: bool, is_due: bool) -> None:
    assert Schedule(warn_after=warn_after).is_warning_due(1000.0, 1000.0 + age, is_warned) is is_due


def test_a_smarthost_that_comes_back_gets_one_session_first_and_more_as_it_takes_messages() -> None:
    ramp = Ramp(10)
    widths = []
    for _ in range(6):
        widths.append(ramp.width)
        ramp = ramp.succeeded()
    assert widths == [1, 2, 4, 8, 10, 10]
    assert ramp.unreached() == Ramp(10, 1)


@given(st.integers(1, 1000), st.lists(st.booleans()))
def test_there_is_always_one_session_and_never_more_than_the_most(most: int, events: list[bool]) -> None:
    ramp = Ramp(most)
    for is_success in events:
        ramp = ramp.succeeded() if is_success else ramp.unreached()
        assert 1 <= ramp.width <= most
