"""The harness itself: it finds what is planted, and its targets accept what they begin with."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.fuzz import targets
from tests.fuzz.harness import PATIENT, PLAIN, Bench, Fault, expect, replies, unstuffed
from tests.fuzz.instant import Stuck
from tests.fuzz.rooms import Script, furnish
from tests.fuzz.seeds import ENVELOPE, LOG_IN, MESSAGE


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A loop."""
    bench = Bench()
    yield bench
    bench.close()


@pytest.mark.parametrize(
    "octets",
    [
        b"250 2.0.0 OK", b"250 2.0.0 OK\n", b"250 OK\r\n", b"250 5.0.0 OK\r\n", b"250-2.0.0 OK\r\n", b"2500 2.0.0 OK\r\n",
        b"250-a greets b\r\n251 c\r\n", b"650 6.0.0 OK\r\n", b"250 2.0.0 " + b"x" * 510 + b"\r\n", b"250 2.0.0 \xc3\xa4\r\n",
        b"354\r\n355 x\r\n",
        b"250 2.0.0 a\rb\r\n", b"\r\n", b"250 2.0.0 OK\r\n220 relay.example ESMTP relay\r\n",
    ],
)  # fmt: skip
def test_a_reply_that_is_not_well_formed_is_found(octets: bytes) -> None:
    with pytest.raises(Fault):
        replies(octets)


@pytest.mark.parametrize("wire", [b".\r\n", b"x\r\n.\r\n", b"x", b"x\r\n.\r\ny\r\n"])
def test_a_message_that_ends_too_early_is_found(wire: bytes) -> None:
    with pytest.raises(Fault):
        unstuffed(wire)


def test_a_session_that_answers_otherwise_is_found(bench: Bench) -> None:
    stream = [LOG_IN + ENVELOPE + MESSAGE]
    assert bench.converse(stream).codes == expect(stream).codes
    assert bench.converse(stream, script=Script(["total"])).codes != expect(stream).codes
    assert bench.converse(stream).offers != expect([LOG_IN + ENVELOPE + MESSAGE.replace(b"x", b"y")]).offers


@pytest.mark.parametrize("what", ["presence", "hold", "memory", "loop"])
def test_what_a_session_leaves_behind_is_found(bench: Bench, what: str) -> None:
    place = furnish(Script(), PATIENT)
    _, line = bench.connect(place, PLAIN)
    line.lose()
    bench.loop.pass_time(1)
    bench.check_ended(place, [line])
    match what:
        case "presence":
            place.books.present["app"] += 1
        case "hold":
            place.books.held.add("fuzz1.1")
        case "memory":
            place.house.budget.take(1)
        case "loop":
            bench.loop.call_exception_handler({"message": "planted"})
    with pytest.raises(Fault, match="left behind"):
        bench.check_ended(place, [line])


def test_who_waits_for_nothing_is_found(bench: Bench) -> None:
    with pytest.raises(Stuck):
        bench.loop.run_until_complete(bench.loop.create_future())


@pytest.mark.parametrize(("target", "seeds"), [(targets.session, targets.session_seeds()), (targets.parsers, targets.parser_seeds())])
def test_a_target_accepts_its_seeds_and_what_chance_makes_of_them(bench: Bench, target: targets.Target, seeds: list[bytes]) -> None:
    dice = random.Random(1)
    for seed in seeds:
        target(bench, seed)
        for _ in range(8):
            octets = bytearray(seed)
            for _ in range(dice.randrange(1, 6)):
                octets[dice.randrange(len(octets))] = dice.randrange(256)
            target(bench, bytes(octets))
