"""The memory for messages under way, over all connections of a worker.

Promises:
- A message's octets count from their first to its reply. Once they are more than the budget, nothing more is read of any upload, unless
  all of it is held by uploads: then the oldest goes on, or none could ever end. So the budget is exceeded by one message, and by what had
  been read from the sockets already.
- What one owner has on its way, however slow its smarthost, is at most half of it, or one message: the rest is for the others.
- Memory always comes back: messages end, and an upload that waits too long, between its chunks too, gives its own up and is told 452.
"""

from __future__ import annotations

from typing import Protocol

READ = 1 << 18
"""Octets that a socket may give at once."""
SMALL = 4096
"""Octets of a message that is not counted for its owner: connections bound those."""


class Waiter(Protocol):
    """A connection whose upload may have to wait."""

    @property
    def account(self) -> str:
        """Whose memory it is; "" for nobody's."""

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
        self._kept_by: dict[str, int] = {}
        self._kept = 0  # of those not being read: they come back by themselves, so nobody need go beyond the budget

    def begin(self, upload: Waiter) -> None:
        """An upload begins."""
        self._uploads[upload] = None
        if self.used > self._most and (len(self._uploads) > 1 or self._kept):
            self._starve(upload)

    def take(self, octets: int) -> None:
        """So many octets of an upload came in."""
        self.used += octets
        if self.used > self._most >= self.used - octets:
            for upload in list(self._uploads)[0 if self._kept else 1 :]:
                self._starve(upload)

    def end(self, upload: Waiter, held: int = 0, octets: int = 0) -> bool:
        """An upload is complete, or was broken off; what it holds still counts, and of it `octets` come only now.

        False: its owner has too many, and is to give these back.
        """
        if self.used + octets > self._most:
            self.take(octets)
        else:
            self.used += octets
        del self._uploads[upload]
        self._kept += held
        if self._starved:
            self._starved.discard(upload)
            self._relieve()
        return held <= SMALL or self._count(upload.account, held)

    def _count(self, account: str, octets: int) -> bool:
        before = self._kept_by.get(account, 0)
        self._kept_by[account] = before + octets
        return not before or before + octets <= self._most // 2

    def give_back(self, upload: Waiter, octets: int) -> None:
        """So many octets are needed no more."""
        self.used -= octets
        if upload not in self._uploads:
            self._kept -= octets
            if octets > SMALL:
                left = self._kept_by[upload.account] = self._kept_by[upload.account] - octets
                if not left:
                    del self._kept_by[upload.account]
        if self._starved:
            self._relieve()

    def _starve(self, upload: Waiter) -> None:
        self._starved.add(upload)
        upload.starve()

    def _relieve(self) -> None:
        """Let the oldest go on, and after it as many as there is room for, should each of them read all it can at once."""
        room = self._most - self.used
        if room < 0 and self._kept:
            return
        for place, upload in enumerate(list(self._uploads)):
            if room <= 0 and place:
                break
            if upload in self._starved:
                self._starved.discard(upload)
                upload.relieve()
                room -= READ
