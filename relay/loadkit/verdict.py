"""What the oracle found: one check a promise, the findings beneath them, and the lines to read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

Unit = Literal["messages", "recipients"]

Kind = Literal[
    "over the hourly limit", "over the total limit", "overdraft", "answered but not taken", "answered twice", "taken twice",
    "taken without an answer", "miscounted", "charge never recorded", "not in the ledger", "charged but not taken",
    "counted after the answer", "journaled after the answer", "lost", "waiting", "short of recipients", "copies", "damaged",
    "delivered though refused", "delivered though not sent", "never counted", "wrong recipient", "wrong sender", "other mail",
    "refused wrongly", "retry-after too early", "retry-after too late", "change overtaken", "over the cap on rejected mail",
    "journal unreadable", "nothing to judge by", "change not made",
]  # fmt: skip

Promise = Literal[
    "over-admission (hourly)", "over-admission (total)", "250s = taken", "taken = ledger", "taken = sink", "counted before the 250",
    "wrong refusals", "retry-after", "overtaken edits and disables", "rejected-mail cap",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """A user's limits in units; None is unlimited."""

    hourly: int | None = None
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """How the relay counts. `slack` seconds are allowed between the clocks of store, nodes and load."""

    window_seconds: float = 3600.0
    resolution_seconds: float = 1.0
    unit: Unit = "messages"
    slack: float = 0.1
    rejected_factor: float = 2.0
    """What the smarthost may reject in a window, as a multiple of the hourly limit."""
    rejected_minimum: int = 50
    rejected_unlimited: int = 1000
    """The same where the hourly limit is None."""

    @property
    def width(self) -> int:
        """The window in µs."""
        return round(self.window_seconds * 1e6)

    @property
    def slack_us(self) -> int:
        """The slack in µs."""
        return round(self.slack * 1e6)

    def units(self, recipients: int) -> int:
        """What a message to this many distinct recipients counts."""
        return 1 if self.unit == "messages" else recipients

    def cap(self, hourly: float) -> int:
        """How many units may be rejected in a window under an hourly limit; infinity is none."""
        return self.rejected_unlimited if hourly == float("inf") else max(int(hourly * self.rejected_factor), self.rejected_minimum)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something found. A fault breaks a promise; what is no fault is only worth knowing."""

    kind: Kind
    text: str
    user: str = ""
    is_fault: bool = True

    def __str__(self) -> str:
        whom = f"{self.user}: " if self.user else ""
        return f"{'FAULT' if self.is_fault else 'note '}  {self.kind}: {whom}{self.text}"


@dataclass(frozen=True, slots=True)
class Check:
    """One promise, and whether it was seen to hold."""

    name: Promise
    is_held: bool | None
    """None: it was not judged, and `text` says why."""
    text: str

    def __str__(self) -> str:
        word = {True: "held  ", False: "BROKEN", None: "-     "}[self.is_held]
        return f"{word} {self.name}: {self.text}"


class Opinion(NamedTuple):
    """What one part of the oracle has to say."""

    check: Check
    findings: tuple[Finding, ...] = ()


def weigh(name: Promise, findings: Sequence[Finding], text: str) -> Opinion:
    """Hold the promise kept unless there is a fault; `text` are the figures it rests on."""
    faults = [finding for finding in findings if finding.is_fault]
    if not faults:
        return Opinion(Check(name, True, text), tuple(findings))
    kinds = dict.fromkeys(finding.kind for finding in faults)
    told = [f"{kind} ({sum(f.kind == kind for f in faults)})" if len(faults) > 1 else kind for kind in kinds]
    return Opinion(Check(name, False, f"{', '.join(told)}; {text}"), tuple(findings))


def pass_over(name: Promise, why: str) -> Opinion:
    """Leave a promise unjudged."""
    return Opinion(Check(name, None, f"not judged: {why}"))


def leave_open(opinion: Opinion, why: str) -> Opinion:
    """Take back that a promise was kept, where something speaks against saying so; what was seen broken stays so."""
    if opinion.check.is_held is not True:
        return opinion
    return Opinion(Check(opinion.check.name, None, f"not judged: {why}; {opinion.check.text}"), opinion.findings)


@dataclass(frozen=True, slots=True)
class Usage:
    """What one user sent, by the journal; of a foreign server, by its 250s."""

    user: str
    limits: Limits
    most: int
    """The most units in any window, overdrafts included."""
    taken: int
    """Units in all."""
    overdrafts: int
    """Units of them that were overdrafts."""
    edits: tuple[Limits, ...] = ()
    """What the limits were changed to, in turn."""

    def __str__(self) -> str:
        hourly = _course([self.limits.hourly, *(edit.hourly for edit in self.edits)])
        total = _course([self.limits.total, *(edit.total for edit in self.edits)])
        over = f", {self.overdrafts} of them overdrafts" if self.overdrafts else ""
        return f"       {self.user}: at most {self.most} in a window (limit {hourly}), {self.taken} in all (limit {total}){over}"


def _course(limits: Sequence[int | None]) -> str:
    """One limit as it was and what it was changed to: "150, then 20, 200"."""
    shown = ["unlimited" if limit is None else str(limit) for limit in limits]
    changed = [now for before, now in pairwise(shown) if now != before]
    return f"{shown[0]}, then {', '.join(changed)}" if changed else shown[0]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the promises held, and why not."""

    findings: tuple[Finding, ...]
    usages: tuple[Usage, ...]
    retry_after_error: tuple[float, float, float] | None = None
    """Earliest, median and latest error of a told retry-after, seconds, over refusals while nothing else of the user's was under way."""
    checks: tuple[Check, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether no fault was found; that anything was looked at is for `proves` to say."""
        return not any(finding.is_fault for finding in self.findings)

    @property
    def proves(self) -> bool:
        """Whether a promise was seen to hold, and none broken: the exit status. Where nothing was judged, nothing is proven."""
        return self.holds and any(check.is_held for check in self.checks)

    @property
    def broken(self) -> frozenset[Promise]:
        """The promises that were seen broken."""
        return frozenset(check.name for check in self.checks if check.is_held is False)

    def lines(self) -> Iterator[str]:
        """The verdict to read."""
        if self.proves:
            yield "every promise that could be checked held"
        elif self.holds:
            yield "NOTHING WAS JUDGED"
        elif all(finding.kind == "change not made" for finding in self.findings if finding.is_fault):
            yield "NOT EVERY CHANGE WAS MADE"
        else:
            yield "PROMISES WERE BROKEN"
        yield from map(str, self.checks)
        yield from map(str, self.findings)
        yield from map(str, self.usages)

    def as_dict(self) -> dict[str, Any]:
        """The same for a program."""
        return {
            "holds": self.proves,
            "checks": [asdict(check) for check in self.checks],
            "findings": [asdict(finding) for finding in self.findings],
            "users": [asdict(usage) for usage in self.usages],
            "retry_after_error": self.retry_after_error,
        }


EXAMPLES = 3
"""How many cases of a kind a finding names."""


def some(names: Iterable[str]) -> str:
    """Name a few and count all."""
    names = sorted(names)
    more = f" and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else ""
    return ", ".join(names[:EXAMPLES]) + more
