"""Presence: how many connections a user has at all workers and nodes together, and that they are no more than a limit.

Promises:
- Never more than the limit have been let in and not left, however many workers ask at the same moment: each worker says in one script
  how many it has and how many more it wants, and hears how many fit. (A node cut off from the store for longer than its lease keeps
  the connections it has; meanwhile others may be let in in their place.)
- Nobody is refused while fewer are: a refusal is asked for twice, and what a worker keeps back in between is given back.
- A worker says how many it has, never one less: what was lost or said twice is put right by what it says next, at the latest a third
  of a lease later.
- The connections of a worker that was killed count until its lease has ended. A user without connections takes no memory.

An application that makes a connection for each message would have the store told twice of each. So while all workers together have no
more than half of what a user may have, a place that somebody leaves is kept for LINGER seconds, for who comes next: nobody then needs it
elsewhere. As soon as a worker hears that it is more than half, it keeps none; and it hears that whenever it gives one back.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from relay.accounts.user import user_key
from relay.store.client import Script, Store, StoreRefused, StoreUnavailable

LEASE = 60.0
"""Seconds for which what a worker said of its connections holds."""
LINGER = 0.2
"""Seconds for which a place that was left is kept."""
BATCH = 100
"""Users of whom a worker speaks at a time when it renews its leases."""

_SAY = Script.load("relay.accounts", "presence.lua")


class _Said(NamedTuple):
    """What the store was told last of a user, and what it answered."""

    places: int
    """The connections it believes are here."""
    others: int
    """Those of the other workers."""
    ends: float
    """Until when this worker's may be relied on: well before its lease ends; the loop's time."""


class Presence:
    """One worker's connections by user, and the limit over all workers; without a limit the store hears nothing."""

    def __init__(self, store: Store, incarnation: str, limit: int, lease: float = LEASE) -> None:
        """`incarnation` is this worker's alone, `limit` 0 is none, `lease` is in seconds."""
        self._store = store
        self._incarnation = incarnation
        self._limit = limit
        self._lease = lease
        self._serial = 0
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, list[asyncio.Future[bool]]] = {}
        self._untold: set[str] = set()
        """Users of whom the store may believe something else."""
        self._said: dict[str, _Said] = {}
        """Of users of whom nothing else is being said just now."""
        self._left: set[str] = set()
        """Users of whom the store may believe in more connections than there are, for a moment."""
        self._giving_back: asyncio.TimerHandle | None = None
        self._renewals: dict[str, list[asyncio.Future[bool]]] = {}
        self._talks: dict[str, asyncio.Task[None]] = {}
        """One at a time for each user, so that each begins where the one before has ended."""

    async def enter(self, user: str) -> bool:
        """Whether one more connection of a user fits; it counts until `leave`. Raises StoreUnavailable."""
        if not self._limit:
            return True
        said = None if user in self._untold else self._said.get(user)
        if said is not None and self._held[user] < said.places and asyncio.get_running_loop().time() < said.ends:
            self._held[user] += 1
            return True
        if await self._ask(user):
            return True
        if self._limit < 2:  # then nobody keeps a place
            return False
        await asyncio.sleep(1.5 * LINGER)
        return await self._ask(user)

    async def _ask(self, user: str) -> bool:
        place: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, []).append(place)
        self._talk(user)
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None and place.result():
                self.leave(user)  # it was let in just now
            raise

    def leave(self, user: str) -> None:
        """A connection that was let in has ended; the store hears of it soon."""
        if self._held[user]:
            self._held[user] -= 1
            if not self._held[user]:
                del self._held[user]
            if not self._keep(user):
                self._untold.add(user)
                self._talk(user)

    def _keep(self, user: str) -> bool:
        """Keep the place that was left, if there are enough; whether it is kept."""
        said = self._said.get(user)
        if said is None or 2 * (said.places + said.others) > self._limit:
            return False
        self._left.add(user)
        if self._giving_back is None:
            self._giving_back = asyncio.get_running_loop().call_later(LINGER, self._give_back)
        return True

    def _give_back(self) -> None:
        self._giving_back = None
        left, self._left = self._left, set()
        for user in left:
            self._untold.add(user)
            self._talk(user)

    async def run(self) -> None:
        """Renew what this worker has said, until cancelled."""
        loop, pause = asyncio.get_running_loop(), self._lease / 3
        while True:
            await asyncio.sleep(pause)
            began, pause = loop.time(), self._lease / 3
            users = [*self._held, *self._untold - self._held.keys()]
            for start in range(0, len(users), BATCH):
                if not await self._tell(users[start : start + BATCH]):
                    pause = self._lease / 30  # the store is away; soon again, for what was said before runs out
                    break
            pause = max(self._lease / 30, pause - (loop.time() - began))

    async def close(self) -> None:
        """Say that nothing is left."""
        if self._giving_back is not None:
            self._giving_back.cancel()
        left = self._held.keys() | self._untold | self._left
        self._held.clear()
        await self._tell(left)

    # -- what the store hears ------------------------------------------------------------------------------------------------

    async def _tell(self, users: Iterable[str]) -> bool:
        """Say once more how many these have; whether the store heard it of all. What else is said of them meanwhile is not waited for."""
        heard = []
        for user in users:
            heard.append(asyncio.get_running_loop().create_future())
            self._renewals.setdefault(user, []).append(heard[-1])
            self._untold.add(user)
            self._talk(user)
        return all(await asyncio.gather(*heard))

    def _talk(self, user: str) -> None:
        if user not in self._talks:
            self._talks[user] = asyncio.get_running_loop().create_task(self._talk_of(user))

    async def _talk_of(self, user: str) -> None:
        """Talk with the store about a user until there is nothing more to say."""
        is_heard = False
        try:
            while (places := self._waiting.pop(user, [])) or user in self._untold:
                self._untold.discard(user)
                renewals = self._renewals.pop(user, [])
                if is_heard and not places and not renewals and self._keep(user):  # who left meanwhile
                    break
                is_heard = False
                try:
                    self._give(user, places, await self._say(user, len(places)))
                    is_heard = True
                except (StoreUnavailable, StoreRefused) as error:
                    self._untold.add(user)  # `run` says it again
                    for place in places:
                        if not place.done():
                            place.set_exception(type(error)(str(error)))
                    if user not in self._waiting and user not in self._renewals:
                        break
                finally:
                    for renewal in renewals:
                        if not renewal.done():
                            renewal.set_result(is_heard)
        finally:
            del self._talks[user]

    def _give(self, user: str, places: Iterable[asyncio.Future[bool]], let_in: int) -> None:
        """Let in the first of those who wait."""
        for place in places:
            if not place.done():  # else it was given up
                place.set_result(let_in > 0)
                if let_in > 0:
                    let_in -= 1
                    self._held[user] += 1
        if let_in:
            self._untold.add(user)

    async def _say(self, user: str, wanted: int) -> int:
        """Say how many connections a user has here, and hear how many of those wanted are let in."""
        self._said.pop(user, None)  # while the store may believe either, no place is given without it
        ends = asyncio.get_running_loop().time() + self._lease / 2
        let_in = -1
        while let_in < 0:  # something newer was said before; or the store remembers it from before it came back
            self._serial = max(self._serial, -let_in) + 1
            held = self._held[user]
            numbers = (self._serial, held, wanted, self._limit, int(self._lease * 1000))
            let_in, others = await self._store.run(_SAY, f"{user_key(user)}:sessions", self._incarnation, *numbers)
        if held + let_in:
            self._said[user] = _Said(held + let_in, others, ends)
        return let_in
