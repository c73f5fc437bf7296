"""Sessions go on from every state with what was spoilt, and several at once in a house where much goes wrong.

Each is held against the reference reader (tests/fuzz/reader.py) where there is one client; where there are several, against what must
hold in any case (tests/fuzz/chaos.py). What fuzzing has found stands at the end, as plain tests.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.fuzz.chaos import Chaos
from tests.fuzz.harness import DOORS, PATIENT, PLAIN, Bench, check_at_rest, compare
from tests.fuzz.instant import TOKEN
from tests.fuzz.rooms import FORWARDS, LATENCY, RESERVES, Script, furnish
from tests.fuzz.seeds import CLAIM, CONTENT, EHLO, ENVELOPE, LOG_IN, MESSAGE, SPLINTERS, STATES, TALE, bdat, cut, spoil
from tests.fuzz.targets import TIGHT


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """A loop for all of them."""
    bench = Bench()
    yield bench
    bench.close()


@pytest.mark.parametrize("state", STATES)
@given(st.integers(0, 1 << 32), st.lists(st.integers(0, 1 << 12), max_size=5), st.booleans())
@settings(max_examples=120, deadline=None)
def test_what_was_spoilt_is_answered_as_the_reference_reads_it(
    bench: Bench, state: str, seed: int, cuts: list[int], is_tight: bool
) -> None:
    door, before, after = STATES[state]
    dice = random.Random(seed)
    script = Script([dice.choice(RESERVES) if dice.random() < 0.3 else "ok" for _ in range(4)], [dice.choice(FORWARDS) for _ in range(4)])
    compare(bench, cut(before + spoil(after, dice), cuts), DOORS[door], TIGHT if is_tight else PATIENT, script)


@pytest.mark.parametrize("state", STATES)
def test_what_was_not_spoilt_is_taken(bench: Bench, state: str) -> None:
    door, before, after = STATES[state]
    outcome = compare(bench, [before, after], DOORS[door])
    is_heard = state not in ("after a refusal", "clear", "before TLS")  # nobody listens to what came before TLS
    assert any(offer.is_taken for offer in outcome.offers) == is_heard, outcome


def test_a_state_is_left_in_no_way_that_the_reference_does_not_know(bench: Bench) -> None:
    for door, before, after in STATES.values():
        for splinter in SPLINTERS:
            compare(bench, [before, splinter + after], DOORS[door])


@pytest.mark.parametrize("door", ["starttls", "either"])
def test_nothing_that_came_before_tls_counts_after_it(bench: Bench, door: str) -> None:
    for splinter in [*SPLINTERS, TALE, b"AUTH PLAIN " + CLAIM + b"\r\nMAIL", b"EHLO injected"]:
        pieces = [EHLO + b"STARTTLS\r\n" + splinter, TOKEN, b"\r\n" + LOG_IN + TALE]
        outcome = compare(bench, pieces, DOORS[door])
        assert outcome.codes == [220, 250, 220, 500, 250, 235, 250, 250, 250, 250, 354, 250, 221]
        assert outcome == compare(bench, [pieces[0], TOKEN + pieces[2]], DOORS[door])


# -- several at once ---------------------------------------------------------------------------------------------------------

WHO = st.integers(0, 11)


class Clients(RuleBasedStateMachine):
    """Clients of one house: they come, speak, stop reading, and go; the store fails, accounts change, the relay shuts down."""

    chaos: Chaos

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()

    @initialize(
        reserves=st.lists(st.sampled_from(RESERVES), max_size=4),
        forwards=st.lists(st.sampled_from(FORWARDS), max_size=3),
        settles=st.lists(st.sampled_from(["ok", "kept"]), max_size=3),
        logins=st.lists(st.sampled_from(["ok", "ok", "store", "wait", "crowded"]), max_size=4),
    )
    def furnish(self, reserves: list[str], forwards: list[str], settles: list[str], logins: list[str]) -> None:
        self.chaos = Chaos(self.bench, Script(reserves, forwards, settles, logins))
        self.connect("plain", "192.0.2.1")

    @rule(door=st.sampled_from(list(DOORS)), address=st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"]))
    def connect(self, door: str, address: str) -> None:
        self.chaos.connect(door, address)

    @rule(who=WHO, state=st.sampled_from(list(STATES)), is_whole=st.booleans())
    def say_what_leads_to_a_state(self, who: int, state: str, is_whole: bool) -> None:
        _, before, after = STATES[state]
        self.chaos.send(who, before + after if is_whole else before)

    @rule(who=WHO, state=st.sampled_from(list(STATES)), splinter=st.sampled_from(SPLINTERS))
    def say_what_was_spoilt(self, who: int, state: str, splinter: bytes) -> None:
        self.chaos.send(who, splinter + STATES[state][2])

    @rule(who=WHO, octets=st.one_of(st.binary(max_size=40), st.sampled_from(SPLINTERS)))
    def say_anything(self, who: int, octets: bytes) -> None:
        self.chaos.send(who, octets)

    @rule(seconds=st.sampled_from([0.0, 0.005, 0.015, 0.5, 11.0, 31.0, 130.0, 301.0]))
    def wait(self, seconds: float) -> None:
        self.chaos.wait(seconds)

    @rule(who=WHO)
    def close_one_side(self, who: int) -> None:
        if line := self.chaos.line(who):
            line.end()

    @rule(who=WHO)
    def break_off(self, who: int) -> None:
        if line := self.chaos.line(who):
            line.lose()

    @rule(who=WHO, is_reading=st.booleans())
    def read(self, who: int, is_reading: bool) -> None:
        if line := self.chaos.line(who):
            line.read(is_reading)

    @rule()
    def change_the_account(self) -> None:
        self.chaos.change()

    @rule()
    def drain(self) -> None:
        self.chaos.drain()

    @precondition(lambda self: self.chaos.is_draining)
    @rule()
    def cut(self) -> None:
        self.chaos.cut()

    def teardown(self) -> None:
        try:
            self.chaos.finish(is_silent=bool(self.chaos.is_draining))
        finally:
            self.bench.close()


def test_whatever_clients_do_every_session_ends_and_leaves_nothing() -> None:
    run_state_machine_as_test(Clients, settings=settings(max_examples=200, stateful_step_count=25, deadline=None))


# -- what was found ----------------------------------------------------------------------------------------------------------


def test_a_message_may_be_in_more_chunks_than_commands_are_allowed(bench: Bench) -> None:
    chunks = bdat(b"y" * 1022 + b"\r\n") * 50 + bdat(b"", is_last=True)
    outcome = compare(bench, [LOG_IN + ENVELOPE + chunks], rules=replace(PATIENT, max_commands=10, max_message_bytes=1 << 20))
    assert outcome.codes[5:] == [250] * 51
    assert [len(offer.content) for offer in outcome.offers] == [51_200]


def test_chunks_of_next_to_nothing_are_not_sent_for_ever(bench: Bench) -> None:
    outcome = compare(bench, [LOG_IN + ENVELOPE + bdat(b"x") * 50], rules=replace(PATIENT, max_commands=10))
    assert outcome.codes[5:] == [250] * 11 + [421]
    assert outcome.offers == []


def test_who_is_told_of_too_many_commands_has_no_message_taken(bench: Bench) -> None:
    for count in range(8, 14):
        chunks = bdat(b"x") * count + bdat(b"\r\n", is_last=True)
        outcome = compare(bench, [LOG_IN + ENVELOPE + chunks], rules=replace(PATIENT, max_commands=10))
        assert (outcome.codes[-1] == 250) == bool(outcome.offers), outcome


def test_greetings_are_commands_like_any_other(bench: Bench) -> None:
    assert compare(bench, [EHLO * 50], rules=replace(PATIENT, max_commands=10)).codes == [220] + [250] * 11 + [421]


@pytest.mark.parametrize("refused", [b"QUIT x", b"RSET x", b"RSET \x0b", b"EHLO @", b"HELO"])
def test_a_command_that_is_refused_between_two_chunks_gives_up_no_message(bench: Bench, refused: bytes) -> None:
    stream = LOG_IN + ENVELOPE + bdat(b"x\r\n") + refused + b"\r\n" + bdat(b"y\r\n", is_last=True)
    outcome = compare(bench, [stream])
    assert outcome.codes[5:] == [250, 501, 250]
    assert [offer.content for offer in outcome.offers] == [b"x\r\ny\r\n"]


def test_a_drain_is_not_disturbed_by_a_connection_that_was_lost_at_that_moment(bench: Bench) -> None:
    chaos = Chaos(bench, Script())
    for address in ("192.0.2.1", "192.0.2.2"):
        chaos.connect("plain", address)
    for who in range(2):
        if line := chaos.line(who):
            line.lose()
    chaos.drain()
    chaos.finish(is_silent=True)


def test_what_is_checked_anew_while_its_upload_is_cut_off_is_not_reserved_again(bench: Bench) -> None:
    chaos = Chaos(bench, Script())
    chaos.connect("plain", "192.0.2.1")
    chaos.send(0, LOG_IN + ENVELOPE + bdat(b"x\r\n"))
    chaos.wait(1.0)
    chaos.change()
    chaos.wait(LATENCY / 5)  # the first check is under way
    chaos.change()
    if line := chaos.line(0):
        line.lose()
    chaos.wait(LATENCY / 5)
    chaos.drain()
    chaos.cut()
    chaos.finish(is_silent=True)


def test_a_client_that_does_not_read_the_last_replies_is_cut_off(bench: Bench) -> None:
    place = furnish(Script(), replace(PATIENT, command_timeout=60.0))
    protocol, line = bench.connect(place, PLAIN)
    line.read(False)
    line.send(EHLO)
    bench.settle(protocol, line)
    assert not line.is_lost
    bench.loop.pass_time(80.0)
    assert line.is_lost
    bench.check_ended(place, [line])


def test_an_upload_that_waits_for_memory_and_breaks_off_gives_back_what_it_had(bench: Bench) -> None:
    place = furnish(Script(), replace(PATIENT, upload_memory=40, upload_wait=10.0))
    clients = [bench.connect(place, PLAIN, f"192.0.2.{number}") for number in range(3)]
    for protocol, line in clients:
        line.send(LOG_IN + ENVELOPE + b"DATA\r\n" + CONTENT)
        bench.settle(protocol, line)
    assert place.house.budget.used == len(CONTENT)  # the others had to give theirs up
    for protocol, line in clients:
        line.send(b".\r\n" + ENVELOPE + MESSAGE)
        bench.settle(protocol, line)
    for protocol, line in clients:
        line.lose()
        bench.settle(protocol, line)
    bench.check_ended(place, [line for _, line in clients])
    assert [offer.is_taken for offer in place.books.offers] == [True] * 4


def test_a_message_that_stands_still_while_memory_is_short_is_given_up_and_its_session_goes_on(bench: Bench) -> None:
    place = furnish(Script(), replace(PATIENT, upload_memory=40, upload_wait=10.0))
    (_, first), (protocol, second) = (bench.connect(place, PLAIN, f"192.0.2.{number}") for number in range(2))
    first.send(LOG_IN + ENVELOPE + b"DATA\r\n" + CONTENT)
    bench.loop.pass_time(1.0)
    second.send(LOG_IN + ENVELOPE + bdat(b"x") + b"NOOP\r\n")
    bench.loop.pass_time(1.0)
    check_at_rest(protocol)
    second.send(b"NOOP\r\n")
    bench.loop.pass_time(15.0)
    assert second.heard.endswith(b"250 2.0.0 OK\r\n" * 2)
    second.send(b"BDAT 1 LAST\r\nx")
    bench.loop.pass_time(1.0)
    assert second.heard.endswith(b"452 4.3.1 No memory for the message now, try again later\r\n")
    for line in (first, second):
        line.lose()
    bench.loop.pass_time(1.0)
    bench.check_ended(place, [first, second])
