"""The runner: tries what is in the spool again, and gives up in writing. The only issuer of reports.

Promises:
- Nothing leaves the spool unsettled: an entry's hold is settled in the ledger before its first claim.
- An entry is claimed, durably, before anything of it is sent, and whatever kills this process leaves it in the spool until the doubt
  has passed: a second copy exists only where the first may have been taken, and that is on record.
- A smarthost that is not there costs one attempt now and then, not one for each message; when it is back, it is met by one session
  first, then by twice as many with each success. Mail that goes elsewhere does not wait for it.
- What a person wants tried now has its smarthosts tried once, at once, however long they would be left alone yet.
- Mail of a user who may not send now is held, and goes on when it may.
- A report is durable before what it speaks of is removed, in the same commit. There is no report on a report: one that nobody takes
  is held for a person.

How one entry is tried is in attempt.py, and when again in schedule.py; by which route in routing.py; how the sessions are shared out among
the routes in lane.py; what a report says in report.py and mail/dsn.py.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from relay.accounts.directory import Directory
from relay.accounts.registry import Registry
from relay.journal import Journal
from relay.quota.ledger import Ledger, Settlement
from relay.retry.attempt import Attempts
from relay.retry.lane import Lane, Lanes
from relay.retry.routing import Routing
from relay.retry.schedule import Schedule
from relay.spool.asked import Ask
from relay.spool.entry import Entry
from relay.spool.fault import SpoolUnavailable
from relay.spool.pile import Pile
from relay.spool.spool import Spool
from relay.store.client import StoreRefused, StoreUnavailable
from relay.upstream.dispatch import Dispatch
from relay.upstream.route import Route

IDLE = 0.5
"""Seconds between two looks at a spool in which nothing was due."""
STUCK = 60.0
"""Seconds for which the mail of a user is passed over whose book or record the store cannot read."""
STALE = 5.0
"""Seconds for which a claimed entry may wait for its attempt; then it is claimed anew: its user may have been disabled meanwhile."""
BATCH = 200


@dataclass(frozen=True, slots=True)
class Rules:
    """What the runner keeps to; durations in seconds."""

    hostname: str
    schedule: Schedule
    doubt: float = 600.0
    """How long the answer to a final dot is listened for, and how long nobody tries again after it stayed out."""
    sessions: int = 10
    """Attempts at a time, at most, over all routes."""
    patience: float = 300.0
    """The longest attempt, up to its final dot."""
    is_holding: bool = True
    """Whether the mail of a disabled user is held."""
    review: float = 5.0
    """Between two looks at what is held for its user or its route, at the routes that are away, and at what is too old."""
    overdue: float = 60.0
    """How long beyond the expiry a last attempt may still come, before an entry is given up without."""
    drain: float = 30.0
    """How long attempts under way may take when the process is told to stop."""


class Runner:
    """One process's retrying."""

    def __init__(
        self, spool: Spool, dispatch: Dispatch, route: Route, directory: Directory, ledger: Ledger, registry: Registry, journal: Journal,
        rules: Rules,
    ) -> None:  # fmt: skip
        """`route` is the relay's own."""
        self._spool = spool
        self._ledger = ledger
        self._registry = registry
        self._journal = journal
        self._rules = rules
        self._lanes = Lanes(route, dispatch, rules.sessions, self._note_bug)
        self._routing = Routing(spool, directory, journal, self._lanes.learn)
        self._attempts = Attempts(spool, dispatch, journal, rules, random.random)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ours: dict[str, float] = {}
        """When those were claimed that are ready or under way; nobody else's, whatever has become of their leases."""
        self._piles: dict[Pile, float] = {}
        """What there was at the last look, and when the first of each is due."""
        self._asked: dict[Ask, str] = {}
        """What people had asked for at the last look."""
        self._look_at = 0.0
        self._reviewed = 0.0
        self._is_told = False
        self._is_ending = False

    async def run(self, stop: asyncio.Event) -> None:
        """Try again and again until `stop`; then end what is under way."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                pause = IDLE
                try:
                    pause = 0.0 if await self._round() else IDLE
                    self._is_told = False
                except SpoolUnavailable as error:
                    self._tell("spool_unavailable", error)
                except StoreUnavailable as error:  # without it nobody knows who may send: what is due waits
                    self._tell("store_unavailable", error)
                except Exception as error:
                    self._journal.bug("retry", error)
                    pause = self._rules.review
                if pause:
                    await self._wait(stopping, pause)
        finally:
            stopping.cancel()
            await self._wind_up()

    def _tell(self, name: str, error: Exception) -> None:
        if not self._is_told:
            self._journal.alarm(name, id="retry", error=str(error))
        self._is_told = True

    def _note_bug(self, lane: Lane, error: Exception) -> None:
        self._journal.bug(f"retry {lane.route.id}".rstrip(), error)

    async def _wait(self, stopping: asyncio.Task[bool], pause: float) -> None:
        """Until an attempt ends, the pause is over, or the process is told to stop."""
        await asyncio.wait({stopping, *self._tasks}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)

    # -- choosing ------------------------------------------------------------------------------------------------------------

    async def _round(self) -> bool:
        """Claim what is due, as far as there are hands for it, and begin; whether there was anything."""
        now = self._spool.now()
        if time.monotonic() - self._reviewed > self._rules.review:
            self._reviewed = time.monotonic()
            await self._review(now)
        self._begin()
        if time.monotonic() > self._look_at:
            await self._look()
        due = [pile for pile, first in self._piles.items() if first <= now and pile.owner not in self._routing.unreadable]
        wanted = self._lanes.wanted(due)
        if not wanted:
            return False
        claimed, lost = await self._claim_of(wanted, now), []
        for entry in claimed:
            if not self._lanes.is_blocked(entry.route) and self._lanes.add(entry):
                self._ours[entry.id] = time.monotonic()
            else:
                lost.append(entry)
        self._begin()
        for entry in lost:  # put elsewhere since they were looked at, or their smarthost has gone: they are looked at anew
            await self._attempts.let_go(entry, self._spool.now())
        return len(claimed) > len(lost)

    async def _look(self) -> None:
        """See which piles there are, and what people want; the more there are, the less often."""
        began = time.monotonic()
        asked = await self._spool.asked()  # before the piles, which then have what it was asked for
        self._piles = await self._spool.piles()
        self._look_at = time.monotonic() + max(IDLE, 20 * (time.monotonic() - began))
        self._hurry([ask for ask, mark in asked.items() if self._asked.get(ask) != mark])
        self._asked = asked

    def _hurry(self, asks: Sequence[Ask]) -> None:
        """Have the smarthosts tried that keep from going out what was just asked for."""
        for route in {pile.route for pile in self._piles if any(ask.covers(pile) for ask in asks)}:
            self._lanes.hurry(route)

    async def _claim_of(self, wanted: dict[Pile, int], now: float) -> list[Entry]:
        """Claim so many of these piles, the longest due first."""
        lapsed = sum(time.monotonic() - since > self._attempts.lease for since in self._ours.values())
        found = await self._spool.due_in(now, {pile: count + lapsed for pile, count in wanted.items()})
        left = dict(wanted)
        entries = []
        for entry in found:
            pile = Pile(entry.owner, entry.route)
            if entry.id not in self._ours and left[pile]:
                left[pile] -= 1
                entries.append(entry)
        for pile, missing in left.items():
            if missing:
                self._piles.pop(pile, None)  # nothing more there until the next look
        return await self._claim(await self._routing.choose(await self._allow(await self._settle(entries))))

    async def _claim(self, entries: Sequence[Entry]) -> list[Entry]:
        """Claim what nobody else works on; puts on record what somebody did until he died."""
        if not entries:
            return []
        now = self._spool.now()
        claimed = await self._spool.claim([entry.id for entry in entries], self._attempts.lease, now + self._rules.doubt)
        before = {entry.id: entry.claimed_by for entry in entries if entry.claimed_by}
        for entry in claimed:
            if entry.id in before:  # its claim had lapsed, whatever became of who had it
                self._journal.killed_in_flight(entry.id, before[entry.id], [one.recipient.address for one in entry.waiting])
        return claimed

    async def _settle(self, entries: Sequence[Entry]) -> list[Entry]:
        """Settle the holds of these; those that are settled then. Idempotent, and mostly the session was first."""
        loose = [entry for entry in entries if not entry.is_settled]
        if not loose:
            return list(entries)
        calls = [self._ledger.settle(entry.user, entry.id, entry.units, entry.accepted) for entry in loose]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        settled, stuck = [], set[str]()
        for entry, answer in zip(loose, answers, strict=True):
            if isinstance(answer, StoreUnavailable):
                continue
            if isinstance(answer, StoreRefused):
                self._journal.alarm("charge_refused", id=entry.id, user=entry.user, error=str(answer))
                stuck.add(entry.user)
                continue
            if isinstance(answer, BaseException):
                raise answer
            settled.append(entry.id)
            self._tell_settled(entry.id, entry.user, entry.accepted, answer)
        if settled:
            await self._spool.mark_settled(settled)
        await self._pass_over(stuck)
        done = set(settled)
        if not done and any(isinstance(answer, StoreUnavailable) for answer in answers):
            raise StoreUnavailable("the store did not answer")
        return [entry for entry in entries if entry.is_settled or entry.id in done]

    def _tell_settled(self, id: str, user: str, accepted: int, settlement: Settlement) -> None:
        if settlement.outcome in ("ok", "late"):
            self._journal.settled(id, user, accepted, settlement.at, settlement.outcome == "late")
            if settlement.is_overdraft:
                self._journal.overdraft(id, user, accepted, settlement.at)

    async def _allow(self, entries: Sequence[Entry]) -> list[Entry]:
        """Hold the mail of users who may not send now; the others'. Reports are the relay's own."""
        if not self._rules.is_holding:
            return list(entries)
        owners = await self._look_up({entry.user for entry in entries if entry.kind == "mail"})
        await self._pass_over({entry.user for entry in entries if entry.kind == "mail"} - owners.keys())
        allowed = []
        for entry in entries:
            if entry.kind == "mail" and entry.user not in owners:
                continue
            if entry.kind == "mail" and owners[entry.user] != entry.owner:
                if await self._spool.hold(entry.id, "disabled"):
                    self._journal.held(entry.id, "disabled")
            else:
                allowed.append(entry)
        return allowed

    async def _pass_over(self, users: set[str]) -> None:
        """Leave the mail of these alone for a while: what nobody can judge is not in the others' way."""
        for user in users:
            await self._spool.postpone_user(user, self._spool.now() + STUCK)

    async def _look_up(self, names: set[str]) -> dict[str, str]:
        """Whose users these are, "" where they may not send now: a name may have been deleted and be another owner's since.

        Those whose record the store cannot read are left out. Raises StoreUnavailable.
        """
        ordered = sorted(names)
        answers = await asyncio.gather(*(self._registry.find_user(name) for name in ordered), return_exceptions=True)
        found = {}
        for name, answer in zip(ordered, answers, strict=True):
            if isinstance(answer, StoreRefused):
                self._journal.alarm("user_unreadable", user=name, error=str(answer))
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found[name] = answer.owner_id if answer is not None and answer.is_enabled else ""
        return found

    async def _review(self, now: float) -> None:
        """Let go on what is held for who may send again; see how the routes are that mail waits for; give up what is too old."""
        for name, owner in (await self._look_up(await self._spool.held_users("disabled"))).items():
            if owner or not self._rules.is_holding:
                for id in await self._spool.unhold_user(name, "disabled", owner if self._rules.is_holding else None):
                    self._journal.unheld(id, "disabled")
        await self._look()
        await self._routing.review(self._blocked())
        if blocked := self._blocked():
            old = await self._spool.expiring(now - self._rules.schedule.expire - self._rules.overdue, BATCH, blocked)
            old = await self._allow(await self._settle([entry for entry in old if entry.id not in self._ours]))
            for entry in await self._claim(old):
                self._ours[entry.id] = time.monotonic()
                self._spawn(self._give_up(entry))
        self._lanes.forget(pile.route for pile in self._piles)

    def _blocked(self) -> list[Pile]:
        """The piles that nothing can be taken from now."""
        return [pile for pile in self._piles if pile.owner in self._routing.unreadable or self._lanes.is_blocked(pile.route)]

    # -- doing ---------------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Start as many attempts as there may be at once."""
        for lane, entry in self._lanes.begin():
            self._spawn(self._attempt(lane, entry))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _give_up(self, entry: Entry) -> None:
        try:
            lane = self._lanes.of(entry.route)
            await self._attempts.give_up(entry, None if lane is None else lane.route)
        finally:
            del self._ours[entry.id]

    async def _attempt(self, lane: Lane, entry: Entry) -> None:
        is_reached = None
        try:
            if time.monotonic() - self._ours[entry.id] > STALE or not lane.route.choices:
                await self._attempts.let_go(entry, self._spool.now())
            else:
                is_reached = await self._attempts.make(entry, lane.route)
        finally:
            del self._ours[entry.id]
            self._lanes.end(lane)
        if is_reached:
            lane.ramp = lane.ramp.succeeded()
        elif is_reached is not None:
            lane.ramp = lane.ramp.unreached()
            await self._let_go(self._lanes.empty(lane))
        if not self._is_ending:
            self._begin()

    async def _let_go(self, entries: Sequence[Entry]) -> None:
        """What was claimed and not begun is nobody's again."""
        now = self._spool.now()
        for entry in entries:
            del self._ours[entry.id]
            await self._attempts.let_go(entry, now)

    async def _wind_up(self) -> None:
        """End what is under way, within the drain's patience; what is then left is in doubt if its dot was sent, else as it was."""
        self._is_ending = True
        await self._routing.close()
        await self._let_go(self._lanes.empty_all())
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=self._rules.drain)
        for task in set(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
