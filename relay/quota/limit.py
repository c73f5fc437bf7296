"""How sending is counted: the rules every node on one store agrees on, and what a user's book says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Unit = Literal["messages", "recipients"]


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of counting; durations in seconds."""

    window: int = 3600
    resolution: int = 1
    unit: Unit = "messages"
    lease: float = 420.0
    rejected_factor: float = 2.0
    """What the smarthost may reject in a window, as a multiple of the hourly limit."""
    rejected_minimum: int = 50
    rejected_unlimited: int = 1000
    """The same where the hourly limit is null."""
    keep_lapsed: float = 7 * 86400.0
    """How long a lapsed hold may still be settled, at the least."""
    records: int = 100
    """How many settles of a user are kept on record, or somewhat more; 0: none."""

    def units(self, recipients: int) -> int:
        """What a message to this many distinct recipients counts."""
        return 1 if self.unit == "messages" else recipients


@dataclass(frozen=True, slots=True)
class Usage:
    """What a user's book says now. Limits are None where there is none."""

    hourly_limit: int | None
    total_limit: int | None
    window: int
    """Units taken in the window that ends now."""
    in_flight: int
    taken: int
    """Units ever taken."""
    rejected: int
    """Units the smarthost rejected in the window."""
    retry_after: int | None
    """Seconds until one more unit fits: 0 now, None never."""
