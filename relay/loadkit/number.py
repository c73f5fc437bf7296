"""Numbers that others wrote, before anything is reckoned with them.

Promise: what is no whole number of a size that a count or an instant may have never gets further than here.
"""

from __future__ import annotations

MOST = 1 << 62
"""No count, and no instant in µs, is as large."""


def whole(value: object) -> int:
    """A count or an instant. Raises ValueError for what is none."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MOST:
        raise ValueError("no number")
    return value
