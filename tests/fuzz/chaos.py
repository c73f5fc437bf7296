"""Several clients of one house at once, who come, speak, stop reading, break off; memory runs short, accounts change, the relay drains.

What is answered then depends on who was first; what must hold is that every session ends, and leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from relay.session.house import Rules
from relay.session.protocol import Protocol
from tests.fuzz.harness import DOORS, Bench, Fault, check_at_rest, replies
from tests.fuzz.instant import Line
from tests.fuzz.rooms import FORWARDS, HOSTNAME, RESERVES, Script, furnish
from tests.fuzz.seeds import SPLINTERS, STATES

HASTY = Rules(
    HOSTNAME, max_message_bytes=600, max_recipients=2, max_commands=30, max_errors=6, max_refusals=3, max_connections=4,
    max_connections_per_address=3, upload_memory=150, min_rate=10,
)  # fmt: skip
"""Small limits, and deadlines as they are."""

LONGEST = 2000.0
"""Seconds after which nobody who does nothing is still there."""
MOST_LINES = 12


class Chaos:
    """A house and its clients."""

    def __init__(self, bench: Bench, script: Script, rules: Rules = HASTY) -> None:
        self._bench = bench
        self._place = furnish(script, rules)
        self._lines: list[tuple[Protocol, Line]] = []
        self.is_draining = self._is_cut = False

    def connect(self, door: str, address: str) -> None:
        """One more client, if they are not too many to tell apart."""
        if len(self._lines) < MOST_LINES:
            self._lines.append(self._bench.connect(self._place, DOORS[door], address))

    def line(self, number: int) -> Line | None:
        """One of the clients, if there is any."""
        return self._lines[number % len(self._lines)][1] if self._lines else None

    def send(self, number: int, octets: bytes) -> None:
        """A client says something, and does not wait."""
        if line := self.line(number):
            line.send(octets)

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self._bench.loop.pass_time(seconds)
        if seconds:
            for protocol, _ in self._lines:
                check_at_rest(protocol)

    def change(self) -> None:
        """The account of everybody is changed, which is heard by those who upload."""
        self._happen(lambda: self._place.news.tell(self._place.house))

    def drain(self) -> None:
        """The relay begins to shut down, as the listeners do it."""
        self.is_draining = self._place.house.is_draining = True
        self._for_each(Protocol.drain)

    def cut(self) -> None:
        """The drain's patience is over: once, as the listeners do it."""
        if self.is_draining and not self._is_cut:
            self._is_cut = True
            self._for_each(lambda connection: None if connection.is_forwarding else connection.cut())

    def _for_each(self, deed: Callable[[Any], None]) -> None:
        def doing() -> None:
            for connection in list(self._place.house.connections):
                deed(connection)

        self._happen(doing)

    def _happen(self, deed: Callable[[], None]) -> None:
        """At once, in the loop: behind what has just begun there, before what follows from it."""

        async def happening() -> None:
            deed()

        self._bench.loop.run_until_complete(happening())

    def finish(self, is_silent: bool) -> None:
        """The clients do nothing more, or go; then nobody is there. Raises Fault."""
        for _, line in self._lines:
            if not is_silent:
                line.lose()
        self._bench.loop.pass_time(LONGEST)
        try:
            self._bench.check_ended(self._place, [line for _, line in self._lines])
        except Fault:
            self._bench.renew()
            raise
        for _, line in self._lines:
            replies(bytes(line.heard))
        if self._place.books.offers and not self._place.books.logins:
            raise Fault("a message of nobody")
        times = [fields["id"] for name, fields in self._place.books.events if name == "taken"]
        if any(one == other for one, other in pairwise(sorted(times))):
            raise Fault(f"taken twice: {times}")


def _octets_of(choice: int, rest: bytes) -> bytes:
    """What a client says: of a transcript, of the splinters, or what stands there."""
    _, before, after = list(STATES.values())[choice % len(STATES)]
    return (before, before + after, after, SPLINTERS[choice % len(SPLINTERS)], rest)[choice % 5]


def act(bench: Bench, program: bytes) -> None:
    """Read octets as what clients do, three for each deed, and see that it ends well. Raises Fault."""
    if len(program) < 4:
        return
    script = Script([RESERVES[octet % 11 % len(RESERVES)] if octet > 150 else "ok" for octet in program[:4]], [FORWARDS[program[0] % 3]])
    chaos = Chaos(bench, script)
    for start in range(4, min(len(program) - 2, 300), 3):
        _do(chaos, program[start], program[start + 1], program[start + 2], program[start + 3 :])
    chaos.finish(is_silent=program[1] % 2 == 0)


def _do(chaos: Chaos, what: int, a: int, b: int, rest: bytes) -> None:
    """One deed: three octets, and what follows where something is said."""
    line = chaos.line(a)
    match what % 9:
        case 0:
            chaos.connect(list(DOORS)[a % len(DOORS)], ("192.0.2.1", "192.0.2.2", "::ffff:192.0.2.1", "2001:db8::1")[b % 4])
        case 1:
            chaos.send(a, _octets_of(b, rest))
        case 2:
            chaos.send(a, rest[:b])
        case 3:
            chaos.wait((0.0, 0.005, 0.02, 1.0, 12.0, 40.0, 130.0)[a % 7])
        case 4 if line:
            line.end()
        case 5 if line and b > 200:
            line.lose()
        case 6 if line:
            line.read(b % 2 == 1)
        case 7 if b % 3 == 0:
            chaos.change()
        case 8 if b > 180:
            chaos.drain()
        case 8 if b > 120:
            chaos.cut()
