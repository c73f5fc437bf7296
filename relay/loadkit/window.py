"""Sums over sliding windows of commit instants; pure. Two commits lie in one window if and only if they are less than its width apart."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import accumulate


def running_sums(commits: Sequence[tuple[int, int]], width: int) -> Iterator[int]:
    """For each (instant, units), in order of instants: the units in the window that ends with it. One of these is a fullest window: any
    can be moved so that it ends with a commit, and loses none.
    """
    low = held = 0
    for at, units in commits:
        held += units
        while at - commits[low][0] >= width:
            held -= commits[low][1]
            low += 1
        yield held


def contained_sums(spans: Sequence[tuple[int, int, int]], width: int) -> Iterator[int]:
    """For each (since, until, units), in order of `until`: the units of all that lie whole in the window that ends with it."""
    held = 0
    inside: list[tuple[int, int]] = []
    for since, until, units in spans:
        heappush(inside, (since, units))
        held += units
        while inside and until - inside[0][0] >= width:
            held -= heappop(inside)[1]
        yield held


class Account:
    """One user's commits, made ready for many questions; `earliest` are their instants if each came as early as it may have."""

    def __init__(self, commits: Iterable[tuple[int, int]], earliest: Iterable[tuple[int, int]] | None = None) -> None:
        ordered = sorted(commits)
        self._instants = [at for at, _ in ordered]
        self._sums = [0, *accumulate(units for _, units in ordered)]
        first = ordered if earliest is None else sorted(earliest)
        self._since = [at for at, _ in first]
        self._since_sums = [0, *accumulate(units for _, units in first)]

    def between(self, after: float, until: float) -> int:
        """Units that may have been committed later than `after`, not later than `until`."""
        return self._since_sums[bisect_right(self._since, until)] - self._sums[bisect_right(self._instants, after)]

    def fits_from(self, until: float, units: int, limit: int, width: int) -> int | None:
        """The first instant at which `units` more fit, given what was committed until then; None: they do without any leaving."""
        count = bisect_right(self._instants, until)
        excess = self._sums[count] + units - limit
        if excess <= 0 or units > limit:
            return None
        return self._instants[bisect_left(self._sums, excess) - 1] + width

    def may_fit_from(self, until: float, units: int, limit: int, width: int) -> int | None:
        """The same, if each was committed as early as it may have been."""
        excess = self._since_sums[bisect_right(self._since, until)] + units - limit
        if excess <= 0 or units > limit:
            return None
        return self._since[bisect_left(self._since_sums, excess) - 1] + width
