"""What the oracle found, as values and as lines to read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

Unit = Literal["messages", "recipients"]

Kind = Literal[
    "over the hourly limit", "over the total limit", "overdraft", "answered but not taken", "answered twice", "taken twice",
    "taken without an answer", "charge never recorded", "miscounted", "lost", "short of recipients", "copies",
    "delivered though refused", "damaged", "refused wrongly", "retry-after too early", "retry-after too late", "journal unreadable",
    "nothing to judge by",
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

    @property
    def width(self) -> int:
        """The window in µs."""
        return round(self.window_seconds * 1e6)


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
class Usage:
    """What one user sent, by the journal."""

    user: str
    limits: Limits
    most: int
    """The most units in any window, overdrafts included."""
    taken: int
    """Units in all."""
    overdrafts: int
    """Units of them that were overdrafts."""

    def __str__(self) -> str:
        hourly = "unlimited" if self.limits.hourly is None else self.limits.hourly
        total = "unlimited" if self.limits.total is None else self.limits.total
        over = f", {self.overdrafts} of them overdrafts" if self.overdrafts else ""
        return f"       {self.user}: at most {self.most} in a window (limit {hourly}), {self.taken} in all (limit {total}){over}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the promises held, and why not."""

    findings: tuple[Finding, ...]
    usages: tuple[Usage, ...]
    retry_after_error: tuple[float, float] | None = None
    """Earliest and latest error of a told retry-after, seconds, over refusals while nothing else of the user's was under way."""

    @property
    def holds(self) -> bool:
        """Whether no fault was found."""
        return not any(finding.is_fault for finding in self.findings)

    def lines(self) -> Iterator[str]:
        """The verdict to read."""
        yield "every promise that could be checked held" if self.holds else "PROMISES WERE BROKEN"
        yield from map(str, self.findings)
        yield from map(str, self.usages)
        if self.retry_after_error is not None:
            early, late = self.retry_after_error
            yield f"       retry-after was off by {early:+.2f} to {late:+.2f} s"

    def as_dict(self) -> dict[str, Any]:
        """The same for a program."""
        return {
            "holds": self.holds,
            "findings": [asdict(finding) for finding in self.findings],
            "users": [asdict(usage) for usage in self.usages],
            "retry_after_error": self.retry_after_error,
        }
