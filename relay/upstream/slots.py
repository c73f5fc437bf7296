"""The right to have a session: so many at a time, users in turn, and all who wait can be sent away at once.

Promises: who finds one free has it at once. Those who wait are served user by user in turn, and each user's in their order: however
many of one user's wait, another's first waits for one of them at most.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque

Turn = asyncio.Future[bool]


class Slots:
    """Places, each held by one at a time."""

    def __init__(self, count: int) -> None:
        self.free = count
        self._waiting: OrderedDict[str, deque[Turn]] = OrderedDict()
        """Users in the order of their turns; each has somebody in line, who may have given up since."""

    def take_now(self) -> bool:
        """Take one if nobody need wait."""
        if self.free:  # given on to those who wait before it becomes free
            self.free -= 1
            return True
        return False

    async def wait(self, user: str = "") -> bool:
        """Wait for one in this user's line; False: sent away without."""
        turn: Turn = asyncio.get_running_loop().create_future()
        line = self._waiting.get(user)
        if line is None:
            line = self._waiting[user] = deque()
        line.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.give_back()
            raise

    def give_back(self) -> None:
        """Pass it on to the first in line of the user whose turn it is, or leave it free."""
        while self._waiting:
            user, line = self._waiting.popitem(last=False)
            turn = _first(line)
            if line:
                self._waiting[user] = line
            if turn is not None:
                turn.set_result(True)
                return
        self.free += 1

    def send_away(self) -> None:
        """Let nobody wait any longer."""
        waiting, self._waiting = self._waiting, OrderedDict()
        for line in waiting.values():
            while (turn := _first(line)) is not None:
                turn.set_result(False)


def _first(line: deque[Turn]) -> Turn | None:
    """Take the first who still waits out of a line; None if they all gave up."""
    while line:
        turn = line.popleft()
        if not turn.done():
            return turn
    return None
