"""What is known of a smarthost that is down, and who may try whether it still is."""

from __future__ import annotations

import pytest

from relay.mail.reply import Reply
from relay.mail.verdict import Deferred
from relay.upstream.breaker import LONGEST, Breaker

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
