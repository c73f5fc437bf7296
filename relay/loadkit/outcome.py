"""A load that is over: what was asked for, what was seen, and what is to be said of it. A report is made from this alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from relay.loadkit.attempt import Attempt
from relay.loadkit.change import Change
from relay.loadkit.history import History
from relay.loadkit.verdict import Limits, Rules, Verdict


@dataclass(frozen=True, slots=True)
class Outcome:
    """All of one load."""

    name: str
    """Of its scenario; "" for a load that was asked for in words."""
    target: str
    """As in "127.0.0.1:2525, STARTTLS"."""
    began_at: float
    """time.time()."""
    seconds: float
    attempts: Sequence[Attempt]
    history: History | None
    """None: there was no journal to read."""
    changes: Sequence[Change]
    limits: Mapping[str, Limits]
    """By user, as they were when the load began."""
    rules: Rules
    verdict: Verdict
    description: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What was asked for, to show; no secret."""
