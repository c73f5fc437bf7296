"""Runs sessions in memory: octets in pieces to relay.session's own Protocol, and what came of them."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, zip_longest
from typing import cast

from relay.session.door import Door
from relay.session.house import Rules
from relay.session.protocol import Protocol
from tests.fuzz.instant import InstantLoop, Line, TokenContext
from tests.fuzz.reader import Reader, Taken
from tests.fuzz.rooms import HOSTNAME, Furnished, Offer, Script, furnish

FOREVER = 1e9
GUESSES = 4
"""How often a DATA may be refused in one stream of a client that does not wait."""
PLENTY = 25.0
"""Seconds in which the rooms answer everything."""

TOKEN_CONTEXT = cast(Callable[[], ssl.SSLContext], TokenContext)
PLAIN = Door(1, "none", auth_without_tls=True)
CLEAR = Door(2, "none")
STARTTLS = Door(3, "starttls", context=TOKEN_CONTEXT)
IMPLICIT = Door(4, "implicit", context=TOKEN_CONTEXT)
EITHER = Door(5, "starttls", auth_without_tls=True, context=TOKEN_CONTEXT)
DOORS = {"plain": PLAIN, "clear": CLEAR, "starttls": STARTTLS, "implicit": IMPLICIT, "either": EITHER}

PATIENT = Rules(
    HOSTNAME, max_message_bytes=400, max_recipients=3, max_commands=40, max_errors=8, max_refusals=3, login_timeout=FOREVER,
    command_timeout=FOREVER, data_deadline=FOREVER, min_rate=0, upload_memory=1 << 30, upload_wait=FOREVER,
)  # fmt: skip
"""Small limits, so that they are met, and no deadlines."""

_REPLY = re.compile(rb"(?:[2-5][0-9]{2})(?: [\x20-\x7e]*)?")
_ENHANCED = re.compile(rb"([245])[0-9]{2} ([245])\.[0-9]{1,3}\.[0-9]{1,3} [\x20-\x7e]+")


class Fault(AssertionError):
    """What no session may do."""


def replies(octets: bytes) -> list[list[bytes]]:
    """What the relay said, reply by reply, each the lines of it; raises Fault if it is not well-formed (RFC 5321 section 4.2)."""
    if octets and not octets.endswith(b"\r\n"):
        raise Fault(f"not whole lines: {octets[-80:]!r}")
    found: list[list[bytes]] = [[]]
    for line in octets.split(b"\r\n")[:-1]:
        found[-1].append(line)
        if len(line) > 510 or not _REPLY.fullmatch(line[:3] + line[3:].replace(b"-", b" ", 1)):
            raise Fault(f"a malformed reply: {line!r}")
        if line[:3] != found[-1][0][:3]:
            raise Fault(f"a reply of several codes: {found[-1]!r}")
        if line[3:4] != b"-":
            found.append([])
    if found.pop():
        raise Fault("a reply without its last line")
    for number, reply in enumerate(found):
        _check_enhanced(number, reply)
    return found


def _check_enhanced(number: int, reply: list[bytes]) -> None:
    """The greeting, EHLO's reply and 3yz have no enhanced code, all others one of their class (RFC 2034)."""
    line = reply[0]
    if line.startswith(b"220 ") and b" ESMTP " in line and b"." not in line[4:6]:
        if number:
            raise Fault("a second greeting")
    elif line.startswith(b"3"):
        if line[:3] not in (b"334", b"354"):
            raise Fault(f"an odd reply: {line!r}")
    elif b" greets " not in line:
        matched = _ENHANCED.fullmatch(line)
        if len(reply) > 1 or matched is None or matched[1] != matched[2]:
            raise Fault(f"an enhanced code that is none: {reply!r}")


def unstuffed(wire: bytes) -> bytes:
    """A message in wire form as a smarthost reads it; raises Fault if it would find its end elsewhere."""
    stream = b"\r\n" + wire + b".\r\n"
    if stream.find(b"\r\n.\r\n") + 5 != len(stream):
        raise Fault(f"a message that ends within itself: {wire!r}")
    return b"\r\n".join(line.removeprefix(b".") for line in wire.split(b"\r\n"))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a session."""

    codes: list[int]
    offers: list[Taken]
    """What the smarthost was offered."""
    is_over: bool
    """It ended before the client did."""


class Bench:
    """One loop for many sessions."""

    def __init__(self) -> None:
        self.loop = InstantLoop()

    def renew(self) -> None:
        """Another loop: what a session left in this one is nobody else's."""
        self.close()
        self.loop = InstantLoop()

    def close(self) -> None:
        """Leave nothing running."""
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        if left:
            self.loop.run_until_complete(asyncio.wait(left, timeout=PLENTY))
        self.loop.close()

    def converse(
        self,
        pieces: Sequence[bytes],
        door: Door = PLAIN,
        rules: Rules = PATIENT,
        script: Script | None = None,
        pauses: Sequence[float] = (),
    ) -> Outcome:
        """Send pieces, each when what was before it is answered or after its pause, and close at the end; raises Fault."""
        place = furnish(script or Script(), rules)
        protocol, line = self.connect(place, door)
        for piece, pause in zip_longest(pieces, pauses[: len(pieces)]):
            line.send(piece)
            if pause is None:
                self.settle(protocol, line)
            else:
                self.loop.pass_time(pause)
        self.settle(protocol, line)
        is_over = line.is_closing()
        line.end()
        self.settle(protocol, line)
        self.check_ended(place, [line])
        return Outcome([int(reply[0][:3]) for reply in replies(bytes(line.heard))], [_read(offer) for offer in place.books.offers], is_over)

    def connect(self, place: Furnished, door: Door, address: str = "192.0.2.1") -> tuple[Protocol, Line]:
        """A client comes in."""

        async def connecting() -> tuple[Protocol, Line]:
            protocol = Protocol(place.house, door)
            return protocol, Line(self.loop, protocol, address)

        protocol, line = self.loop.run_until_complete(connecting())
        self.settle(protocol, line)
        return protocol, line

    def settle(self, protocol: Protocol, line: Line) -> None:
        """Until everything that came is answered."""
        self.loop.pass_time(PLENTY)
        check_at_rest(protocol)

    def check_ended(self, place: Furnished, lines: Sequence[Line]) -> None:
        """When all clients have gone, nothing is left of them; raises Fault."""
        house, books = place.house, place.books
        left = {
            "a bug": books.faults,
            "an exception that nobody handled": self.loop.faults,
            "a session": [*house.tasks, *house.connections],
            "a hold": books.held,
            "an upload": house.uploads,
            "a presence": +books.present,
            "an attempt": books.attempts,
            "memory": [house.budget.used, *house.budget._uploads, *house.budget._starved][not house.budget.used :],
            "a connection that is counted": [count for count in (house.admission._count, *house.admission._of.values()) if count],
            "a connection that is open": [line for line in lines if not line.is_lost],
            "a connection on record": _on_record(place),
        }
        self.loop.faults = []
        if found := {name: value for name, value in left.items() if value}:
            raise Fault(f"left behind: {found}")


def check_at_rest(protocol: Protocol) -> None:
    """What a session that has done all it can may still have; raises Fault."""
    if protocol._held and protocol._transaction is None:
        raise Fault(f"memory of no message: {protocol._held}")
    if protocol._starving is not None and protocol._seated is None:
        raise Fault("it waits for memory for no upload")


def _on_record(place: Furnished) -> set[str]:
    """Connections that came and did not go, or the other way round, by the journal."""
    came = [fields["id"] for name, fields in place.books.events if name == "connected"]
    went = [fields["id"] for name, fields in place.books.events if name == "disconnected"]
    return set() if sorted(came) == sorted(went) else set(came) ^ set(went) or {"twice"}


def _read(offer: Offer) -> Taken:
    return Taken(offer.sender, offer.recipients, unstuffed(offer.wire), offer.is_taken)


def expect(pieces: Sequence[bytes], door: Door = PLAIN, rules: Rules = PATIENT, script: Script | None = None) -> Reader:
    """What the reference reader finds in the whole stream."""
    ends = list(accumulate(map(len, pieces)))

    def arrived(position: int) -> int:
        return next(end for end in ends if end >= position)

    return Reader(b"".join(pieces), door, rules, script or Script(), arrived).read()


def compare(bench: Bench, pieces: Sequence[bytes], door: Door = PLAIN, rules: Rules = PATIENT, script: Script | None = None) -> Outcome:
    """Run a session and hold it against the reference; raises Fault."""
    try:
        outcome, expected = bench.converse(pieces, door, rules, script), expect(pieces, door, rules, script)
    except BaseException:
        bench.renew()
        raise
    if outcome.codes != expected.codes:
        raise Fault(f"it said {outcome.codes}, expected was {expected.codes}, to {list(pieces)!r}")
    if outcome.offers != expected.offers:
        raise Fault(f"it took {outcome.offers}, expected was {expected.offers}, of {list(pieces)!r}")
    return outcome


def compare_hasty(bench: Bench, pieces: Sequence[bytes], pauses: Sequence[float], script: Script) -> Outcome:
    """The same for a client that does not wait, at a door without TLS; raises Fault.

    Whether anything had come behind a DATA that was refused is then anybody's guess: one of them must be right.
    """
    try:
        outcome = bench.converse(pieces, PLAIN, PATIENT, script, pauses)
    except BaseException:
        bench.renew()
        raise
    stream = b"".join(pieces)
    for guesses in range(1 << GUESSES):
        bits = iter(range(GUESSES))
        arrived = partial(_guess, stream, guesses, bits)
        expected = Reader(stream, PLAIN, PATIENT, script, arrived).read()
        if (outcome.codes, outcome.offers) == (expected.codes, expected.offers):
            return outcome
    raise Fault(f"it said {outcome.codes} and took {outcome.offers}, which no guess explains, of {list(pieces)!r}")


def _guess(stream: bytes, guesses: int, bits: Iterator[int], position: int) -> int:
    return len(stream) if guesses >> next(bits, 0) & 1 else position
