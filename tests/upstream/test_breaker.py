"""What is known of a smarthost that is down, and who may try whether it still is."""

from __future__ import annotations

import pytest

from relay.mail.reply import Reply
from relay.mail.verdict import Deferred
from relay.upstream.breaker import LONGEST, SPACING, Breaker

CAUSE = Deferred(Reply(451, "4.1", "Upstream not reachable (OSError)"), unreached=True)
OURS = Deferred(Reply(451, "3.5", "Relay misconfigured: login refused: 535"), ours=True)


def test_each_probe_that_fails_doubles_the_time_up_to_a_bound() -> None:
    breaker, now, waits = Breaker(5.0), 100.0, []
    for _ in range(6):
        assert breaker.admits("probe", now) and breaker.fail("probe", now, CAUSE)
        waits.append(breaker.until(now) - now)
        now = breaker.until(now)
    assert waits == [5, 10, 20, 40, LONGEST, LONGEST]


def test_a_success_makes_the_next_failure_a_first_one() -> None:
    breaker = Breaker(5.0)
    breaker.fail("a", 0.0, CAUSE)
    assert breaker.admits("b", 5.0)
    breaker.succeed()
    assert not breaker.is_down and breaker.until(5.0) == 0.0 and breaker.admits("c", 5.0) and breaker.admits("d", 5.0)
    assert breaker.fail("c", 6.0, CAUSE) and breaker.until(6.0) == 11.0


def test_failures_that_were_under_way_together_count_as_one() -> None:
    breaker = Breaker(5.0)
    assert all(breaker.admits(who, 0.0) for who in "abc")
    assert [breaker.fail(who, 1.0 + i, CAUSE) for i, who in enumerate("abc")] == [True, False, False]
    assert breaker.until(3.0) == 6.0


def test_one_probe_at_a_time_and_one_that_proves_nothing_leaves_it_to_the_next() -> None:
    breaker = Breaker(5.0)
    breaker.fail("a", 0.0, CAUSE)
    assert not breaker.admits("a", 4.9)
    assert breaker.admits("b", 5.0) and breaker.admits("b", 5.0)
    assert not breaker.admits("c", 30.0) and breaker.until(30.0) > 30.0
    breaker.withdraw("c")
    assert not breaker.admits("c", 30.0)
    breaker.withdraw("b")
    assert breaker.until(30.0) == 5.0 and breaker.admits("c", 30.0)


@pytest.mark.parametrize("cause", [CAUSE, OURS])
def test_the_verdict_names_the_cause_and_whose_it_is(cause: Deferred) -> None:
    breaker = Breaker(5.0)
    breaker.fail("a", 0.0, cause)
    said = f"451 4.4.1 Upstream is known to be down ({cause.reply.text})"
    assert (str(breaker.verdict.reply), breaker.verdict.ours, breaker.verdict.unreached) == (said, cause.ours, True)


def test_no_time_is_no_breaker() -> None:
    breaker = Breaker(0.0)
    assert not breaker.fail("a", 0.0, CAUSE) and not breaker.is_down and breaker.until(1.0) == 0.0


# -- one that somebody wants tried now -----------------------------------------------------------------------------------------------


def down_for_long(breaker: Breaker) -> float:
    """Have it fail until it is left alone for the longest time; when that begins."""
    now = 0.0
    breaker.fail("first", now, CAUSE)
    while breaker.until(now) - now < LONGEST:
        now = breaker.until(now)
        assert breaker.admits("probe", now) and breaker.fail("probe", now, CAUSE)
    return now


def test_one_that_is_hurried_may_be_tried_at_once_by_one() -> None:
    breaker = Breaker(5.0)
    now = down_for_long(breaker) + 10.0
    assert not breaker.admits("a", now)
    for _ in range(3):
        breaker.hurry(now)
    assert breaker.until(now) == now and breaker.is_down
    assert breaker.admits("a", now) and not breaker.admits("b", now)
    breaker.succeed()
    assert not breaker.is_down and breaker.until(now) == 0.0


def test_a_hurried_probe_that_fails_is_followed_by_the_usual_wait_and_does_not_lengthen_it() -> None:
    breaker = Breaker(5.0)
    breaker.fail("first", 0.0, CAUSE)
    for now in (1.5, 3.0, 4.5):
        breaker.hurry(now)
        assert breaker.admits(now, now) and breaker.fail(now, now + 0.1, CAUSE)
        assert breaker.until(now) == now + 0.1 + 5.0
    assert breaker.admits("usual", 9.6) and breaker.fail("usual", 9.6, CAUSE)
    assert breaker.until(9.6) == 19.6


def test_nobody_can_hurry_it_to_more_than_one_probe_a_second() -> None:
    breaker, probes = Breaker(5.0), []
    breaker.fail("first", 0.0, CAUSE)
    for hundredth in range(400):
        now = hundredth / 100
        breaker.hurry(now)
        if breaker.admits(now, now):
            probes.append(now)
            breaker.fail(now, now, CAUSE)
    assert probes == [SPACING, 2 * SPACING, 3 * SPACING]


def test_to_hurry_it_never_makes_anybody_wait_longer() -> None:
    breaker = Breaker(0.1)
    breaker.fail("first", 0.0, CAUSE)
    breaker.hurry(0.05)
    assert breaker.until(0.05) == 0.1
    up = Breaker(5.0)
    up.hurry(1.0)
    assert up.until(1.0) == 0.0 and up.admits("a", 1.0)


def test_one_that_is_hurried_during_a_probe_is_tried_once_more_if_that_fails() -> None:
    breaker = Breaker(5.0)
    now = down_for_long(breaker) + LONGEST
    assert breaker.admits("hangs", now)
    for _ in range(3):
        breaker.hurry(now + 20.0)
    assert not breaker.admits("b", now + 20.0)
    assert breaker.fail("hangs", now + 30.0, CAUSE) and breaker.until(now + 30.0) == now + 30.0
    assert breaker.admits("b", now + 30.0) and breaker.fail("b", now + 31.0, CAUSE)
    assert breaker.until(now + 31.0) == now + 31.0 + LONGEST


def test_a_probe_that_has_just_begun_is_what_who_hurries_wants() -> None:
    breaker = Breaker(5.0)
    now = down_for_long(breaker) + 10.0
    breaker.hurry(now)
    assert breaker.admits("hangs", now)
    breaker.hurry(now + 0.5)
    assert breaker.fail("hangs", now + 30.0, CAUSE) and breaker.until(now + 30.0) == now + 30.0 + LONGEST
