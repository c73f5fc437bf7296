"""Loads that are over, made up for the tests of what is said of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relay.loadkit.attempt import Attempt
from relay.loadkit.history import Commit, History
from relay.loadkit.outcome import Outcome
from relay.loadkit.verdict import Check, Limits, Rules, Usage, Verdict

BEGAN = 1_790_000_000.0
FULL = "4.7.0 Hourly sending limit reached (2/2 messages); retry-after=3 at=2026-11-21T10:21:52Z"
HELD = Check("250s = taken", True, "2 answered, 2 taken")


def attempt(at: float, user: str = "app", code: int = 250, took: float = 0.004, text: str = "") -> Attempt:
    """One that began so many seconds into the load."""
    made = Attempt("l", user, 0, 1, started=at, started_at=BEGAN + at, replied=at + took, replied_at=BEGAN + at + took, code=code)
    made.stage = None if code == 250 else "data" if code else "dot"
    made.text = text or ("2.0.0 id Ok" if code == 250 else FULL if code else "")
    return made


def commit(at: float, user: str = "app", units: int = 1) -> Commit:
    instant = int((BEGAN + at) * 1e6)
    return Commit(f"{user}-{at}", user, units, instant, instant)


def history(*commits: Commit) -> History:
    return History({one.id: one for one in commits})


def outcome(attempts: Sequence[Attempt] = (), seconds: float = 10.0, checks: tuple[Check, ...] = (HELD,), **others: Any) -> Outcome:
    """One of a window of 5 s; each user has two messages in it."""
    users = {one.user for one in attempts}
    limits = dict.fromkeys(users, Limits(2, 100))
    usages = tuple(Usage(user, Limits(2, 100), 2, 2, 0) for user in sorted(users))
    given = {"name": "steady", "target": "127.0.0.1:2525", "history": None, "changes": (), "limits": limits, "rules": Rules(5.0)}
    verdict = Verdict((), usages, None, checks)
    return Outcome(**{"began_at": BEGAN, "seconds": seconds, "attempts": attempts, "verdict": verdict, **given, **others})
