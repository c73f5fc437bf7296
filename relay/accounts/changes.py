"""What has changed in accounts since: how a worker hears that a transaction it is carrying must be checked anew.

Promise: fail closed. Whoever asks whether a user has changed since a mark is told yes when this process may have missed it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from relay.store.client import Store, StoreRefused, StoreUnavailable

REMEMBERED = 10_000
"""Changed users remembered; for those forgotten the answer is yes."""


class Changes:
    """Listens for changes on one channel."""

    def __init__(self, store: Store, channel: str, on_change: Callable[[str], None]) -> None:
        """`on_change(user)` is called as each change is heard."""
        self._store = store
        self._channel = channel
        self._on_change = on_change
        self._sequence = 0
        self._known_since = 1  # marks below this one may have missed something
        self._is_listening = False
        self._last: OrderedDict[str, int] = OrderedDict()

    def mark(self) -> int:
        """The present, to compare with later."""
        return self._sequence

    def since(self, user: str, mark: int) -> bool:
        """Whether the user has changed since the mark, or may have."""
        return not self._is_listening or mark < self._known_since or self._last.get(user, 0) > mark

    async def run(self) -> None:
        """Listen until cancelled, through outages of the store."""
        while True:
            try:
                async for user in self._store.subscribe(self._channel):
                    self._sequence += 1
                    if user is None:
                        self._known_since = self._sequence
                        self._is_listening = True
                    else:
                        self._remember(user)
                        self._on_change(user)
            except (StoreUnavailable, StoreRefused):
                pass
            finally:  # whatever ends it
                self._is_listening = False
            await asyncio.sleep(0.1)

    def _remember(self, user: str) -> None:
        self._last.pop(user, None)
        self._last[user] = self._sequence
        if len(self._last) > REMEMBERED:
            _, forgotten = self._last.popitem(last=False)
            self._known_since = max(self._known_since, forgotten + 1)
