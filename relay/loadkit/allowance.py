"""What users may send at a sink that keeps limits: the ledger's rules in memory; pure, but for the books it keeps.

Promises: the same request at the same instant gets the answer that this relay's ledger gives (relay.quota): what
was taken leaves the window with its whole second, what is in flight is held, what is refused costs nothing, and a refusal says from when
the same message would fit. Instants are µs since 1970, and passed in.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from relay.quota.answer import Reason, Refusal

Unit = Literal["messages", "recipients"]

SECOND = 1_000_000
LEASE = 420 * SECOND
"""How long a message may be under way: as long as the relay's default."""
REJECTED_FACTOR, REJECTED_MINIMUM, REJECTED_UNLIMITED = 2, 50, 1000
"""The relay's defaults for the cap on mail that was rejected."""

FEW, MOST_TOTALS = 1000, 100_000
"""Accounts that are never looked through for idle ones; idle ones kept for their total."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """The limits that every user has; None is unlimited."""

    hourly: int | None = None
    total: int | None = None
    window: int = 3600
    """Seconds."""
    unit: Unit = "messages"

    @classmethod
    def parse(cls, text: str) -> Allowance:
        """Read `hourly=500,total=unlimited,window=60,unit=recipients`, each at most once. Raises ValueError naming what is wrong."""
        window = 3600
        numbers: dict[str, int | None] = {}
        unit: Unit = "messages"
        seen: set[str] = set()
        for part in filter(None, (part.strip() for part in text.split(","))):
            key, _, value = part.partition("=")
            if key in seen:
                raise ValueError(f"{key} stands there twice")
            seen.add(key)
            match key:
                case "hourly" | "total" if value == "unlimited":
                    numbers[key] = None
                case "hourly" | "total" | "window":
                    if not value.isascii() or not value.isdigit() or not 1 <= int(value) <= 10**12:
                        raise ValueError(f"{part} is not a whole number from 1")
                    if key == "window":
                        window = int(value)
                    numbers[key] = int(value)
                case "unit" if value == "messages" or value == "recipients":
                    unit = "messages" if value == "messages" else "recipients"
                case "unit":
                    raise ValueError(f"{part} is neither unit=messages nor unit=recipients")
                case _:
                    raise ValueError(f"{key} is none of hourly, total, window, unit")
        if not numbers.keys() & {"hourly", "total"}:
            raise ValueError("hourly or total is needed")
        return cls(numbers.get("hourly"), numbers.get("total"), window, unit)

    def units(self, recipients: int) -> int:
        """What a message to this many distinct recipients counts."""
        return 1 if self.unit == "messages" else recipients

    @property
    def cap(self) -> int:
        """Units that may be rejected in a window."""
        return REJECTED_UNLIMITED if self.hourly is None else max(self.hourly * REJECTED_FACTOR, REJECTED_MINIMUM)

    def __str__(self) -> str:
        hourly = "no hourly limit" if self.hourly is None else f"{self.hourly} {self.unit} in {self.window} s"
        return f"{hourly}, {'no total limit' if self.total is None else f'{self.total} in all'}"


@dataclass(slots=True)
class Log:
    """Units over time, in resolution steps of a second: when each second ends, and the sum up to it."""

    width: int
    """µs that an entry stays after its second has ended."""
    seconds: list[int] = field(default_factory=list)
    sums: list[int] = field(default_factory=list)
    gone: int = 0
    """Units that have left the window."""

    @property
    def held(self) -> int:
        """Units in the window."""
        return (self.sums[-1] if self.sums else 0) - self.gone

    @property
    def total(self) -> int:
        """Units ever."""
        return self.sums[-1] if self.sums else 0

    def add(self, now: int, units: int) -> None:
        """Count units that are taken now."""
        second = now // SECOND
        if self.seconds and self.seconds[-1] == second:
            self.sums[-1] += units
        else:
            self.seconds.append(second)
            self.sums.append(self.total + units)

    def expire(self, now: int) -> None:
        """Let go of the seconds that lie outside every window that ends now."""
        count = bisect_right(self.seconds, (now - self.width) // SECOND - 1)
        if count:
            self.gone = max(self.gone, self.sums[count - 1])
            if count > 1000:  # the last of them carries the sum
                del self.seconds[: count - 1], self.sums[: count - 1]

    def forget(self) -> None:
        """Let go of all seconds but the one that carries the sum; none is in the window any more."""
        del self.seconds[:-1], self.sums[:-1]

    def freed(self, need: int, now: int) -> int:
        """When `need` units will have left; more than there are: when all would, were they taken now."""
        index = bisect_left(self.sums, self.gone + need)
        second = self.seconds[index] if index < len(self.seconds) else now // SECOND
        return (second + 1) * SECOND + self.width


class Book:
    """One user's account."""

    def __init__(self, allowance: Allowance) -> None:
        self.allowance = allowance
        self.log = Log(allowance.window * SECOND)
        self.rejected = Log(allowance.window * SECOND)
        self._open: dict[str, tuple[int, int]] = {}  # id: units, end of the lease

    @property
    def in_flight(self) -> int:
        """Units held."""
        return sum(units for units, _ in self._open.values())

    def reserve(self, now: int, id: str, n: int) -> Refusal | None:
        """Hold units for a message, all or nothing; None: they are held. The order of the checks is the ledger's."""
        self._advance(now)
        hourly, total, cap = self.allowance.hourly, self.allowance.total, self.allowance.cap
        sent, taken, bounced, held = self.log.held, self.log.total, self.rejected.held, self.in_flight
        if total is not None and taken + n > total:
            return _refuse("total", taken, total, 0, now)
        if hourly is not None and n > hourly:
            return _refuse("never", n, hourly, 0, now)
        if n > cap:
            return _refuse("never", n, cap, 0, now)
        if hourly is not None and sent + n > hourly:
            return _refuse("hourly", sent, hourly, self._fits(n, now), now)
        if bounced + n > cap:
            return _refuse("rejected", bounced, cap, self._fits(n, now), now)
        over = (hourly is not None and sent + held + n > hourly) or (total is not None and taken + held + n > total)
        if over or bounced + held + n > cap:
            return _refuse("in_flight", sent + held, hourly or total or cap, min(end for _, end in self._open.values()), now)
        self._open[id] = n, now + LEASE
        return None

    def settle(self, now: int, id: str, accepted: int, rejected: int = 0) -> None:
        """Take, reject or give back what was held; an id that is not held has no effect."""
        self._advance(now)
        if self._open.pop(id, None) is not None:
            if accepted:
                self.log.add(now, accepted)
            if rejected:
                self.rejected.add(now, rejected)

    def is_idle(self, now: int) -> bool:
        """Whether nothing is held and nothing is in the window; then it takes little memory."""
        self._advance(now)
        if self._open or self.log.held or self.rejected.held:
            return False
        self.log.forget()
        self.rejected.forget()
        return True

    def _advance(self, now: int) -> None:
        self.log.expire(now)
        self.rejected.expire(now)

    def _fits(self, n: int, now: int) -> int:
        """From when n units have room in both."""
        hourly, cap, held = self.allowance.hourly, self.allowance.cap, self.in_flight
        instant = 0
        if hourly is not None and self.log.held + held + n > hourly:
            instant = self.log.freed(self.log.held + held + n - hourly, now)
        if self.rejected.held + n > cap:
            instant = max(instant, self.rejected.freed(self.rejected.held + held + n - cap, now))
        return instant


def _refuse(reason: Reason, used: int, limit: int, instant: int, now: int) -> Refusal:
    if not instant:
        return Refusal(reason, used, limit, None, None)
    return Refusal(reason, used, limit, max(1, math.ceil((instant - now) / 1e6)), math.ceil(instant / 1e6))


class Books:
    """Every user's account, opened when the user first sends, and closed when nothing in it can matter any more.

    Where there is a total limit, what a user has taken matters for ever; that is remembered of the hundred thousand who came last.
    """

    def __init__(self, allowance: Allowance, clock: Callable[[], int]) -> None:
        """`clock` tells µs since 1970."""
        self.allowance = allowance
        self._clock = clock
        self._last = 0
        self.by_user: dict[str, Book] = {}
        self._full = FEW
        self.refusals = 0

    def reserve(self, user: str, id: str, recipients: int) -> Refusal | None:
        """Hold room for a message; None: it is held."""
        now = self._now()
        book = self.by_user.get(user)
        if book is None:
            if len(self.by_user) >= self._full:
                self._forget(now)
            book = self.by_user[user] = Book(self.allowance)
        refusal = book.reserve(now, id, self.allowance.units(recipients))
        self.refusals += refusal is not None
        return refusal

    def settle(self, user: str, id: str, taken: int = 0, rejected: int = 0) -> None:
        """Close what was held, for a message to so many recipients taken or rejected; neither gives it back."""
        count = [self.allowance.units(number) if number else 0 for number in (taken, rejected)]
        self.by_user[user].settle(self._now(), id, *count)

    def _forget(self, now: int) -> None:
        idle = [user for user, book in self.by_user.items() if book.is_idle(now)]
        remembered = set(idle[-MOST_TOTALS:]) if self.allowance.total is not None else set()
        for user in idle:
            if user not in remembered or not self.by_user[user].log.total:
                del self.by_user[user]
        self._full = max(FEW, 2 * len(self.by_user))

    def _now(self) -> int:
        self._last = max(self._last, self._clock())  # a clock set back makes nobody's window shorter
        return self._last
