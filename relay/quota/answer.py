"""What the ledger answers: a hold, a refusal, a settlement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Reason = Literal["unknown", "disabled", "stale", "total", "never", "hourly", "rejected", "in_flight"]
Outcome = Literal["ok", "late", "done", "gone"]


class Hold(NamedTuple):
    """Capacity held for one message."""

    user: str
    id: str
    units: int
    generation: int
    """The credential generation it was reserved under."""
    expires: float
    """End of the lease by this process's monotonic clock, counted from before the store was asked: never later than the store's."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the ledger said no.

    unknown: no such user. disabled: the user or its owner. stale: its credentials were changed. total: its total limit is reached.
    never: more than its hourly limit at once. hourly: its hourly limit is reached. rejected: too much of its mail was rejected by
    the smarthost. in_flight: only messages in flight stand in the way.
    """

    reason: Reason
    used: int
    limit: int
    retry_after: int | None
    """Seconds, rounded up; None: never."""
    at: int | None
    """The same as seconds since 1970 by the store's clock."""


class Settlement(NamedTuple):
    """What became of a hold."""

    outcome: Outcome
    at: int
    """The commit instant, µs since 1970 by the store's clock."""
    window: int
    taken: int
    is_overdraft: bool
