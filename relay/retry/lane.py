"""Lanes: what goes by one route, and how the sessions there are shared out, first among the owners, then among the routes of each.

Promises:
- A lane whose smarthosts are away, or that has none, takes no session and no place from the others; nothing lies claimed in it. So does
  one of which an error keeps from knowing; that is told once, until it is known again.
- A lane uses no more sessions than its ramp and its smarthosts' caps allow.
- No owner takes all, by however many routes: the last that is free is for an owner who has none; who has fewest comes first. The relay's
  own route, which is everybody's, counts as one more owner.
- An owner's lane takes not all of the owner's: the last is for another of the owner's that has none.
- One is the relay's own route's, however many owners name smarthosts that never answer.
- Where there are more owners than sessions, they take turns.
- Within a lane the piles of all owners get the same.

Looks at no clock but the dispatch's. Claiming, and what an attempt does, are the runner's.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from relay.retry.schedule import Ramp
from relay.spool.entry import Entry
from relay.spool.pile import Pile
from relay.upstream.dispatch import Dispatch
from relay.upstream.route import Route

GREED = 4
"""An owner who has sessions may take another while they are fewer than so many for each that would still be free: of ten, the relay's own
route alone takes eight; and who comes then finds one, even if no message of theirs ever ends."""


@dataclass(slots=True)
class Lane:
    """One route's."""

    route: Route
    """As it was last heard of."""
    ramp: Ramp
    owner: str = ""
    """Whose it is; "" for the relay's own, which all share."""
    ready: deque[Entry] = field(default_factory=deque)
    """Claimed, and not begun."""
    busy: int = 0
    """Attempts under way."""
    is_faulty: bool = False
    """Whether an error kept from knowing how its smarthosts are."""


class Lanes:
    """All lanes of a process."""

    def __init__(
        self, own: Route, dispatch: Dispatch, sessions: int, on_bug: Callable[[Lane, Exception], None] = lambda lane, error: None
    ) -> None:  # fmt: skip
        """`own` is the relay's own route, `sessions` the most attempts at a time; `on_bug` hears what nothing expected of a lane."""
        self._dispatch = dispatch
        self._on_bug = on_bug
        self._sessions = sessions
        self._lanes = {own.id: Lane(own, Ramp(_most(own, sessions)))}
        self._own = own.id
        self._waiting: dict[str, Lane] = {}
        """Those that have something ready; first who has waited longest since it began something."""
        self._busy = 0
        self._busy_of = Counter[str]()
        """Sessions of each owner."""
        self._idle_of = Counter[str]()
        """Lanes of each owner that have no session."""

    def of(self, id: str) -> Lane | None:
        """A route's lane, if it was heard of."""
        return self._lanes.get(id)

    def learn(self, route: Route, owner: str) -> None:
        """Hear how an owner's route is now; one that was changed is met anew by one session."""
        lane = self._lanes.get(route.id)
        if lane is None or lane.route != route:
            ramp = Ramp(_most(route, self._sessions))
            if lane is None:
                self._lanes[route.id] = Lane(route, ramp, owner)
                self._idle_of[owner] += 1
            else:
                lane.route, lane.ramp = route, ramp

    def is_blocked(self, id: str) -> bool:
        """Whether nothing can go there now."""
        lane = self._lanes.get(id)
        if lane is None:
            return False  # asking finds out
        return not lane.route.choices or self._is_away(lane)

    def _is_away(self, lane: Lane) -> bool:
        try:
            is_away = self._dispatch.down_until(lane.route) > time.monotonic()
        except Exception as error:
            self._note_bug(lane, error)
            return True
        lane.is_faulty = False
        return is_away

    def hurry(self, id: str) -> None:
        """Have those of its smarthosts that are down tried with the next message, each by one."""
        lane = self._lanes.get(id)
        if lane is None:
            return  # nobody was asked, so nobody is known to be down
        try:
            self._dispatch.hurry(lane.route)
        except Exception as error:
            self._note_bug(lane, error)

    def _note_bug(self, lane: Lane, error: Exception) -> None:
        if not lane.is_faulty:
            lane.is_faulty = True
            self._on_bug(lane, error)

    def forget(self, used: Iterable[str]) -> None:
        """Forget the lanes that nothing is on its way in, but for these."""
        used = {self._own, *used}
        self._lanes = {id: lane for id, lane in self._lanes.items() if id in used or lane.busy or lane.ready}
        self._idle_of = Counter(lane.owner for lane in self._lanes.values() if not lane.busy)

    # -- claiming ------------------------------------------------------------------------------------------------------------

    def wanted(self, piles: Sequence[Pile]) -> dict[Pile, int]:
        """How many entries are to be claimed of these piles, in which some are due."""
        by_lane = defaultdict[str, list[Pile]](list)
        for pile in piles:
            by_lane[pile.route].append(pile)
        rooms = self._rooms({id: some[0].owner for id, some in by_lane.items() if not self.is_blocked(id)})
        return {pile: count for id, room in rooms.items() for pile, count in _shares(by_lane[id], room).items()}

    def _rooms(self, owners: dict[str, str]) -> dict[str, int]:
        """How many entries each of these lanes may claim: those under way as many as will soon be begun, the others what is free."""
        at_rest = defaultdict[str, list[str]](list)
        under_way = []
        for id, owner in owners.items():
            if (lane := self._lanes.get(id)) is None or not (lane.busy or lane.ready):
                at_rest["" if id == self._own else owner].append(id)
            else:
                under_way.append(lane)
        rooms = self._rooms_at_rest(at_rest)
        if any(not self._busy_of[owner] and not any(rooms[id] for id in ids) for owner, ids in at_rest.items()):
            return rooms  # what ends now makes room for an owner who has none
        for lane in under_way:
            ahead = min(lane.ramp.width, lane.busy + 1)
            # Some at a time: each claim is a commit.
            rooms[lane.route.id] = ahead - len(lane.ready) if 2 * len(lane.ready) <= ahead else 0
        return rooms

    def _rooms_at_rest(self, at_rest: dict[str, list[str]]) -> dict[str, int]:
        """The same for lanes in which there is nothing yet, by owner; those who have fewest sessions come first."""
        rooms = {}
        free, ready = self._free(), Counter[str]()
        for lane in self._waiting.values():
            if not lane.busy:
                ready[lane.owner] += len(lane.ready)
        owners = sorted(random.sample(list(at_rest), len(at_rest)), key=lambda owner: (owner != "", self._busy_of[owner]))
        for number, owner in enumerate(owners):
            # What is ready of those who have more is begun later.
            left = free - sum(count for one, count in ready.items() if self._busy_of[one] <= self._busy_of[owner])
            share = max(1, left // (len(owners) - number))
            if owner == "":
                rooms[self._own] = min(share + 1, self._lanes[self._own].ramp.width)  # the one that is kept for it, too
                free -= rooms[self._own] - 1
                continue
            mine = min(share, self._room(owner, left))
            each = max(1, mine // len(at_rest[owner]))
            for id in random.sample(at_rest[owner], len(at_rest[owner])):
                rooms[id] = max(0, min(each, mine, known.ramp.width if (known := self._lanes.get(id)) is not None else 1))
                mine -= rooms[id]
                free -= rooms[id]
        return rooms

    def add(self, entry: Entry) -> bool:
        """Have a claimed entry ready; False: its lane is not known."""
        lane = self._lanes.get(entry.route)
        if lane is None:
            return False
        lane.ready.append(entry)
        self._waiting[entry.route] = lane
        return True

    # -- attempts ------------------------------------------------------------------------------------------------------------

    def begin(self) -> Iterator[tuple[Lane, Entry]]:
        """Yield what is to be begun now, the owners with the fewest sessions first, then the lanes; each counts until `end`."""
        while True:
            able = [lane for lane in self._waiting.values() if lane.busy < lane.ramp.width and self._may_take(lane)]
            if not able:
                return
            lane = min(able, key=lambda one: (self._busy_of[one.owner], one.busy))
            entry = lane.ready.popleft()
            del self._waiting[lane.route.id]
            if lane.ready:
                self._waiting[lane.route.id] = lane
            self._count(lane, 1)
            yield lane, entry

    def _free(self) -> int:
        """How many sessions an owner may think of."""
        is_kept = self._sessions > 1 and not self._lanes[self._own].busy
        return self._sessions - self._busy - is_kept

    def _may_take(self, lane: Lane) -> bool:
        free = self._sessions - self._busy if lane.route.id == self._own else self._free()
        is_kept = lane.busy > 0 and self._idle_of[lane.owner] > 0  # one, for another of the owner's
        return self._room(lane.owner, free) > is_kept

    def _room(self, owner: str, free: int) -> int:
        """How many more of so many free sessions an owner may take, one after the other."""
        if free <= 0:
            return 0
        busy = self._busy_of[owner]
        return max(0 if busy else 1, math.ceil((GREED * (free - 1) - busy) / (GREED + 1)))

    def end(self, lane: Lane) -> None:
        """Have an attempt over."""
        self._count(lane, -1)

    def _count(self, lane: Lane, change: int) -> None:
        was_idle = not lane.busy
        lane.busy += change
        self._busy += change
        self._busy_of[lane.owner] += change
        self._idle_of[lane.owner] += (not lane.busy) - was_idle
        if not self._busy_of[lane.owner]:
            del self._busy_of[lane.owner]

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
