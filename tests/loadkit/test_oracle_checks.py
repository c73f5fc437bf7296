"""The oracle's verdict is a line for each promise: held, broken, or not judged and why; under changes, and on a server of another kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from relay.loadkit.history import read_history
from relay.loadkit.oracle import Evidence, judge
from relay.loadkit.verdict import Limits, Rules
from tests.loadkit.story import EPOCH, US, WINDOW, World, check, faults, honest, notes


def test_what_is_not_judged_says_why_and_is_not_said_to_hold() -> None:
    verdict = judge(Evidence(), Rules())
    assert len(verdict.checks) == 10
    assert all(one.is_held is None and one.text.startswith("not judged: ") for one in verdict.checks)
    verdict = honest().verdict()
    assert {one.name for one in verdict.checks if one.is_held is None} == {
        "taken = ledger", "overtaken edits and disables", "rejected-mail cap"
    }  # fmt: skip
    assert verdict.broken == frozenset()
    text = "\n".join(verdict.lines())
    assert "not judged: the ledger was not read" in text
    assert "retry-after: 1 judged, off by +1.00 s at the least, +1.00 s in the middle, +1.00 s at the most" in text


def test_the_ledger_must_count_what_was_taken_and_nothing_else() -> None:
    world = honest()
    for units, expected in ((4, set()), (3, {"not in the ledger"}), (5, {"charged but not taken"})):
        world.ledger = {"u": units}
        verdict = world.verdict()
        assert faults(verdict) == expected
        assert check(verdict, "taken = ledger") is not bool(expected)


def test_a_message_must_be_counted_and_on_record_before_its_answer() -> None:
    world = World()
    world.taken(0)
    world.journal[0]["at"] += 200_000
    verdict = world.verdict()
    assert faults(verdict) == {"counted after the answer"}
    assert verdict.broken == {"counted before the 250"}
    world = World()
    world.taken(0)
    world.journal[0]["ts"] = world.journal[0]["ts"].replace(".000000Z", ".200000Z")
    assert faults(world.verdict()) == {"journaled after the answer"}


def test_a_charge_whose_recording_was_answered_late_is_no_pending_one() -> None:
    world = World()
    world.taken(0)
    world.journal[0]["at"] = 0
    world.write("settled_before", 2, id="r1", units=1, at=(EPOCH + 2) * US)
    assert world.verdict().holds


def test_a_raised_limit_may_be_used_from_when_it_was_asked_for() -> None:
    world = World()
    for second in (0.0, 1.0, 2.0):
        world.taken(second)
    assert faults(world.verdict()) == {"over the hourly limit"}
    world.change("limits", 2.5, lag=0.6, hourly=3, total=100)
    assert world.verdict().holds
    world.taken(3)
    assert world.verdict().broken == {"over-admission (hourly)"}


def test_a_lowered_limit_holds_from_its_answer_on_and_the_time_it_took_is_told() -> None:
    world = World(hourly=10)
    for second in (0.0, 1.0, 2.0):
        world.taken(second)
    world.change("limits", 2.05, hourly=2, total=100)
    verdict = world.verdict()
    assert verdict.holds
    assert "limits -0.050 s" in "\n".join(verdict.lines())
    world.taken(2.5)
    verdict = world.verdict()
    assert verdict.broken == {"overtaken edits and disables"}
    assert "limits +0.450 s" in "\n".join(verdict.lines())


def test_a_lowered_limit_that_is_never_heeded_is_over_admission_once_the_old_one_has_left_the_window() -> None:
    world = World(hourly=4)
    world.change("limits", 0, hourly=1, total=100)
    for second in (70, 71):
        world.taken(second)
    assert world.verdict().broken == {"over-admission (hourly)"}


def test_a_total_limit_that_changes_is_judged_alike() -> None:
    world = World(hourly=None, total=5)
    for second in (0, 1, 2):
        world.taken(second)
    world.change("limits", 2.5, hourly=None, total=2)
    assert world.verdict().holds
    world.taken(4)
    assert world.verdict().broken == {"overtaken edits and disables"}
    world.taken(100)
    assert world.verdict().broken == {"overtaken edits and disables", "over-admission (total)"}


@pytest.mark.parametrize("kind", ["disable", "delete"])
def test_nothing_may_be_taken_after_a_user_was_disabled_or_deleted(kind: str) -> None:
    world = World(hourly=10)
    world.taken(0)
    world.change("disable" if kind == "disable" else "delete", 1)
    assert world.verdict().holds
    world.taken(1.05)  # within what clocks may differ
    verdict = world.verdict()
    assert verdict.holds
    assert f"{kind} +0.050 s" in "\n".join(verdict.lines())
    world.taken(1.5)
    verdict = world.verdict()
    assert verdict.broken == {"overtaken edits and disables"}
    assert "the last 0.500 s after" in str(verdict.findings[0])


def test_an_enabled_user_may_send_from_when_it_was_asked_for() -> None:
    world = World(hourly=10)
    world.change("disable", 1)
    world.change("enable", 3, lag=1)
    world.taken(2.1)
    assert world.verdict().holds
    world.taken(1.5)
    assert world.verdict().broken == {"overtaken edits and disables"}


def test_a_change_that_was_not_confirmed_may_or_may_not_hold() -> None:
    world = World(hourly=2)
    world.change("disable", 1)
    world.changes[0] = world.changes[0].__class__("disable", "u", world.changes[0].asked, world.changes[0].answered, error="500")
    world.taken(5)
    world.attempt(6, 550, "5.7.13 User account disabled", "data")
    assert faults(world.verdict()) == {"change not made"}
    assert world.verdict().broken == frozenset()


def test_after_a_new_password_only_connections_of_before_are_held_to_it() -> None:
    world = World(hourly=10)
    made = world.taken(5)
    made.entered_at = EPOCH + 0.5
    world.change("password", 1)
    verdict = world.verdict()
    assert verdict.broken == {"overtaken edits and disables"}
    assert "password +4.000 s" in "\n".join(verdict.lines())
    made.entered_at = EPOCH + 2
    verdict = world.verdict()
    assert verdict.holds
    assert check(verdict, "overtaken edits and disables") is None


def test_a_refusal_for_the_account_needs_a_change_that_explains_it() -> None:
    for text, kind in (("5.7.13 User account disabled", "disable"), ("5.7.0 Credentials were changed", "password")):
        world = World()
        world.attempt(5, 550, text, "data")
        assert faults(world.verdict()) == {"refused wrongly"}
        world.change("disable" if kind == "disable" else "password", 3)
        assert world.verdict().holds


def test_a_refusal_is_right_by_any_limit_that_may_have_been_in_force() -> None:
    world = World(hourly=3)
    world.taken(0)
    world.taken(1)
    world.change("limits", 3, lag=1, hourly=2, total=100)
    world.refused(2.5, 58)
    assert world.verdict().holds
    world.changes.clear()
    assert world.verdict().broken == {"wrong refusals"}


def test_one_that_can_never_fit_may_be_refused_for_good() -> None:
    world = World(hourly=2)
    world.attempt(0, 550, "5.7.1 Message counts 3 recipients and never fits the limit of 2 per window", "data").units = 3
    assert world.verdict(unit="recipients").holds
    assert world.verdict().broken == {"wrong refusals"}


def test_more_rejected_than_the_cap_allows_is_found_and_less_may_not_be_refused_for_it() -> None:
    world = World(hourly=2)
    for second in range(5):
        world.attempt(second, 550, "5.1.1 unknown", "dot")
        world.write("rejected", second, outcome="rejected")
    caps: dict[str, Any] = {"rejected_factor": 2.0, "rejected_minimum": 4}
    assert world.verdict(rejected_factor=2.5, rejected_minimum=4).holds
    verdict = world.verdict(**caps)
    assert verdict.broken == {"rejected-mail cap"}
    world.attempt(6, 451, "4.7.0 Too much of your mail was rejected (5/4 messages); retry-after=50", "data")
    assert world.verdict(**caps).broken == {"rejected-mail cap"}
    assert world.verdict(rejected_factor=3.0).broken == {"wrong refusals"}


@pytest.mark.parametrize(("past", "is_right"), [(-1.0, True), (0.8, True), (1.5, False)])
def test_what_was_rejected_is_in_the_way_until_the_latest_instant_at_which_it_may_have_been_has_left(past: float, is_right: bool) -> None:
    world = World(hourly=2)
    for second in range(4):
        world.attempt(second, 550, "5.1.1 unknown", "dot")
        world.write("rejected", second, outcome="rejected")
    world.attempt(WINDOW + past, 451, "4.7.0 Too much of your mail was rejected (4/4 messages); retry-after=1", "data")
    verdict = world.verdict(rejected_factor=2.0, rejected_minimum=4)
    assert ("wrong refusals" not in verdict.broken) == is_right


def test_of_recipients_those_refused_count_against_the_cap() -> None:
    world = World(hourly=10)
    for second in range(3):
        world.taken(second, units=1, recipients=["a", "b", "c"])
    assert world.verdict(unit="recipients", rejected_factor=0.1, rejected_minimum=6).holds
    assert world.verdict(unit="recipients", rejected_factor=0.1, rejected_minimum=5).broken == {"rejected-mail cap"}


def test_what_the_journal_says_is_in_the_spool_is_not_lost() -> None:
    world = World()
    world.taken(0, spooled=["b@s"])
    world.received.clear()
    verdict = world.verdict()
    assert verdict.holds
    assert notes(verdict) == {"waiting"}
    assert check(verdict, "taken = sink") is None
    world.write("delivered", 5, id="r1", attempts=1)
    assert world.verdict().broken == {"taken = sink"}


def test_the_relays_own_word_that_a_change_was_overtaken_is_passed_on() -> None:
    world = World()
    world.taken(0)
    world.change("disable", 1)
    world.write("change_overtaken", 1, users=1)
    assert notes(world.verdict()) == {"change overtaken"}


# -- a server of another kind ------------------------------------------------------------------------------------------------


def foreign(seconds: tuple[float, ...], longest: float = 0.5, hourly: int = 2) -> World:
    world = World(hourly)
    for second in seconds:
        world.taken(second).dot_sent -= longest
    return world


def test_another_server_is_judged_by_its_250s_sent_and_answered_within_one_window() -> None:
    verdict = foreign((0, 10, 59.4)).verdict(is_foreign=True)
    assert verdict.broken == {"over-admission (hourly)"}
    assert "the longest time from final dot to 250 was 0.500 s" in "\n".join(verdict.lines())
    assert foreign((0, 10, 59.6)).verdict(is_foreign=True).holds  # the first may have been committed half a second earlier
    assert [usage.taken for usage in verdict.usages] == [3]
    unjudged = {one.name for one in verdict.checks if one.is_held is None}
    assert unjudged >= {"250s = taken", "taken = ledger", "counted before the 250", "rejected-mail cap"}


def test_one_stalled_answer_hides_nothing_of_the_others() -> None:
    for other in ("u", "v"):
        world = foreign((0, 10, 20))
        stalled = world.taken(100)
        stalled.user = other
        stalled.dot_sent -= 70
        world.limits["v"] = Limits(2, 100)
        assert world.verdict(is_foreign=True).broken == {"over-admission (hourly)"}
    assert "1 took longer than a window" in "\n".join(world.verdict(is_foreign=True).lines())
    world = foreign((0, 10))
    stalled = world.taken(130)
    stalled.started, stalled.started_at, stalled.dot_sent = (
        instant - 70 for instant in (stalled.started, stalled.started_at, stalled.dot_sent)
    )
    world.attempt(120, 450, "4.7.1 too fast; retry-after=9", "rcpt")
    world.attempt(20, 450, "4.7.1 too fast; retry-after=41", "rcpt")
    assert world.verdict(is_foreign=True).broken == {"wrong refusals"}, "the stalled one stands in the way of what came after its dot alone"


def test_a_slow_server_may_count_from_the_dot_on_when_it_says_until_when() -> None:
    for told, expected in ((39, set()), (38, {"retry-after"})):
        world = foreign((0, 10), longest=1.2)
        world.attempt(20, 450, f"4.7.1 too fast; retry-after={told}", "rcpt")
        assert world.verdict(is_foreign=True).broken == expected


def test_the_ledger_of_another_server_must_have_what_was_answered_250() -> None:
    world = foreign((0, 10))
    for units, expected in ((2, True), (3, True), (1, False)):
        world.ledger = {"u": units}
        assert check(world.verdict(is_foreign=True), "taken = ledger") is expected


def test_a_change_that_was_planned_and_never_made_is_a_fault() -> None:
    world = honest()
    verdict = judge(replace(world.evidence(), undone=("disable at 99 s",)), Rules(WINDOW))
    assert faults(verdict) == {"change not made"}
    assert not verdict.proves
    assert next(verdict.lines()) == "NOT EVERY CHANGE WAS MADE"


def test_the_limits_are_shown_in_their_turn() -> None:
    world = World(hourly=150)
    world.taken(0)
    world.change("limits", 1, hourly=20, total=100)
    world.change("limits", 2, hourly=200, total=100)
    assert "(limit 150, then 20, 200), 1 in all (limit 100)" in "\n".join(world.verdict().lines())


def test_a_server_that_takes_longer_than_the_window_is_not_judged_by_it() -> None:
    verdict = foreign((0, 1, 2), longest=70).verdict(is_foreign=True)
    assert check(verdict, "over-admission (hourly)") is None
    assert verdict.holds


def test_another_servers_retry_after_is_judged_by_what_the_clients_saw() -> None:
    for told, expected in ((41, set()), (30, {"retry-after"}), (50, {"retry-after"})):
        world = foreign((0, 10))
        world.attempt(20, 450, f"4.7.1 too fast; retry-after={told}", "rcpt")
        assert world.verdict(is_foreign=True).broken == expected


def test_another_servers_refusal_may_count_what_it_never_answered() -> None:
    world = foreign((0,))
    world.attempt(10, 450, "4.7.1 too fast; retry-after=50", "rcpt")
    assert world.verdict(is_foreign=True).broken == {"wrong refusals"}
    world.attempt(5, 0, "no reply", "dot")
    assert world.verdict(is_foreign=True).holds


def test_a_relay_without_a_journal_is_judged_by_the_sink_alone() -> None:
    world = honest()
    verdict = judge(Evidence(world.attempts, None, world.received, world.limits), Rules(WINDOW))
    assert {one.name for one in verdict.checks if one.is_held is not None} == {"taken = sink"}
    assert verdict.holds
    assert verdict.usages == ()


def test_limits_that_are_not_known_are_not_judged() -> None:
    world = honest()
    world.limits = {}
    verdict = world.verdict()
    assert check(verdict, "over-admission (hourly)") is None
    assert check(verdict, "wrong refusals") is None
    assert world.verdict().usages[0].limits == Limits()


def test_events_of_no_concern_are_not_read() -> None:
    assert read_history(['{"ts":"x","event":"connected"}', "", "no json", '{"ts":"2026","event":"ta']).unreadable == 0
