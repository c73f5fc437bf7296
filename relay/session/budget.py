"""The memory for messages under way, over all connections of a worker.

Promises:
- A message's octets count from their first to its reply. Once they are more than the budget, nothing more is read of any upload but the
  oldest: the budget is exceeded by that one, and by what had been read from the sockets already.
- Somebody always goes on: the oldest upload first, then the next. Who waits too long gives its memory back and is told 452.
"""

from __future__ import annotations

from typing import Protocol

READ = 1 << 18
"""Octets that a socket may give at once."""


class Waiter(Protocol):
    """A connection whose upload may have to wait."""

    def starve(self) -> None:
        """Read no more of the upload."""

    def relieve(self) -> None:
        """Read on."""


class Budget:
    """Counts octets."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._uploads: dict[Waiter, None] = {}  # in the order of their beginning
        self._starved: set[Waiter] = set()
        self.used = 0

    def begin(self, upload: Waiter) -> None:
        """An upload begins."""
        self._uploads[upload] = None
        if self.used > self._most and len(self._uploads) > 1:
            self._starve(upload)

    def take(self, octets: int) -> None:
        """So many octets of an upload came in."""
        self.used += octets
        if self.used > self._most >= self.used - octets:
            for upload in list(self._uploads)[1:]:
                self._starve(upload)

    def end(self, upload: Waiter) -> None:
        """An upload is complete, or was broken off; its octets still count."""
        del self._uploads[upload]
        self._starved.discard(upload)
        if self._starved:
            self._relieve()

    def give_back(self, octets: int) -> None:
        """So many octets are needed no more."""
        self.used -= octets
        if self._starved:
            self._relieve()

    def _starve(self, upload: Waiter) -> None:
        self._starved.add(upload)
        upload.starve()

    def _relieve(self) -> None:
        """Let the oldest go on, and after it as many as there is room for, should each of them read all it can at once."""
        room = self._most - self.used
        for upload in list(self._uploads):
            if upload in self._starved:
                self._starved.discard(upload)
                upload.relieve()
            room -= READ
            if room <= 0:
                break
