"""The dispatch: which smarthost of a route takes a message, over the pools of all that this process sends to.

Promises:
- Of a route's smarthosts the one with the lowest priority comes first, among equals by weight, but none that is busy while an equal is
  not. Half of its time a message waits for the first, before it goes to one of the next priority: to be busy, or to send as fast as it
  may, is no fault, and the next may be another kind of smarthost altogether.
- The next is asked only while nothing was said of the message, its caller was not asked and none of its content was sent: where no
  session could be had, or not within the part of the time that another can follow. So it is sent to one smarthost at most.
- While others of a route are up, one that is down is tried by a connection of its own, and no message waits to see it come back.
- What is equal shares its sessions. What nobody uses for a while is forgotten, but not while a message is under way on its route; what a
  changed setting has left behind ends what it has.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from relay.mail.envelope import Envelope
from relay.mail.reply import Reply
from relay.mail.verdict import Deferred
from relay.store.client import Store
from relay.upstream.guard import Guard
from relay.upstream.pace import Pace
from relay.upstream.pool import Pool
from relay.upstream.route import Choice, Route, Target
from relay.upstream.smarthost import Message
from relay.upstream.terms import Attempt, Terms, Window
from relay.upstream.trust import Contexts

LEAST = 1.0
"""Seconds that a smarthost is given before the next is asked, if there are so many; else half of what is left of the caller's wait."""

TOO_LATE = 0.01
"""Seconds that are not worth another attempt."""

REST = 120.0
"""Seconds after which what was not used is forgotten: longer than any smarthost that is down is left alone."""

_NOWHERE = Deferred(Reply(451, "3.5", "Relay misconfigured: no smarthost is set"), ours=True, unreached=True)


@dataclass(frozen=True, slots=True, eq=False)
class _Way:
    """A smarthost of a route."""

    pool: Pool
    weight: int


@dataclass(slots=True)
class _Plan:
    """A route's smarthosts, made ready."""

    choices: tuple[Choice, ...]
    """Kept, so that nothing else can have its identity."""
    groups: tuple[tuple[_Way, ...], ...]
    """By priority."""
    sole: Pool | None
    """The only one."""
    is_used: bool = True
    """Since it was last looked at."""
    under_way: int = 0
    """Messages that are offered to its smarthosts, and may come to any of them yet."""


class Dispatch:
    """Pools of every smarthost that is in use, and the choice among those of a route."""

    def __init__(
        self, hostname: str, guard: Guard, store: Store | None = None, share: Callable[[Target], Target] = lambda target: target,
        on_event: Callable[[str, str, str], None] = lambda name, host, text: None, dice: Random | None = None, rest: float = REST,
    ) -> None:  # fmt: skip
        """`share(target)` has this process's part of its caps; `on_event(name, host, text)` hears once of each smarthost_down and _up."""
        self._hostname = hostname
        self._guard = guard
        self._store = store
        self._share = share
        self._on_event = on_event
        self._dice = dice or Random()  # noqa: S311 - it spreads load
        self._rest = rest
        self._contexts = Contexts()
        self._plans: dict[tuple[int, str], _Plan] = {}
        self._pools: dict[tuple[Target, str], Pool] = {}
        self._down: set[Pool] = set()
        self._probes: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._is_closed = False

    def forward(
        self, route: Route, user: str, envelope: Envelope, message: Message, terms: Terms
    ) -> Coroutine[object, object, Attempt]:  # fmt: skip
        """Offer a message to the smarthosts of a route, in their order, inside the deadline."""
        plan = self._plan(route)
        if plan.sole is not None:  # which is not at rest while it has the message, and so not forgotten
            return plan.sole.forward(envelope, message, terms, user)
        return self._forward(plan, user, envelope, message, terms)

    async def _forward(self, plan: _Plan, user: str, envelope: Envelope, message: Message, terms: Terms) -> Attempt:
        loop = asyncio.get_running_loop()
        until = loop.time() + terms.deadline
        attempt, first = None, None
        plan.under_way += 1
        try:
            if not self._down and plan.groups:  # mostly; then the first draw is all there is to it
                first = self._draw(plan.groups[0])
                attempt = await first.pool.forward(envelope, message, terms, user, _window(terms.deadline))
                if not attempt.is_open:
                    return attempt
            for pool, is_last in self._in_turn(plan, first):
                left = until - loop.time()
                if left < TOO_LATE and attempt is not None:
                    break
                attempt = await pool.forward(envelope, message, terms, user, Window(left, 0.0) if is_last else _window(left))
                if not attempt.is_open:
                    break
        finally:
            plan.under_way -= 1
        return attempt or Attempt(dict.fromkeys(envelope.recipients, _NOWHERE))

    def down_until(self, route: Route) -> float:
        """Until when nobody who needs a new session is served, time.monotonic(); 0.0 where some smarthost is not known to be down."""
        plan = self._plan(route)
        if plan.sole is not None:
            return plan.sole.down_until
        return min((way.pool.down_until for group in plan.groups for way in group), default=0.0)

    def hurry(self, route: Route) -> None:
        """Have each of its smarthosts that is down tried with the next message, by one: somebody wants to know now."""
        for group in self._plan(route).groups:
            for way in group:
                way.pool.hurry()

    # -- the choice ----------------------------------------------------------------------------------------------------------

    def _in_turn(self, plan: _Plan, tried: _Way | None) -> Iterator[tuple[Pool, bool]]:
        """The smarthosts as they are to be asked, and whether no other that may be up comes after; those that are down come last."""
        rest = [way for group in plan.groups for way in group if way is not tried]
        down = [way for way in rest if way.pool.is_down]
        count = len(rest) - len(down)
        if count or (tried and not tried.pool.is_down):
            for way in down:
                self._probe(way.pool)
        for group in plan.groups:
            ways = [way for way in group if way in rest and way not in down]
            while ways:
                way = self._draw(ways)
                ways.remove(way)
                count -= 1
                yield way.pool, count == 0
        # Those that were down may be up by now; else they say so at once, or this message is the probe.
        for number, way in enumerate(down, 1):
            yield way.pool, number == len(down)

    def _draw(self, ways: Sequence[_Way]) -> _Way:
        if len(ways) == 1:
            return ways[0]
        free = [way for way in ways if not way.pool.is_busy] or ways
        mark = self._dice.random() * sum(way.weight for way in free)
        for way in free:
            mark -= way.weight
            if mark < 0:
                return way
        return free[-1]

    def _probe(self, pool: Pool) -> None:
        if pool.down_until <= time.monotonic() and not self._is_closed:
            task = asyncio.get_running_loop().create_task(pool.probe())
            self._probes.add(task)
            task.add_done_callback(self._probes.discard)

    # -- what there is -------------------------------------------------------------------------------------------------------

    def _plan(self, route: Route) -> _Plan:
        """A route's plan: found by the identity of its choices, for to compare twenty fields would cost more than the choice itself."""
        key = id(route.choices), route.id
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._make_plan(route)
        plan.is_used = True
        return plan

    def _make_plan(self, route: Route) -> _Plan:
        by_priority: dict[int, list[_Way]] = {}
        for choice in sorted(route.choices, key=lambda choice: choice.priority):
            by_priority.setdefault(choice.priority, []).append(_Way(self._pool(choice.target, route.id), choice.weight))
        groups = tuple(map(tuple, by_priority.values()))
        if self._sweeper is None and not self._is_closed:
            self._sweeper = asyncio.get_running_loop().call_later(self._rest, self._sweep)
        return _Plan(route.choices, groups, groups[0][0].pool if len(route.choices) == 1 else None)

    def _pool(self, target: Target, id: str) -> Pool:
        # Whoever has the same password is the same customer. Owners who name the same open smarthost, or hold themselves to a rate, must
        # not feel each other.
        scope = id if target.is_guarded and (target.max_rate or not target.password) else ""
        pool = self._pools.get((target, scope))
        if pool is None:
            pace = Pace(target, self._store, scope) if target.max_rate else None
            pool = Pool(self._share(target), self._hostname, self._guard, pace, self._note_change, self._contexts)
            self._pools[target, scope] = pool
        return pool

    def _note_change(self, pool: Pool, is_down: bool, text: str) -> None:
        if is_down:
            self._down.add(pool)
        else:
            self._down.discard(pool)
        self._on_event("smarthost_down" if is_down else "smarthost_up", str(pool.target), text)

    def _sweep(self) -> None:
        """Forget the plans that nobody used since the last time, and the pools that are in no plan and at rest."""
        self._sweeper = None
        for key, plan in tuple(self._plans.items()):
            if not (plan.is_used or plan.under_way):
                del self._plans[key]
            plan.is_used = False
        planned = {id(way.pool) for plan in self._plans.values() for group in plan.groups for way in group}
        for name, pool in tuple(self._pools.items()):
            if id(pool) not in planned and pool.is_at_rest:
                pool.close()
                self._down.discard(pool)
                del self._pools[name]
        self._contexts.keep_only(pool.target for pool in self._pools.values())
        if self._pools:
            self._sweeper = asyncio.get_running_loop().call_later(self._rest, self._sweep)

    async def wind_up(self, timeout: float) -> None:
        """Let the answers that are late come in for so many seconds, then close."""
        await asyncio.gather(*(pool.wind_up(timeout) for pool in tuple(self._pools.values())))
        self.close()

    def close(self) -> None:
        """Close what is idle, cut what is late."""
        self._is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for probe in self._probes:
            probe.cancel()
        for pool in self._pools.values():
            pool.close()


def _window(left: float) -> Window:
    """The time of an attempt that another may follow."""
    share = max(left / 2, min(left, LEAST))
    return Window(share, left - share)
