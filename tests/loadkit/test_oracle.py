"""The oracle against fabricated histories: an honest one holds, and each planted fault is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.loadkit.history import read_journals
from relay.loadkit.oracle import Evidence, judge
from relay.loadkit.refusal import sequential
from relay.loadkit.verdict import Limits, Rules
from relay.loadkit.window import Account, running_sums
from tests.loadkit.story import EPOCH, US, WINDOW, World, check, faults, honest, notes


def test_an_honest_history_holds() -> None:
    verdict = honest().verdict()
    assert verdict.holds
    assert verdict.findings == ()
    [usage] = verdict.usages
    assert (usage.most, usage.taken) == (2, 4)
    assert verdict.retry_after_error == pytest.approx((1.0, 1.0, 1.0))
    assert next(iter(verdict.lines())).startswith("every promise")
    assert json.loads(json.dumps(verdict.as_dict()))["holds"]


def test_commits_one_microsecond_short_of_a_window_apart_are_in_one() -> None:
    world = World()
    world.taken(0)
    world.taken(10)
    world.taken(60)
    world.journal[-1]["at"] -= 1
    verdict = world.verdict()
    assert faults(verdict) == {"over the hourly limit"}
    assert "3 of 2" in str(verdict.findings[0])
    assert "BROKEN" in next(iter(verdict.lines()))


def test_units_count_not_messages_where_recipients_are_counted() -> None:
    world = World(hourly=3)
    world.taken(0, units=2, recipients=["a", "b"])
    world.taken(1, units=2, recipients=["a", "b", "a"])
    assert faults(world.verdict(unit="recipients")) == {"over the hourly limit"}
    assert faults(world.verdict()) == {"over the hourly limit", "miscounted"}
    world.journal[0]["units"] = 1
    assert world.verdict(unit="recipients").holds
    world.journal[0]["units"] = 0
    assert faults(world.verdict(unit="recipients")) == {"miscounted"}


def test_more_than_the_total_limit_is_found() -> None:
    world = World(hourly=None, total=2)
    for second in (0, 100, 200):
        world.taken(second)
    assert faults(world.verdict()) == {"over the total limit"}


def test_an_overdraft_is_listed_apart_but_counts_against_what_follows() -> None:
    world = World()
    for second in (0, 1, 2):
        world.taken(second)
    world.write("overdraft", 2, id="r3", units=1, at=0, alarm=True)
    assert faults(world.verdict()) == {"over the hourly limit"}, "nothing says that it was late"
    for explanation in ("charge_kept", "charge_at_risk", "settled"):
        del world.journal[4:]
        world.write(explanation, 2, id="r3", units=1, at=(EPOCH + 2) * US, late=True)
        assert world.verdict().holds
    verdict = world.verdict()
    assert notes(verdict) == {"overdraft"}
    assert verdict.usages[0].overdrafts == 1
    world.taken(61.5)  # r1 and r2 have left the window, r3 has not
    assert world.verdict().holds
    world.taken(61.9)
    assert faults(world.verdict()) == {"over the hourly limit"}


def test_where_an_overdraft_is_not_explained_the_limits_are_not_said_to_hold() -> None:
    world = honest()
    world.write("overdraft", 0, id="r1", units=1, at=0, alarm=True)
    verdict = world.verdict()
    assert verdict.holds
    assert check(verdict, "over-admission (hourly)") is None
    assert check(verdict, "over-admission (total)") is None
    assert notes(verdict) == {"overdraft"}


def test_a_250_that_is_not_in_the_journal_is_found() -> None:
    world = honest()
    del world.journal[0]
    assert "answered but not taken" in faults(world.verdict())


def test_a_250_for_another_users_message_or_for_one_id_twice_is_found() -> None:
    world = honest()
    world.attempts[0].user = "v"
    assert "answered but not taken" in faults(world.verdict())
    world = honest()
    world.attempts[0].text = world.attempts[1].text
    assert {"answered twice", "taken without an answer"} <= faults(world.verdict())


def test_a_message_taken_without_an_answer_needs_a_dot_without_a_reply() -> None:
    world = honest()
    world.attempts[-1].code, world.attempts[-1].stage = 0, "dot"
    assert world.verdict().holds
    world.attempts[-1].code = 451
    assert "taken without an answer" in faults(world.verdict())


def test_what_was_taken_before_the_load_needs_no_answer() -> None:
    world = World()
    world.write("taken", -30, id="old", units=1, at=(EPOCH - 30) * US)
    world.taken(0)
    assert world.verdict().holds
    world.taken(10)
    assert faults(world.verdict()) == {"over the hourly limit"}


def test_an_id_taken_twice_is_found() -> None:
    world = honest()
    world.journal.append(world.journal[0])
    assert faults(world.verdict()) == {"taken twice"}


def test_a_pending_charge_must_be_settled_later_and_counts_from_then() -> None:
    world = honest()
    at = world.journal[0]["at"]
    world.journal[0]["at"] = 0
    assert faults(world.verdict()) == {"charge never recorded"}
    world.write("settled", 5, id="r1", units=1, at=at, late=False)
    assert world.verdict().holds
    world.journal[-1]["at"] = at + 5 * US
    assert faults(world.verdict()) == {"over the hourly limit", "retry-after too early", "counted after the answer"}
    world.write("charge_kept", 0, id="r1", units=1, alarm=True)
    assert faults(world.verdict()) == {"over the hourly limit", "retry-after too early"}


def test_a_charge_settled_after_a_crash_is_a_message_taken() -> None:
    world = World()
    world.attempt(0, 0, "no reply", "dot")
    world.write("settled", 3, id="r1", units=1, at=(EPOCH + 3) * US, late=False)
    world.arrive("l1", 0)
    assert world.verdict().holds
    assert world.verdict().usages[0].taken == 1


def test_a_lost_message_is_found() -> None:
    world = honest()
    world.received[1].answered = False
    assert faults(world.verdict()) == {"lost"}
    del world.received[1]
    assert faults(world.verdict()) == {"lost"}


def test_a_copy_needs_its_record() -> None:
    world = honest()
    world.arrive("l1", 3)
    verdict = world.verdict()
    assert faults(verdict) == {"copies"}
    assert "1 messages" in next(str(finding) for finding in verdict.findings if finding.kind == "copies")
    for event in ("in_doubt", "killed_in_flight"):
        world.write(event, 2, id="r1")
        verdict = world.verdict()
        assert (faults(verdict), notes(verdict)) == (set(), {"copies"})
        del world.journal[-1]
    world.arrive("l1", 2, answered=False)
    assert world.verdict().holds
    del world.received[-1]
    world.journal[0]["spooled"] = ["b@s"]
    assert world.verdict().holds
    assert judge(Evidence(world.attempts, None, world.received, world.limits), Rules(WINDOW)).holds, "only a journal could have its record"


def test_a_recipient_that_the_spool_does_not_answer_for_must_be_reached() -> None:
    world = honest()
    world.attempts[-1].units = 2
    world.journal[-1]["recipients"] = ["b@s", "c@s"]
    assert faults(world.verdict()) == {"short of recipients"}
    world.journal[-1]["spooled"] = ["c@s"]
    verdict = world.verdict()
    assert (faults(verdict), notes(verdict)) == (set(), {"short of recipients"})
    assert check(verdict, "taken = sink") is None
    world.arrive("l5", 90, recipient="c@s")
    assert check(world.verdict(), "taken = sink") is True


def test_damage_is_found() -> None:
    world = honest()
    world.received[0].is_intact = False
    assert faults(world.verdict()) == {"damaged"}


def test_a_refused_message_at_the_sink_needs_a_journaled_doubt() -> None:
    world = honest()
    refused = world.attempt(80, 451, "4.4.2 lost the smarthost", "dot")
    world.arrive(refused.load_id, 80)
    assert faults(world.verdict()) == {"delivered though refused"}
    world.write("rejected", 80, outcome="in_doubt")
    assert world.verdict().holds


def test_a_refusal_with_room_is_wrong_but_not_within_one_resolution() -> None:
    world = World()
    world.taken(0)
    world.taken(10)
    world.refused(60.9, 1)
    assert world.verdict().holds
    world = World()
    world.taken(0)
    world.taken(10)
    world.refused(61.9, 1)
    assert "refused wrongly" in faults(world.verdict())


def test_a_refusal_only_the_client_heard_is_judged_too() -> None:
    world = World()
    world.taken(0)
    world.attempt(5, 451, "4.7.0 Hourly sending limit reached (2/2 messages); retry-after=9", "data")
    assert faults(world.verdict()) == {"refused wrongly"}
    world.limits = {}
    assert world.verdict().holds


def test_a_total_refusal_with_room_is_wrong() -> None:
    world = World(total=2)
    world.taken(0)
    world.attempt(5, 550, "5.7.1 Total sending limit reached (2/2 messages)", "data")
    assert faults(world.verdict()) == {"refused wrongly"}
    world.limits["u"] = Limits(2, 1)
    assert world.verdict().holds


def test_in_flight_needs_something_in_flight() -> None:
    text = "Sending limit taken by messages in flight"
    world = honest()
    world.refused(80, 5, text)
    assert faults(world.verdict()) == {"refused wrongly"}
    world.attempt(80.5, 451, "4.0.0 later", "dot", seconds=1)
    assert world.verdict().holds
    world = World()
    world.attempt(0, 0, "no reply", "dot")  # its hold may still be open
    world.refused(80, 5, text)
    assert world.verdict().holds


@pytest.mark.parametrize(("told", "kind"), [(39, "retry-after too early"), (43, "retry-after too late")])
def test_a_wrong_retry_after_is_found_where_nothing_else_was_under_way(told: int, kind: str) -> None:
    world = World()
    world.taken(0)
    world.taken(10)
    world.refused(20, told)
    verdict = world.verdict()
    assert faults(verdict) == {kind}
    assert verdict.retry_after_error is not None
    assert verdict.retry_after_error[0] == pytest.approx(told - 40)
    world.attempt(20.5, 451, "4.0.0 later", "dot", seconds=1)
    assert world.verdict().holds
    assert world.verdict().retry_after_error is None


def test_without_records_nothing_is_claimed() -> None:
    verdict = judge(Evidence(), Rules())
    assert verdict.holds
    assert not verdict.proves
    assert next(verdict.lines()) == "NOTHING WAS JUDGED"
    assert not verdict.as_dict()["holds"]
    assert notes(verdict) == {"nothing to judge by"}


def test_where_nothing_happened_nothing_is_said_to_hold() -> None:
    world = World()
    world.ledger = {"u": 0}
    for number in range(3):
        world.attempt(number, 535, "5.7.8 Authentication failed", "auth").load_id = ""
    for is_foreign in (False, True):
        verdict = world.verdict(is_foreign)
        assert {one.is_held for one in verdict.checks} == {None}
        assert not verdict.proves
    assert honest().verdict().proves


def test_one_journaled_refusal_does_not_speak_for_those_that_are_not() -> None:
    world = World(hourly=2)
    world.taken(0)
    world.taken(1)
    world.refused(5, 56)
    assert world.verdict().holds
    for second in (70, 71):
        world.attempt(second, 451, "4.7.0 Hourly sending limit reached (2/2 messages); retry-after=9", "data")
    verdict = world.verdict()
    assert "refused wrongly" in faults(verdict)
    assert "2 for the hourly limit with room" in str(next(f for f in verdict.findings if f.kind == "refused wrongly"))


def test_a_refusal_for_no_known_reason_is_counted_and_must_be_in_the_journal() -> None:
    world = honest()
    for second in range(30, 35):
        world.attempt(second, 451, "4.3.0 Temporary backend failure", "data")
    verdict = world.verdict()
    assert faults(verdict) == {"refused wrongly"}
    assert "not judged: 5 of no known reason" in "\n".join(verdict.lines())
    for second in range(30, 35):
        world.write("refused", second, reason="store", units=1, retry_after=None)
    assert world.verdict().holds
    world.attempt(36, 421, "4.3.2 Service shutting down", "data")
    assert world.verdict().holds
    verdict = world.verdict(is_foreign=True)
    assert verdict.holds
    assert "6 of no known reason" in "\n".join(verdict.lines())


def test_the_hourly_limit_refuses_for_now_and_says_until_when() -> None:
    for code, told, expected in (
        (451, "; retry-after=41", set()),
        (451, "", {"refused wrongly"}),
        (550, "; retry-after=41", {"refused wrongly"}),
    ):
        world = World()
        world.taken(0)
        world.taken(10)
        world.attempt(20, code, f"4.7.0 Hourly sending limit reached (2/2 messages){told}", "data")
        assert faults(world.verdict()) == expected


def test_journals_of_several_nodes_are_read_together_and_a_torn_line_is_counted(tmp_path: Path) -> None:
    world = honest()
    lines = [json.dumps(line, separators=(",", ":")) + "\n" for line in world.journal]
    (tmp_path / "a.log").write_text("".join(lines[::2]) + '{"ts":"2026","event":"connected","id":"c"}\n')
    (tmp_path / "b.log").write_text("".join(lines[1::2]) + lines[0][:60])
    history = read_journals([tmp_path / "a.log", tmp_path / "b.log"])
    assert (len(history.commits), len(history.refusals), history.unreadable) == (4, 1, 1)
    verdict = judge(Evidence(world.attempts, history, world.received, world.limits), Rules(WINDOW))
    assert verdict.holds
    assert notes(verdict) == {"journal unreadable"}


def test_attempts_that_overlap_are_not_sequential() -> None:
    world = World()
    alone = world.attempt(0, 250)
    world.attempt(2, 250, seconds=1)
    world.attempt(3, 250, seconds=1.5)
    later = world.attempt(9, 250)
    silent = world.attempt(10, 0, "", "dot")
    world.attempt(11, 250)
    assert list(sequential(world.attempts)) == [alone, later]
    assert silent.is_unanswered


COMMITS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 5)), max_size=30)


@given(COMMITS, st.integers(1, 40))
def test_the_sliding_maximum_is_that_of_trying_every_window(commits: list[tuple[int, int]], width: int) -> None:
    tried = [sum(units for at, units in commits if start <= at < start + width) for start in range(-width, 62)]
    assert max(running_sums(sorted(commits), width), default=0) == max(tried)


@given(COMMITS, st.integers(-1, 62), st.integers(-1, 62), st.integers(1, 6), st.integers(1, 20), st.integers(1, 40))
def test_an_account_answers_as_counting_does(
    commits: list[tuple[int, int]], after: int, until: int, units: int, limit: int, width: int
) -> None:
    account = Account(commits)
    if after <= until:
        assert account.between(after, until) == sum(n for at, n in commits if after < at <= until)
    known = [(at, n) for at, n in commits if at <= until]
    fits = account.fits_from(until, units, limit, width)

    def room(instant: int) -> int:
        return limit - sum(n for at, n in known if at + width > instant)

    if units > limit or sum(n for _, n in known) + units <= limit:
        assert fits is None
    else:
        assert fits == next(instant for instant in range(200) if room(instant) >= units)
