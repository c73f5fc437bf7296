"""One made-up story told to all the records that the oracle judges by: each test tells it with one thing wrong."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from relay.loadkit.attempt import Attempt, Stage
from relay.loadkit.change import Change, Kind
from relay.loadkit.history import read_history
from relay.loadkit.oracle import Evidence, judge
from relay.loadkit.received import Received
from relay.loadkit.verdict import Limits, Promise, Rules, Verdict

EPOCH = 1_795_000_000
WINDOW = 60.0
US = 1_000_000


class World:
    """One user's story, told to all three records at once; `second`s count from EPOCH."""

    def __init__(self, hourly: int | None = 2, total: int | None = 100) -> None:
        self.limits = {"u": Limits(hourly, total)}
        self.journal: list[dict[str, Any]] = []
        self.attempts: list[Attempt] = []
        self.received: list[Received] = []
        self.changes: list[Change] = []
        self.ledger: dict[str, int] | None = None
        self.count = 0

    def attempt(self, second: float, code: int, text: str = "", stage: Stage | None = None, seconds: float = 0.01) -> Attempt:
        self.count += 1
        start = EPOCH + second - seconds
        end = EPOCH + second
        dot = end if stage in (None, "dot") else 0.0
        made = Attempt(f"l{self.count}", "u", 0, 1, start, start, dot, end, end, code, text, stage)
        self.attempts.append(made)
        return made

    def taken(self, second: float, units: int = 1, **more: Any) -> Attempt:
        made = self.attempt(second, 250, f"2.0.0 r{self.count + 1} Ok")
        self.write("taken", second, id=f"r{self.count}", units=units, at=round((EPOCH + second) * US), **more)
        self.arrive(made.load_id, second)
        return made

    def refused(self, second: float, retry_after: int, text: str = "Hourly sending limit reached (2/2 messages)") -> None:
        self.attempt(second, 451, f"4.7.0 {text}; retry-after={retry_after}", "data")
        self.write("refused", second, reason="hourly" if "Hourly" in text else "in_flight", units=1, retry_after=retry_after)

    def arrive(self, id: str, second: float, answered: bool = True, is_intact: bool = True, recipient: str = "b@s") -> None:
        made = Received("a@c", (recipient,), "", ("",), 10, id, is_intact, "", EPOCH + second, answered=answered)
        self.received.append(made)

    def write(self, event: str, second: float, **fields: Any) -> None:
        ts = datetime.fromtimestamp(EPOCH + second, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        line = {"ts": ts, "event": event, "node": "n1", "id": "x", "user": "u", "recipients": ["b@s"], "reply": "r", **fields}
        self.journal.append(line)

    def change(self, kind: Kind, second: float, lag: float = 0.01, hourly: int | None = None, total: int | None = None) -> None:
        """A change that was answered at that second."""
        asked, answered = round((EPOCH + second - lag) * US), round((EPOCH + second) * US)
        self.changes.append(Change(kind, "u", asked, answered, hourly, total))

    def evidence(self, is_foreign: bool = False) -> Evidence:
        """All of it; of another server there is no journal."""
        history = read_history(json.dumps(line, separators=(",", ":")) for line in self.journal)
        known = None if is_foreign else history
        return Evidence(self.attempts, known, self.received, self.limits, self.changes, self.ledger, is_foreign)

    def verdict(self, is_foreign: bool = False, **rules: Any) -> Verdict:
        """What the oracle says."""
        return judge(self.evidence(is_foreign), Rules(WINDOW, **rules))


def check(verdict: Verdict, name: Promise) -> bool | None:
    """Whether a promise was found to hold."""
    return next(check.is_held for check in verdict.checks if check.name == name)


def faults(verdict: Verdict) -> set[str]:
    return {finding.kind for finding in verdict.findings if finding.is_fault}


def notes(verdict: Verdict) -> set[str]:
    return {finding.kind for finding in verdict.findings if not finding.is_fault}


def honest() -> World:
    world = World()
    world.taken(0)
    world.taken(10)
    world.refused(20, 41)
    world.taken(60)
    world.taken(70.5)
    return world
