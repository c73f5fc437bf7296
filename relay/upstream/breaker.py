"""Whether a smarthost is known to be down: what spares mail the wait for a session that will not come. Pure; the time is passed in.

Promises: while it is down nobody tries, and once the time is up one at a time does, on behalf of all; each trial that fails doubles the
time, up to a bound; a session that is had ends it. A failure that was under way before it was down says nothing new. Where somebody wants
it tried now, a trial begins at once, a second after the last began at the earliest; if that fails, the time is what it was.
"""

from __future__ import annotations

from relay.mail.reply import Reply
from relay.mail.verdict import Deferred

LONGEST = 60.0
"""Seconds to which doubling leads at most: mail is never kept back longer than that from a smarthost that is there again."""

PROBING = 1.0
"""Seconds that `until` is ahead while a probe is under way: nobody can know how long that takes, and looking again costs nothing."""

SPACING = 1.0
"""Seconds between the beginnings of two trials at least, whoever wants them."""


class Breaker:
    """What is known of one smarthost; up until it fails."""

    def __init__(self, first: float) -> None:
        self._first = first
        self._longest = max(first, LONGEST)
        self._wait = 0.0
        self._until = 0.0
        self._usual = 0.0
        """What `_until` is where nobody hurries."""
        self._began = 0.0
        """When the last trial did."""
        self._is_hurried = False
        """Whether somebody has wanted it tried when that was no longer news, who cannot know what it met."""
        self._cause = Deferred(Reply(451, "4.1", "no session"))
        self._prober: object = None
        self.is_down = False
        """Whether the last that was heard is that it gives no session."""

    def until(self, now: float) -> float:
        """When the next may try, 0.0 when it is up; never in the past while a probe is under way."""
        return self._until if self._prober is None else max(self._until, now + PROBING)

    @property
    def verdict(self) -> Deferred:
        """What is said of a message while it is down, or was a moment ago."""
        said = f"Upstream is known to be down ({self._cause.reply.text})"
        return Deferred(Reply(451, "4.1", said), ours=self._cause.ours, unreached=True)

    def admits(self, who: object, now: float) -> bool:
        """Whether this one may try to get a session; while it is down, one that may is the probe."""
        if not self.is_down or self._prober is who:
            return True
        if self._prober is not None or now < self._until:
            return False
        self._prober, self._began, self._is_hurried = who, now, False
        return True

    def hurry(self, now: float) -> None:
        """Somebody wants it tried now: the next that asks is the probe, also after one that is under way for a while."""
        if not self.is_down:
            return
        if self._prober is None:
            self._until = self._soon(now)
        elif now >= self._began + SPACING:
            self._is_hurried = True

    def _soon(self, now: float) -> float:
        return min(self._until, max(now, self._began + SPACING))

    def fail(self, who: object, now: float, cause: Deferred) -> bool:
        """Somebody got no session; whether that is news."""
        if not self._first or (self.is_down and self._prober is not who):
            return False
        if not self.is_down:
            self._wait, self._began = self._first, now
        elif self._began >= self._usual:
            self._wait = min(self._wait * 2, self._longest)
        self._until = self._usual = now + self._wait
        if self._is_hurried:
            self._until = self._soon(now)
        self.is_down, self._cause, self._prober, self._is_hurried = True, cause, None, False
        return True

    def succeed(self) -> None:
        """Somebody got a session."""
        self.is_down, self._until, self._prober, self._is_hurried = False, 0.0, None, False

    def withdraw(self, who: object) -> None:
        """This one is done, whatever came of it: if it was the probe and proved nothing, the next may be."""
        if self._prober is who:
            self._prober = None
