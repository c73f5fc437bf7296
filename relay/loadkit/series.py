"""What a load looks like over time, as numbers to draw or to print; pure.

Promises: nothing is left out of a count that is drawn; what is thinned keeps its peaks. Seconds count from the load's beginning.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from relay.loadkit.attempt import Attempt
from relay.loadkit.change import Change
from relay.loadkit.outcome import Outcome

Points = list[tuple[float, float]]

MOST_BINS = 120
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
"""Seconds of a bin."""
PER_DECADE = 12
"""Classes of a latency's distribution in each power of ten."""
STRETCHES = 300
FULLEST = 12


class Rates(NamedTuple):
    """Messages a second, in bins of `step` seconds; a point stands in the middle of its bin."""

    step: float
    taken: Points
    refused: Points
    silent: Points
    """No reply, wherever that was."""


@dataclass(frozen=True, slots=True)
class Latency:
    """How long taken messages took, in ms."""

    count: int
    p50: float
    p90: float
    p99: float
    most: float
    classes: list[tuple[float, float, int]]
    """From, to, and how many."""

    @property
    def marks(self) -> list[tuple[float, str]]:
        """What to point at."""
        named = (("p50", self.p50), ("p90", self.p90), ("p99", self.p99), ("max", self.most))
        return [(value, f"{name} {brief(value)}") for name, value in named]


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How much of a user's window was taken."""

    user: str
    points: Points
    """Units in the window that ends then; each holds until the next."""
    limit: list[Points]
    """The hourly limit likewise, in stretches: there is none before, between and after them."""
    marks: list[tuple[float, str]]
    """What was changed of the user, when that was answered."""
    peak: float
    fullness: float
    """The greatest share of its limit; 0 where there is none."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Replies of one code at one stage."""

    code: int
    stage: str
    count: int
    text: str
    """Of one of them."""


def brief(value: float) -> str:
    """A number of three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def bin_of(seconds: float) -> float:
    """A bin for so long a load: not more than MOST_BINS of them."""
    return next((step for step in STEPS if seconds / step <= MOST_BINS), seconds / MOST_BINS)


def rates(outcome: Outcome) -> Rates:
    """What became of the attempts over time, by the instant it was known."""
    ends = [attempt.replied_at - outcome.began_at for attempt in outcome.attempts]
    seconds = max(outcome.seconds, max(ends, default=0.0), 0.1)
    step = bin_of(seconds)
    # A last bin of next to nothing would show a fall, or a leap, that there was not: it is one with the bin before.
    bins = max(1, math.ceil(seconds / step - 0.25))
    counts: tuple[Counter[int], Counter[int], Counter[int]] = Counter(), Counter(), Counter()
    for attempt, end in zip(outcome.attempts, ends, strict=True):
        counts[0 if attempt.is_taken else 1 if attempt.code else 2][min(bins - 1, max(0, int(end / step)))] += 1
    widths = [step] * (bins - 1) + [seconds - (bins - 1) * step]
    taken, refused, silent = ([((i + 0.5) * step, count[i] / width) for i, width in enumerate(widths)] for count in counts)
    return Rates(step, taken, refused, silent)


def latency(attempts: Iterable[Attempt]) -> Latency | None:
    """How long the messages took that were taken; None if none was."""
    ordered = sorted(max(attempt.latency, 0.0) * 1e3 for attempt in attempts if attempt.is_taken)
    if not ordered:
        return None
    counts = Counter(math.floor(math.log10(max(value, 1e-3)) * PER_DECADE) for value in ordered)
    classes = [(10 ** (n / PER_DECADE), 10 ** ((n + 1) / PER_DECADE), counts[n]) for n in range(min(counts), max(counts) + 1)]
    p50, p90, p99 = (ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.9, 0.99))
    return Latency(len(ordered), p50, p90, p99, ordered[-1], classes)


def answers(attempts: Iterable[Attempt]) -> list[Answers]:
    """What was heard, most frequent first."""
    counts: Counter[tuple[int, str]] = Counter()
    texts: dict[tuple[int, str], str] = {}
    for attempt in attempts:
        key = attempt.code, attempt.stage or "taken"
        counts[key] += 1
        texts.setdefault(key, attempt.text)
    return [Answers(code, stage, count, texts[code, stage]) for (code, stage), count in counts.most_common()]


# -- the window --------------------------------------------------------------------------------------------------------------


def commits(outcome: Outcome) -> dict[str, list[tuple[float, int]]]:
    """Each user's commits in order, as seconds and units: by the journal, or by the 250s where there is none."""
    users: dict[str, list[tuple[float, int]]] = {}
    if outcome.history is not None:
        for user, taken in outcome.history.by_user().items():
            users[user] = [(commit.instant / 1e6 - outcome.began_at, commit.units) for commit in taken]
    else:
        for attempt in outcome.attempts:
            if attempt.is_taken:
                units = outcome.rules.units(attempt.units)
                users.setdefault(attempt.user, []).append((attempt.replied_at - outcome.began_at, units))
        for own in users.values():
            own.sort()
    return users


def occupancies(outcome: Outcome, most: int = FULLEST) -> list[Occupancy]:
    """The windows of the users who came nearest to their limits, fullest first."""
    changes: dict[str, list[Change]] = {}
    for change in outcome.changes:
        changes.setdefault(change.user, []).append(change)
    users = commits(outcome)
    # Drawing is for the fullest; to find them, the peak of each is enough.
    weights = {user: _weight(outcome, user, own) for user, own in users.items()}
    chosen = sorted(users, key=lambda user: (-weights[user][0], -weights[user][1], user))[:most]
    return [_occupancy(outcome, user, users[user], changes.get(user, ())) for user in chosen]


def _weight(outcome: Outcome, user: str, own: Sequence[tuple[float, int]]) -> tuple[float, float]:
    peak = max((units for _, units in _steps(own, outcome.rules.window_seconds, outcome.seconds)), default=0.0)
    limits = outcome.limits.get(user)
    return (peak / limits.hourly if limits is not None and limits.hourly else 0.0), peak


def _occupancy(outcome: Outcome, user: str, own: Sequence[tuple[float, int]], changes: Sequence[Change]) -> Occupancy:
    end = max(outcome.seconds, own[-1][0] if own else 0.0)
    points = _steps(own, outcome.rules.window_seconds, end)
    limits = outcome.limits.get(user)
    hourly = None if limits is None else limits.hourly
    limit: Points = [(0.0, math.inf if hourly is None else float(hourly))]
    marks: list[tuple[float, str]] = []
    for change in sorted(changes, key=lambda c: c.answered):
        at = change.answered / 1e6 - outcome.began_at
        marks.append((at, _told(change)))
        if change.kind == "limits" and not change.error:
            limit.append((at, math.inf if change.hourly is None else float(change.hourly)))
    peak = max((units for _, units in points), default=0.0)
    instants = [at for at, _ in limit]
    held = ((units, limit[max(0, bisect_right(instants, at) - 1)][1]) for at, units in points)
    fullness = max((units / most for units, most in held if most), default=0.0)
    return Occupancy(user, _thin(points), _stretches(limit, end), marks, peak, fullness)


def _stretches(limit: Points, end: float) -> list[Points]:
    """A limit's steps without those that are none; each holds to where the next begins, the last to the end."""
    found: list[Points] = []
    is_going_on = False
    for (at, most), (until, _) in zip(limit, [*limit[1:], (end, math.inf)], strict=True):
        if most < math.inf:
            if is_going_on:
                found[-1].pop()  # where the step before ended, this one begins
            else:
                found.append([])
            found[-1] += [(at, most), (max(at, until), most)]
        is_going_on = most < math.inf
    return found


def _told(change: Change) -> str:
    if change.error:
        return f"{change.kind} failed"
    if change.kind != "limits":
        return change.kind
    return f"hourly {'unlimited' if change.hourly is None else change.hourly}"


def _steps(own: Sequence[tuple[float, int]], width: float, end: float) -> Points:
    """What is in the window after each commit and each leaving, from the beginning to the end."""
    moves: dict[float, int] = {}
    held = 0
    for at, units in own:
        if at > 0:
            moves[at] = moves.get(at, 0) + units
        elif at + width > 0:  # from before the load, but still in its window
            held += units
        if 0 < at + width <= end:
            moves[at + width] = moves.get(at + width, 0) - units
    points: Points = [(0.0, float(held))]
    for at in sorted(moves):
        held += moves[at]
        points.append((at, float(held)))
    if points[-1][0] < end:
        points.append((end, float(held)))
    return points


def _thin(points: Points) -> Points:
    """Of each STRETCHES-th of the time the first, the least, the greatest and the last, in their order; few points are left as they are."""
    if len(points) <= STRETCHES:
        return points
    width = (points[-1][0] - points[0][0]) / STRETCHES or 1.0
    stretches: dict[int, list[int]] = {}
    for index, (at, _) in enumerate(points):
        stretches.setdefault(int((at - points[0][0]) / width), []).append(index)
    kept: set[int] = set()
    for own in stretches.values():
        kept |= {own[0], own[-1], min(own, key=lambda i: points[i][1]), max(own, key=lambda i: points[i][1])}
    return [points[index] for index in sorted(kept)]


def figures(outcome: Outcome) -> Mapping[str, float | int | None]:
    """The load in a few numbers; times in ms."""
    attempts = outcome.attempts
    taken = sum(attempt.is_taken for attempt in attempts)
    took = latency(attempts)
    return {
        "attempts": len(attempts),
        "taken": taken,
        "refused": sum(attempt.code >= 400 for attempt in attempts),
        "unanswered": sum(attempt.is_unanswered for attempt in attempts),
        "users": len({attempt.user for attempt in attempts}),
        "seconds": round(outcome.seconds, 3),
        "taken_per_second": round(taken / outcome.seconds, 1) if outcome.seconds > 0 else None,
        "p50_ms": None if took is None else round(took.p50, 3),
        "p90_ms": None if took is None else round(took.p90, 3),
        "p99_ms": None if took is None else round(took.p99, 3),
        "max_ms": None if took is None else round(took.most, 3),
    }
