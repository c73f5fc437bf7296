"""The ledger in plain Python, written from the design and not from the scripts: every commit is kept for ever, and summed at need.

Instants are in µs by the store's clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from relay.quota.limit import Rules

SECOND = 1_000_000


@dataclass
class Commit:
    """Units that were taken, or rejected, at an instant."""

    at: int
    units: int
    admitted: int | None = None
    """The hourly limit in force when it was admitted."""
    admitted_total: int | None = None
    is_late: bool = False


@dataclass
class Held:
    """A hold as the model knows it."""

    units: int
    ends: int
    hourly: int | None
    total: int | None
    lapsed: int = 0


@dataclass
class Expected:
    """What the model says of a reserve."""

    reason: str
    used: int | None = None
    limit: int | None = None
    instant: int = 0


@dataclass
class Book:
    """One user's account, by the design."""

    rules: Rules
    hourly: int | None = None
    total: int | None = None
    enabled: bool = True
    owner_enabled: bool = True
    generation: int = 1
    exists: bool = True
    last: int = 0
    taken: list[Commit] = field(default_factory=list)
    rejected: list[Commit] = field(default_factory=list)
    open: dict[str, Held] = field(default_factory=dict)
    lapsed: dict[str, Held] = field(default_factory=dict)

    # -- time

    def tick(self, raw: int) -> int:
        """Go to the instant, never backwards; holds whose lease has ended lapse."""
        now = self.last = max(raw, self.last)
        for id, hold in list(self.open.items()):
            if hold.ends <= now:
                hold.lapsed = now
                self.lapsed[id] = self.open.pop(id)
        return now

    def bucket(self, instant: int) -> int:
        return instant // (self.rules.resolution * SECOND)

    def leaves(self, commit_at: int) -> int:
        """When a commit stops counting: its whole second (bucket) is older than the window."""
        resolution = self.rules.resolution * SECOND
        return self.bucket(commit_at) * resolution + resolution + self.rules.window * SECOND

    def counting(self, log: list[Commit], now: int) -> list[Commit]:
        return [commit for commit in log if self.leaves(commit.at) > now]

    def sent(self) -> int:
        return sum(commit.units for commit in self.counting(self.taken, self.last))

    def bounced(self) -> int:
        return sum(commit.units for commit in self.counting(self.rejected, self.last))

    def held(self) -> int:
        return sum(hold.units for hold in self.open.values())

    def ever(self) -> int:
        return sum(commit.units for commit in self.taken)

    def cap(self) -> int:
        if self.hourly is None:
            return self.rules.rejected_unlimited
        return max(math.floor(self.hourly * self.rules.rejected_factor), self.rules.rejected_minimum)

    def first_fit(self, log: list[Commit], limit: int, units: int) -> int:
        """The first instant at which `units` fit, if all in flight were taken now and nothing else were sent."""
        counting = [*self.counting(log, self.last), Commit(self.last, self.held())]
        for instant in sorted({self.leaves(commit.at) for commit in counting}):
            if sum(commit.units for commit in self.counting(counting, instant)) + units <= limit:
                return instant
        raise AssertionError("it never fits")

    def wait_for_one(self, raw: int) -> int | None:
        """Seconds from `raw` until one more unit fits: 0 now, None never."""
        if self.hourly == 0 or (self.total is not None and self.ever() + 1 > self.total):
            return None
        if self.hourly is not None and self.sent() + self.held() + 1 > self.hourly:
            instant = self.first_fit(self.taken, self.hourly, 1)
        elif self.total is not None and self.ever() + self.held() + 1 > self.total:  # only what is in flight stands in the way
            instant = min(hold.ends for hold in self.open.values())
        else:
            return 0
        return max(0, -(-(instant - raw) // SECOND))

    # -- calls

    def reserve(self, raw: int, id: str, units: int, generation: int, lease: int) -> Expected:
        if not self.exists:
            return Expected("unknown")
        now = self.tick(raw)
        old = self.open.pop(id, None)
        self.lapsed.pop(id, None)
        answer = self._judge(units, generation)
        if answer.reason == "ok":
            self.open[id] = Held(units, max(now + lease, old.ends + 1 if old else 0), self.hourly, self.total)
        return answer

    def _judge(self, units: int, generation: int) -> Expected:
        if not (self.enabled and self.owner_enabled):
            return Expected("disabled")
        if generation != self.generation:
            return Expected("stale")
        sent, bounced, held, cap, ever = self.sent(), self.bounced(), self.held(), self.cap(), self.ever()
        if self.total is not None and ever + units > self.total:
            return Expected("total", ever, self.total)
        for limit in (self.hourly, cap):
            if limit is not None and units > limit:
                return Expected("never", units, limit)
        # A limit that is full for good is told with the instant from which all of them have room.
        instants = []
        if self.hourly is not None and sent + held + units > self.hourly:
            instants.append(self.first_fit(self.taken, self.hourly, units))
        if bounced + units > cap:
            instants.append(self.first_fit(self.rejected, cap, units))
        if self.hourly is not None and sent + units > self.hourly:
            return Expected("hourly", sent, self.hourly, max(instants))
        if bounced + units > cap:
            return Expected("rejected", bounced, cap, max(instants))
        is_in_the_way = (
            (self.hourly is not None and sent + held + units > self.hourly)
            or (self.total is not None and ever + held + units > self.total)
            or bounced + held + units > cap
        )
        if is_in_the_way:
            return Expected("in_flight", instant=min(hold.ends for hold in self.open.values()))
        return Expected("ok")

    def may_be_pruned(self, hold: Held) -> bool:
        return hold.lapsed + self.rules.keep_lapsed * SECOND <= self.last

    def settle(self, raw: int, id: str, accepted: int, rejected: int) -> tuple[str, bool]:
        """Outcome and overdraft."""
        if not self.exists:
            return "gone", False
        now = self.tick(raw)
        hold, outcome = self.open.pop(id, None), "ok"
        if hold is None:
            hold, outcome = self.lapsed.pop(id, None), "late"
        if hold is None:
            return "done", False
        if accepted:
            self.taken.append(Commit(now, accepted, hold.hourly, hold.total, outcome == "late"))
        if rejected:
            self.rejected.append(Commit(now, rejected))
        is_over = (self.hourly is not None and self.sent() > self.hourly) or (self.total is not None and self.ever() > self.total)
        return outcome, outcome == "late" and bool(accepted) and is_over
