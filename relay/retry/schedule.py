"""When a deferred message is tried again, when it is given up, and how a smarthost that comes back is met.

Promises:
- The wait grows by `factor` from `first` to `longest`; each is spread by `jitter`, so that what was deferred together does not come
  back together.
- The last attempt is made when the message expires: neither before it nor ever after. Only then is it given up.
- A smarthost that was away gets one session first, and more only as it takes messages.

With the defaults (first 60 s, factor 2, longest 3,600 s, jitter 0.2, expire 172,800 s = 2 days) and every wait in the middle of its
spread, a message is tried 54 times:

    attempt        wait before it   age of the message
    1              -                0 s (while its client waited)
    2              1 min            1 min
    3              2 min            3 min
    4              4 min            7 min
    5              8 min            15 min
    6              16 min           31 min
    7              32 min           1 h 3 min
    8              1 h              2 h 3 min
    9 ... 53       1 h each         3 h 3 min ... 47 h 3 min
    54             57 min           48 h, its last

Jitter makes of each wait 0.8 to 1.2 of it, and so of the 54 attempts at least 46 and at most 66. A warning of the delay goes out only
where `warn_after` is set.

Pure: the time and the dice are passed in. Who tries, and what becomes of it, is the runner's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a message is tried; all in seconds, except `factor` and `jitter`."""

    first: float = 60.0
    longest: float = 3600.0
    """Before it is spread: no wait is longer than longest * (1 + jitter)."""
    factor: float = 2.0
    jitter: float = 0.2
    expire: float = 172_800.0
    warn_after: float = 0.0
    """0: never."""

    def wait(self, attempts: int, dice: float) -> float:
        """How long to wait after so many attempts; `dice` in [0, 1) picks the place in the spread."""
        try:
            wait = min(self.longest, self.first * self.factor ** max(attempts - 1, 0))
        except OverflowError:
            wait = self.longest
        return wait * (1.0 + self.jitter * (2.0 * dice - 1.0))

    def expiry(self, arrived: float) -> float:
        """The instant of the last attempt."""
        return arrived + self.expire

    def next_due(self, arrived: float, now: float, attempts: int, dice: float) -> float | None:
        """When to try again after an attempt that ended at `now`; None: that was the last, the message is given up."""
        expiry = self.expiry(arrived)
        return None if now >= expiry else min(now + self.wait(attempts, dice), expiry)

    def is_warning_due(self, arrived: float, now: float, is_warned: bool) -> bool:
        """Whether the sender is to be told now that the message is delayed."""
        return not is_warned and 0 < self.warn_after <= now - arrived


@dataclass(frozen=True, slots=True)
class Ramp:
    """How many sessions may be used at once with one smarthost; each event gives the next value."""

    most: int
    width: int = 1

    def succeeded(self) -> Ramp:
        """It took a message: twice as many may go, up to `most`."""
        return replace(self, width=min(self.width * 2, self.most))

    def unreached(self) -> Ramp:
        """It was not there: one goes first when it is back."""
        return replace(self, width=1)
