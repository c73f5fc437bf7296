"""The right to have a session: so many at a time, first come first served, and all who wait can be sent away at once."""

from __future__ import annotations

import asyncio
from collections import deque


class Slots:
    """Places, each held by one at a time."""

    def __init__(self, count: int) -> None:
        self.free = count
        self._waiting: deque[asyncio.Future[bool]] = deque()

    def take_now(self) -> bool:
        """Take one if nobody need wait."""
        if self.free:  # given on to those who wait before it becomes free
            self.free -= 1
            return True
        return False

    async def wait(self) -> bool:
        """Wait for one; False: sent away without."""
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.give_back()
            raise

    def give_back(self) -> None:
        """Pass it on to who has waited longest, or leave it free."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(True)
                return
        self.free += 1

    def send_away(self) -> None:
        """Let nobody wait any longer."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(False)
