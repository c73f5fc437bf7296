"""Lanes: what goes by one route, and how the sessions there are shared out among all of them.

Promises:
- A lane whose smarthosts are away, or that has none, takes no session and no place from the others; nothing lies claimed in it.
- A lane uses no more sessions than its ramp and its smarthosts' caps allow, and none takes all: there is one for a lane that has none.
- One is the relay's own route's, however many owners name smarthosts that never answer.
- Within a lane the piles of all owners get the same.

Looks at no clock but the dispatch's. Claiming, and what an attempt does, are the runner's.
"""

from __future__ import annotations

import math
import random
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from relay.retry.schedule import Ramp
from relay.spool.entry import Entry
from relay.spool.pile import Pile
from relay.upstream.dispatch import Dispatch
from relay.upstream.route import Route

GREED = 4
"""A lane that has sessions may take another while it has fewer than so many for each that would still be free: of ten, one lane alone
takes eight; and who comes then finds one, even if no message of theirs ever ends."""


@dataclass(slots=True)
class Lane:
    """One route's."""

    route: Route
    """As it was last heard of."""
    ramp: Ramp
    ready: deque[Entry] = field(default_factory=deque)
    """Claimed, and not begun."""
    busy: int = 0
    """Attempts under way."""


class Lanes:
    """All lanes of a process."""

    def __init__(self, own: Route, dispatch: Dispatch, sessions: int) -> None:
        """`own` is the relay's own route, `sessions` the most attempts at a time."""
        self._dispatch = dispatch
        self._sessions = sessions
        self._lanes = {own.id: Lane(own, Ramp(_most(own, sessions)))}
        self._own = own.id
        self._waiting: dict[str, Lane] = {}
        """Those that have something ready."""
        self._busy = 0

    def of(self, id: str) -> Lane | None:
        """A route's lane, if it was heard of."""
        return self._lanes.get(id)

    def learn(self, route: Route) -> None:
        """Hear how a route is now; one that was changed is met anew by one session."""
        lane = self._lanes.get(route.id)
        if lane is None or lane.route != route:
            ramp = Ramp(_most(route, self._sessions))
            if lane is None:
                self._lanes[route.id] = Lane(route, ramp)
            else:
                lane.route, lane.ramp = route, ramp

    def is_blocked(self, id: str) -> bool:
        """Whether nothing can go there now."""
        lane = self._lanes.get(id)
        if lane is None:
            return False  # asking finds out
        return not lane.route.choices or self._dispatch.down_until(lane.route) > time.monotonic()

    def forget(self, used: Iterable[str]) -> None:
        """Forget the lanes that nothing is on its way in, but for these."""
        used = {self._own, *used}
        self._lanes = {id: lane for id, lane in self._lanes.items() if id in used or lane.busy or lane.ready}

    # -- claiming ------------------------------------------------------------------------------------------------------------

    def wanted(self, piles: Sequence[Pile]) -> dict[Pile, int]:
        """How many entries are to be claimed of these piles, in which some are due."""
        by_lane = defaultdict[str, list[Pile]](list)
        for pile in piles:
            by_lane[pile.route].append(pile)
        rooms = self._rooms([id for id in by_lane if not self.is_blocked(id)])
        return {pile: count for id, room in rooms.items() for pile, count in _shares(by_lane[id], room).items()}

    def _rooms(self, ids: list[str]) -> dict[str, int]:
        """How many entries each of these lanes may claim: those under way as many as will soon be begun, the others what is free."""
        rooms = {}
        at_rest = [id for id in ids if (lane := self._lanes.get(id)) is None or not (lane.busy or lane.ready)]
        free = self._free() - sum(len(lane.ready) for lane in self._waiting.values() if not lane.busy)
        share = max(1, free // max(1, len(at_rest)))
        random.shuffle(at_rest)
        if self._own in at_rest:
            at_rest.remove(self._own)
            rooms[self._own] = min(share + 1, self._lanes[self._own].ramp.width)  # the one that is kept for it, too
            free -= rooms[self._own] - 1
        for id in at_rest:
            lane = self._lanes.get(id)
            rooms[id] = max(0, min(share, free, lane.ramp.width if lane is not None else 1))
            free -= rooms[id]
        for id in set(ids) - rooms.keys():
            lane = self._lanes[id]
            ahead = min(lane.ramp.width, lane.busy + 1)
            # Some at a time: each claim is a commit.
            rooms[id] = ahead - len(lane.ready) if 2 * len(lane.ready) <= ahead else 0
        return rooms

    def add(self, entry: Entry) -> None:
        """Have a claimed entry ready."""
        lane = self._lanes[entry.route]
        lane.ready.append(entry)
        self._waiting[entry.route] = lane

    # -- attempts ------------------------------------------------------------------------------------------------------------

    def begin(self) -> Iterator[tuple[Lane, Entry]]:
        """Yield what is to be begun now, the lanes with the fewest sessions first; each counts until `end`."""
        while True:
            able = [lane for lane in self._waiting.values() if lane.busy < lane.ramp.width and self._may_take(lane)]
            if not able:
                return
            lane = min(able, key=lambda one: one.busy)
            entry = lane.ready.popleft()
            if not lane.ready:
                del self._waiting[lane.route.id]
            lane.busy += 1
            self._busy += 1
            yield lane, entry

    def _free(self) -> int:
        """How many sessions an owner's lane may think of."""
        is_kept = self._sessions > 1 and not self._lanes[self._own].busy
        return self._sessions - self._busy - is_kept

    def _may_take(self, lane: Lane) -> bool:
        free = self._sessions - self._busy if lane.route.id == self._own else self._free()
        return free > 0 and (lane.busy == 0 or lane.busy < GREED * (free - 1))

    def end(self, lane: Lane) -> None:
        """Have an attempt over."""
        lane.busy -= 1
        self._busy -= 1

    def empty(self, lane: Lane) -> list[Entry]:
        """Take out what is ready."""
        entries = list(lane.ready)
        lane.ready.clear()
        self._waiting.pop(lane.route.id, None)
        return entries

    def empty_all(self) -> list[Entry]:
        """Take out all that is ready."""
        return [entry for lane in list(self._waiting.values()) for entry in self.empty(lane)]


def _most(route: Route, sessions: int) -> int:
    """The most sessions that are of use with a route's smarthosts."""
    targets = [choice.target for choice in route.choices]
    most = min(sessions, sum(target.max_connections for target in targets))
    if all(target.max_rate > 0 for target in targets):
        most = min(most, math.ceil(sum(target.max_rate for target in targets)))
    return max(1, most)


def _shares(piles: list[Pile], room: int) -> dict[Pile, int]:
    """The same for each pile, what is left over for some."""
    if room < len(piles):
        piles = random.sample(piles, room)
    each, left = divmod(room, max(1, len(piles)))
    return {pile: each + (number < left) for number, pile in enumerate(piles)}
