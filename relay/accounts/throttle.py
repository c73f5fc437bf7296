"""The throttle: guessing passwords and tokens, counted in the store by the address it comes from.

Promises:
- An attempt is counted before it is made, for its address together with the name and for the address alone, by all workers and nodes
  together; a success is taken back, a failure stays. However many guesses come at the same moment, no more of them are made than
  there may be failures; then the address has to wait, twice as long with each further failure.
- Attempts that are under way bar nobody: those beyond the limit stand in line until it is known what became of them. So an
  application that opens many connections at once with the right password gets them all, a round trip later.
- A name is never barred for an address that did not fail itself, so nobody can lock another out. IPv6 is counted by /64, which is
  what one customer is given.
- What was under way when its process died counts as a failure, which expires like any other.
- A secret that was right before in this process, and is given again, need not be counted beforehand: it is looked whether anything is on
  record at the moment at which others are counted, and if so it is confirmed in one step, as an attempt that succeeds at once. Of
  guesses that come together the right one is heard only if it comes before those that bar it.

Guesses at one name from many addresses are not counted together: that would be the way to lock its owner out. Against them stands
what a secret is made of, 128 random bits where the relay made it.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import math
import secrets
from collections.abc import Awaitable
from functools import lru_cache
from types import TracebackType
from typing import Protocol, Self

from relay.store.client import Argument, Script, Store

LEASE = 10.0
"""Seconds an attempt may take until it is taken for a failure."""
PATIENCE = 15.0
"""Seconds an attempt stands in line; longer than the lease of those before it."""
FIRST_PAUSE = 0.004
LONGEST_PAUSE = 0.128
"""Seconds until the store is asked again for a place that others have taken, twice as long each time."""

_ANY = ":any"
"""The suffix of the counter of an address alone."""
_COUNT = Script.load("relay.accounts", "throttle.lua")


class Limits(Protocol):
    """The settings of a throttle."""

    @property
    def failures_per_user(self) -> int:
        """Failures of one address with one name until it has to wait."""

    @property
    def failures_per_address(self) -> int:
        """Failures of one address with any names until it has to wait."""

    @property
    def window_seconds(self) -> int:
        """For how long a failure counts, and the longest wait."""


class Throttle:
    """Counts attempts."""

    def __init__(self, store: Store, limits: Limits, patience: float = PATIENCE) -> None:
        """`patience` is how many seconds an attempt stands in line."""
        self._store = store
        self._limits = limits
        self._patience = patience
        self._prefix = secrets.token_hex(4)
        self._serial = 0
        self._lines: dict[str, _Line] = {}

    def attempt(self, address: str, name: str) -> Attempt:
        """An attempt of an address at a name, to be begun by `with`."""
        return Attempt(self, self._store, self._patience, _key(address), _suffix(name))

    def terms(self, suffix: str) -> tuple[Argument, ...]:
        """What the script is told of a new attempt."""
        limits = self._limits
        self._serial += 1
        return (
            f"{self._prefix}{self._serial:x}", limits.window_seconds * 1000, int(LEASE * 1000),
            suffix, limits.failures_per_user, _ANY, limits.failures_per_address,
        )  # fmt: skip

    def lines(self, key: str, suffix: str) -> tuple[_Line, ...]:
        """Where an attempt stands in line."""
        limits = self._limits
        return self._line(key + suffix, limits.failures_per_user), self._line(key, limits.failures_per_address)

    def _line(self, name: str, places: int) -> _Line:
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = _Line(self._lines, name, places)
        return line


class _Line:
    """The attempts of this process from one address at one name: as many as may be made at once, the others behind them in order.

    So that a crowd does not ask the store again and again; what counts is the store's answer.
    """

    __slots__ = ("_lines", "_name", "length", "places")

    def __init__(self, lines: dict[str, _Line], name: str, places: int) -> None:
        """`lines` is where it stands under its name for as long as anybody stands in it."""
        self._lines = lines
        self._name = name
        self.places = asyncio.Semaphore(places)
        self.length = 0

    def join(self) -> None:
        """One more."""
        self.length += 1
        self._lines[self._name] = self

    def part(self) -> None:
        """One less."""
        self.length -= 1
        if not self.length:
            del self._lines[self._name]


class Attempt:
    """One attempt, within `with`: ask `admitted`, then say `failed` or `succeeded`; `look` and `confirmed` spare that a right secret.

    What does none of that was not made, and is not counted.
    """

    __slots__ = ("_is_pending", "_key", "_lines", "_patience", "_places", "_store", "_suffix", "_terms", "_throttle", "wait", "was_in_line")

    def __init__(self, throttle: Throttle, store: Store, patience: float, key: str, suffix: str) -> None:
        self.wait = 0
        """Seconds the address has to wait before it may try again, if it was not admitted."""
        self.was_in_line = False
        """Whether others had to end first: what was read before that may be outdated."""
        self._throttle = throttle
        self._store = store
        self._patience = patience
        self._key = key
        self._suffix = suffix
        self._lines: tuple[_Line, ...] = ()
        self._places: list[asyncio.Semaphore] = []
        self._terms: tuple[Argument, ...] = ()
        self._is_pending = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._is_pending:
            self._tell("withdrawn")
        for place in self._places:
            place.release()
        for line in self._lines:
            line.part()

    def look(self) -> Awaitable[int]:
        """Ask whether anything is on record for the address: if nothing is, a secret that is right need not be confirmed either."""
        return self._store.command("EXISTS", self._key + self._suffix, self._key + _ANY)

    async def confirmed(self) -> bool:
        """Whether one may be told so whose secret is right; if not, and there is no `wait`, others are in the way: ask `admitted`.

        Raises StoreUnavailable.
        """
        answer = await self._ask("confirm")
        self.wait = math.ceil(max(0, answer) / 1000)
        return answer == 0

    async def admitted(self) -> bool:
        """Whether it may be made; one round trip unless it stands in line. Raises StoreUnavailable."""
        latest = asyncio.get_running_loop().time() + self._patience
        self._lines = self._throttle.lines(self._key, self._suffix)
        for line in self._lines:
            line.join()
        for line in self._lines:
            self.was_in_line = self.was_in_line or line.places.locked()
            try:
                async with asyncio.timeout_at(latest):
                    await line.places.acquire()
            except TimeoutError:
                self.wait = 1
                return False
            self._places.append(line.places)
        self._is_pending = True  # whatever interrupts the question
        self.wait = math.ceil(await self._ask_until(latest) / 1000)
        self._is_pending = not self.wait
        return self._is_pending

    async def _ask_until(self, latest: float) -> int:
        """The store's answer once no others are in the way, in ms."""
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE
        while (answer := await self._ask("try")) < 0:
            self.was_in_line = True
            if loop.time() > latest:
                return 1000
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        return answer

    async def failed(self) -> None:
        """The secret was wrong. Raises StoreUnavailable; the attempt is counted nevertheless."""
        self._is_pending = False
        await self._ask("failed")

    def succeeded(self) -> None:
        """The secret was right: earlier failures of this address with this name are forgotten, those of the address stay."""
        if self._is_pending:
            self._is_pending = False
            self._tell("succeeded")

    async def _ask(self, what: str) -> int:
        answer: int = await self._store.run(_COUNT, self._key, what, *self._named())
        return answer

    def _tell(self, what: str) -> None:
        # Nobody waits for it: what is lost here ends with its lease.
        self._store.run(_COUNT, self._key, what, *self._named())

    def _named(self) -> tuple[Argument, ...]:
        self._terms = self._terms or self._throttle.terms(self._suffix)
        return self._terms


@lru_cache(1024)
def _key(address: str) -> str:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "{t:local}"  # a unix socket has no address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return f"{{t:{ipaddress.ip_network((found, 64), strict=False).network_address}}}"
        found = found.ipv4_mapped
    return f"{{t:{found}}}"


def _suffix(name: str) -> str:
    """A name as a suffix of fixed size: what a guesser writes never becomes part of a key."""
    return ":name:" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
