"""What is at the sink must have been sent, so, and counted: what nobody sent, sent so or counted is found, and doubt is left open."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relay.loadkit.attempt import Attempt
from relay.loadkit.oracle import Evidence, judge
from relay.loadkit.verdict import Promise, Rules, Verdict
from tests.loadkit.story import EPOCH, US, WINDOW, World, check, faults, honest, notes

LIMITS: tuple[Promise, ...] = ("over-admission (hourly)", "over-admission (total)")


# -- what no client sent -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 451])
@pytest.mark.parametrize("answered", [True, False])
def test_what_was_aborted_or_refused_before_its_dot_is_never_at_the_sink(code: int, answered: bool) -> None:
    world = honest()
    cut = world.attempt(80, code, "connection lost", "data")
    world.write("rejected", 80, outcome="in_doubt")
    world.write("released", 80, reason="aborted")
    assert world.verdict().holds or code
    world.arrive(cut.load_id, 80, answered=answered)
    verdict = world.verdict()
    assert "delivered though not sent" in faults(verdict)
    assert "taken = sink" in verdict.broken


def test_a_message_with_the_mark_of_the_load_that_no_attempt_sent_is_found_and_other_mail_is_noted() -> None:
    world = honest()
    for number, attempt in enumerate(world.attempts):
        for message in world.received:
            message.id = f"ab12-{number:08d}" if message.id == attempt.load_id else message.id
        attempt.load_id = f"ab12-{number:08d}"
    assert world.verdict().findings == ()
    for other in ("cd34-00000001", "<report@relay.example>", ""):
        world.arrive(other, 30)
    verdict = world.verdict()
    assert not verdict.broken
    assert notes(verdict) == {"other mail"}
    assert "3 messages" in str(verdict.findings[-1])
    world.arrive("ab12-00000077", 30)
    assert faults(world.verdict()) == {"delivered though not sent"}


def enveloped() -> World:
    """One message of three recipients, taken and delivered."""
    world = World()
    made = world.taken(0, recipients=["b@s", "c@s", "d@s"])
    made.units, made.sender, made.recipients = 3, "a@c", ("b@s", "c@s", "d@s")
    world.received[0].recipients = ("b@s", "c@S", "d@s")
    return world


def test_only_those_who_were_named_are_to_be_reached() -> None:
    world = enveloped()
    assert world.verdict().holds
    assert check(world.verdict(), "taken = sink") is True
    world.received[0].recipients = ("b@s", "c@s", "d@s", "evil@s")
    assert faults(world.verdict()) == {"wrong recipient"}
    world.received[0].recipients = ("b@s", "c@s", "evil@s")
    assert faults(world.verdict()) == {"wrong recipient", "short of recipients"}
    world.received[0].recipients = ("evil@s", "worse@s", "B@s")
    verdict = world.verdict()
    assert faults(verdict) == {"wrong recipient", "lost"}
    assert "B@s" in "\n".join(verdict.lines())
    world.received[0].answered = False
    assert "wrong recipient" in faults(world.verdict())


def test_where_the_names_are_not_known_there_are_no_more_than_were_accepted() -> None:
    world = enveloped()
    world.attempts[0].recipients = ()
    assert world.verdict().holds
    world.received[0].recipients = ("b@s", "c@s", "d@s", "evil@s")
    assert faults(world.verdict()) == {"wrong recipient"}


def test_a_recipient_who_is_named_twice_to_the_smarthost_may_get_a_copy() -> None:
    world = enveloped()
    world.received[0].recipients = ("b@s", "c@s", "d@s", "d@s")
    assert faults(world.verdict()) == {"copies"}


def test_the_sender_of_the_envelope_stays_as_it_was() -> None:
    world = enveloped()
    world.received[0].sender = "ceo@bank.example"
    verdict = world.verdict()
    assert faults(verdict) == {"wrong sender"}
    assert "ceo@bank.example" in "\n".join(verdict.lines())


# -- what nobody counted -----------------------------------------------------------------------------------------------------


def silent(world: World, second: float, count: int = 1) -> list[Attempt]:
    """Final dots without a reply, the messages at the sink."""
    made = [world.attempt(second + 0.01 * number, 0, "no reply", "dot") for number in range(count)]
    for attempt in made:
        world.arrive(attempt.load_id, second)
    return made


def forgetful(count: int = 50) -> World:
    """A relay that sends so many and counts none of them, and goes on."""
    world = World(hourly=3)
    world.taken(0)
    silent(world, 1, count)
    world.taken(20)
    world.ledger = {"u": 2}
    return world


def open_checks(verdict: Verdict) -> set[str]:
    return {one.name for one in verdict.checks if one.is_held is None}


def test_what_a_living_relay_delivers_and_never_counts_is_found() -> None:
    verdict = forgetful().verdict()
    assert faults(verdict) == {"never counted"}
    assert verdict.broken == {"taken = sink"}
    assert {*LIMITS[:1]} <= open_checks(verdict)
    assert "50 reached the sink without a reply to their final dot" in "\n".join(verdict.lines())
    assert forgetful(1).verdict().broken == {"taken = sink"}


@pytest.mark.parametrize("lines", [
    [("taken", {"units": 1})],
    [("settled", {"units": 1, "late": False})],
    [("rejected", {"outcome": "in_doubt"})],
    [("in_doubt", {}), ("rejected", {"outcome": "deferred"})],
    [("in_doubt", {})],
    [("killed_in_flight", {})],
    [("released", {"reason": "replayed"}), ("worker_died", {})],
    [("released", {"reason": "aborted"}), ("worker_died", {})],
    [("settled_before", {"units": 0}), ("holds_returned", {})],
])  # fmt: skip
def test_a_record_of_each_explains_as_many(lines: list[tuple[str, dict[str, Any]]]) -> None:
    world = forgetful(3)
    for number in range(3):
        for event, fields in lines:
            world.write(event, 1.5, **{"id": f"s{number}", "at": (EPOCH + 1 + 25 * number) * US, **fields})
    world.ledger = {"u": 5 if lines[0][1].get("units") else 2}
    world.limits = {}
    verdict = world.verdict()
    assert verdict.holds, "\n".join(verdict.lines())
    assert check(verdict, "taken = sink") is True
    world.journal = [line for line in world.journal if line["id"] != "s2"]
    world.ledger = None
    verdict = world.verdict()
    assert check(verdict, "taken = sink") is not True


@pytest.mark.parametrize("given_back", [("released", {"reason": "aborted"}), ("settled_before", {"units": 0})])
def test_a_hold_given_back_though_nothing_died_explains_no_delivery(given_back: tuple[str, dict[str, Any]]) -> None:
    world = forgetful(2)
    world.write(given_back[0], 1.5, at=0, **given_back[1])
    assert faults(world.verdict()) == {"never counted"}
    world.write(given_back[0], 1.5, at=0, **given_back[1])
    verdict = world.verdict()
    assert verdict.holds
    assert "taken = sink" in open_checks(verdict)
    assert "2 holds of its messages were given back" in "\n".join(verdict.lines())
    world.journal[-1].update(event="released", reason="refused")
    assert faults(world.verdict()) == {"never counted"}


def test_a_doubt_explains_a_refused_message_or_a_silent_one_not_both() -> None:
    world = forgetful(1)
    world.write("rejected", 1, outcome="in_doubt")
    assert world.verdict().holds
    refused = world.attempt(2, 451, "4.4.2 lost the smarthost", "dot")
    world.arrive(refused.load_id, 2)
    assert faults(world.verdict()) == {"never counted"}


def test_a_message_in_doubt_that_the_spool_could_not_take_may_have_been_delivered() -> None:
    world = honest()
    refused = world.attempt(80, 452, "4.3.1 Insufficient system storage", "dot")
    world.arrive(refused.load_id, 80)
    world.write("rejected", 80, id="r9", outcome="deferred")
    assert faults(world.verdict()) == {"delivered though refused"}
    world.write("in_doubt", 80, id="r9")
    assert world.verdict().holds


@pytest.mark.parametrize("sign", ["worker_died", "worker_started", "holds_returned"])
def test_where_a_process_has_died_it_is_left_open(sign: str) -> None:
    world = forgetful()
    world.write(sign, -5)
    assert not world.verdict().holds, "that was before the load"
    world.write(sign, 5)
    verdict = world.verdict()
    assert verdict.holds
    assert {"taken = sink", "over-admission (hourly)"} <= open_checks(verdict)
    assert notes(verdict) == {"never counted"}
    assert "a process of the relay died or was started anew" in "\n".join(verdict.lines())


def test_what_was_lost_last_is_left_open_for_the_relay_may_have_died_of_it() -> None:
    world = World(hourly=3)
    world.taken(0)
    silent(world, 10, 5)
    for follow in ("nothing", "421", "no connection"):
        if follow == "421":
            world.attempt(20, 421, "4.3.2 Service shutting down", "mail")
        if follow == "no connection":
            world.attempt(21, 0, "refused", "connect").load_id = ""
        verdict = world.verdict()
        assert verdict.holds
        assert {"taken = sink", "over-admission (hourly)"} <= open_checks(verdict)
    assert check(verdict, "over-admission (total)") is True, "all of them are no more than the total"
    world.limits = {}
    assert check(world.verdict(), "taken = sink") is None


def test_of_several_nodes_one_may_have_died_without_a_word() -> None:
    world = forgetful()
    world.journal[-1]["node"] = "n2"
    assert world.verdict().holds
    assert "taken = sink" in open_checks(world.verdict())


def test_a_torn_line_may_be_of_a_process_that_was_killed() -> None:
    world = forgetful()
    world.write("taken", 5)  # without its units
    assert world.verdict().holds
    assert "taken = sink" in open_checks(world.verdict())


def test_another_server_may_have_taken_what_it_did_not_answer() -> None:
    world = forgetful()
    world.ledger = None
    verdict = world.verdict(is_foreign=True)
    assert verdict.holds
    assert {"over-admission (hourly)"} <= open_checks(verdict)
    world.limits = {"u": world.limits["u"].__class__(100, 1000)}
    assert check(world.verdict(is_foreign=True), "over-admission (hourly)") is True


# -- what was counted too low ------------------------------------------------------------------------------------------------


def test_each_recipient_who_was_reached_is_charged_where_recipients_are_counted() -> None:
    world = World(hourly=3)
    names = tuple(f"r{number}@s" for number in range(10))
    for second in range(3):
        made = world.taken(second, recipients=list(names))
        made.units, made.recipients = 10, names
        world.received[-1].recipients = names
    world.ledger = {"u": 3}
    rules: dict[str, Any] = {"unit": "recipients", "rejected_factor": 20.0}
    verdict = world.verdict(**rules)
    assert faults(verdict) == {"miscounted"}
    assert verdict.broken == {"taken = sink"}
    assert world.verdict().holds
    for message in world.received:
        message.recipients = names[:1]
    for attempt in world.attempts:
        attempt.units, attempt.recipients = 1, names[:1]
    assert world.verdict(**rules).holds, "the other nine were refused"


# -- what others write -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", [10, 300, 400, 5000])
def test_a_retry_after_of_many_digits_is_none(digits: int) -> None:
    world = World()
    world.taken(0)
    world.taken(10)
    made = world.attempt(20, 451, f"4.7.0 Hourly sending limit reached; retry-after={'9' * digits}", "data")
    assert made.retry_after is None
    for is_foreign in (False, True):
        assert world.verdict(is_foreign).lines()
    made.text = "4.7.0 Hourly sending limit reached; retry-after=999999999"
    assert made.retry_after == 999_999_999
    made.text = "4.7.0 Hourly sending limit reached; retry-after=\u0663"
    assert made.retry_after is None


@pytest.mark.parametrize("value", ["x", 1e999, 10**400, None, True, [1]])
@pytest.mark.parametrize("field", ["units", "at"])
def test_a_line_whose_numbers_are_none_is_counted_and_not_believed(field: str, value: Any) -> None:
    world = honest()
    world.journal[0][field] = value
    history = world.evidence().history
    assert history is not None
    assert (history.unreadable, len(history.commits)) == (1, 3)
    verdict = judge(Evidence(world.attempts, history, world.received, world.limits), Rules(WINDOW))
    assert json.loads(json.dumps(verdict.as_dict()))
