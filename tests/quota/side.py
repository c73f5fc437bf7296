"""One user in the machine's hands, and the values it draws from."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

from tests.quota.book import SECOND, Book, Commit


@dataclass
class Side:
    """One user in the store, and the model of it."""

    name: str
    book: Book
    raw: int
    known: dict[str, int] = field(default_factory=dict)
    """Ids that were never settled, and their units."""
    settled: dict[str, int] = field(default_factory=dict)
    heard: list[tuple[int, Commit]] = field(default_factory=list)
    """Commit instants as the store told them."""
    promised: int = 0
    """The instant the last refusal named."""


USERS = st.integers(0, 1)
UNITS = st.sampled_from([1, 1, 1, 1, 2, 2, 3, 4])
PICK = st.integers(0, 99)
LIMITS = st.sampled_from([3, 3, 4, 5, 8, 2, 1, None, 0])
TOTALS = st.sampled_from([None, None, None, 40, 25, 12, 5, 0])
STEPS = st.sampled_from([0, 1, 499_999, 500_000, 876_542, 876_543, 999_999, SECOND, 1_700_000, 2 * SECOND, 3_999_999, 4 * SECOND,
                         6 * SECOND, 9_999_999, 10 * SECOND, 13 * SECOND, 70 * SECOND])  # fmt: skip
