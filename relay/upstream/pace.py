"""The pace of a smarthost that takes so many messages a second: each message has an instant of its own, over all who share a store.

Promises:
- No two instants are closer than one interval, however many processes and nodes send to the smarthost: they are given out by the store
  (GCRA without a burst), by its clock. An instant that its message cannot use is lost, never used twice.
- Users take turns, as for sessions. One message of a process asks the store at a time, and no instant is given to one that could not
  wait for it.
- Without the store this process goes on alone, so slowly that several of its kind stay below the rate together.
"""

from __future__ import annotations

import asyncio
import hashlib

from relay.store.client import Script, Store, StoreRefused, StoreUnavailable
from relay.upstream.route import Target
from relay.upstream.slots import Slots

AHEAD = 0.02
"""Seconds before an instant at which the next message may ask for its own: what timers and the store take is not lost to the rate."""

ALONE = 10
"""How many times longer the interval is while the store is away: nobody knows how many others send meanwhile."""

AWAY = 1.0
"""Seconds after which a store that did not answer is asked again."""

LONGEST = 3600.0
"""Seconds that an instant is ahead at most, whoever asks; pace.lua relies on it."""

_PACE = Script.load("relay.upstream", "pace.lua")


class OverRate(Exception):
    """The message's instant would come too late for it."""


class Pace:
    """The instants of one smarthost."""

    def __init__(self, target: Target, store: Store | None, scope: str = "") -> None:
        """`scope` keeps the instants of one apart from those of others who send to the same smarthost."""
        self._key = _key(target, scope)
        self._interval = 1 / target.max_rate
        self._store = store
        self._line = Slots(1)
        self._last = 0.0  # our last instant, and when the store is asked again; the loop's time
        self._away_until = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether a message waits for its instant."""
        return not self._line.free

    async def admit(self, slots: Slots, user: str, until: float) -> bool:
        """Wait for a place and then for an instant; the place is held on return. False: sent away without.

        Raises OverRate where the instant would come after `until`, the loop's time.
        """
        # Place before instant, and both in one line: what had its instant and waited for a place would go out in bursts.
        if not self._line.take_now() and not await self._line.wait(user):
            return False
        try:
            if not slots.take_now() and not await slots.wait(user):
                return False
            try:
                wait = await self._ask(until)
                if wait > AHEAD:
                    await asyncio.sleep(wait - AHEAD)
            except BaseException:
                slots.give_back()
                raise
        finally:
            self._line.give_back()
        if wait > 0:
            try:
                await asyncio.sleep(min(wait, AHEAD))
            except BaseException:
                slots.give_back()
                raise
        return True

    def send_away(self) -> None:
        """Let nobody wait any longer for a turn to ask."""
        self._line.send_away()

    async def _ask(self, until: float) -> float:
        """The seconds until our own instant; raises OverRate."""
        loop = asyncio.get_running_loop()
        if self._store is None:
            return self._go_alone(self._interval, loop.time(), until)
        if loop.time() >= self._away_until:
            longest = min(max(until - loop.time(), 0.0), LONGEST)
            try:
                micros = int(await self._store.run(_PACE, self._key, round(self._interval * 1e6), int(longest * 1e6)))
            except (StoreUnavailable, StoreRefused):
                self._away_until = loop.time() + AWAY
            else:
                if micros < 0:
                    raise OverRate
                self._last = max(self._last, loop.time() + micros / 1e6)
                return micros / 1e6
        return self._go_alone(self._interval * ALONE, loop.time(), until)

    def _go_alone(self, interval: float, now: float, until: float) -> float:
        instant = max(self._last + interval, now) if self._last else now
        if instant > until:
            raise OverRate
        self._last = instant
        return instant - now


def _key(target: Target, scope: str) -> str:
    """The key of a smarthost; no secret is in it."""
    words = "\n".join((scope, target.host.lower(), str(target.port), target.username))
    return f"{{p:{hashlib.sha256(words.encode()).hexdigest()[:32]}}}"
