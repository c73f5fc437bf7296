"""One attempt at one spooled message: forwarded to those who still wait, and what came of it recorded, with the reports it owes.

Promises:
- The claim is ours when the final dot is sent: one that may have lapsed is renewed first, or nothing is sent.
- The answer to the dot is waited for as long as RFC 5321 section 4.5.3.2.6 says. Only a lost connection, or the end of that time,
  leaves the delivery in doubt, which is put on record.
- What the smarthost said is recorded, however long the spool is away; until then the entry is nobody else's.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from relay.journal import Journal
from relay.mail.envelope import Recipient
from relay.mail.verdict import Deferred, Verdict, Verdicts
from relay.retry.report import Reporting, reports_for
from relay.spool.entry import Entry, Hold, Standing
from relay.spool.fault import EntryCorrupt, SpoolUnavailable
from relay.spool.spool import Spool
from relay.upstream.dispatch import Dispatch
from relay.upstream.route import Route
from relay.upstream.smarthost import Message
from relay.upstream.terms import Terms

if TYPE_CHECKING:
    from relay.retry.runner import Rules

MARGIN = 60.0
"""Seconds of a claim's lease for what comes after the answer to the dot: recording it."""
INSISTENCE = 5
"""Tries after which an entry alone may be what cannot be written."""
PAUSE = 1.0
"""Seconds between two tries to record a result."""


class ClaimLost(Exception):
    """The entry is no longer ours to send: it was removed, or the claim had lapsed."""


@dataclass(slots=True)
class Flight:
    """How far an attempt came."""

    is_sent: bool = False
    """The final dot may have been sent."""


class Attempts:
    """What all attempts of one process have in common."""

    def __init__(self, spool: Spool, dispatch: Dispatch, journal: Journal, rules: Rules, dice: Callable[[], float]) -> None:
        self._spool = spool
        self._dispatch = dispatch
        self._journal = journal
        self._rules = rules
        self._dice = dice
        self._serial = 0
        self.lease = rules.patience + rules.doubt + MARGIN
        """Seconds for which a claim is taken."""

    async def make(self, entry: Entry, route: Route) -> bool | None:
        """Make one attempt; whether a smarthost of the route was there, None if that did not come into it. Raises only cancellation."""
        began = time.monotonic()
        flight = Flight()
        try:
            prefix, wire = await self._spool.content(entry.id)
            if not entry.waiting or any(standing.state in ("failed", "relayed") for standing in entry.standings):
                await self._settle_debts(entry, _host(route), prefix, wire)
                return None
            verdicts, host = await self._forward(entry, route, Message(prefix, wire), began, flight)
            await self._record(entry, host or _host(route), verdicts, prefix, wire)
        except EntryCorrupt:  # the spool holds it for a person, and has told of it
            return None
        except ClaimLost:
            self._journal.event("claim_lost", id=entry.id)
            return None
        except SpoolUnavailable as error:
            self._journal.alarm("spool_unavailable", id=entry.id, error=str(error))
            await self._drop(entry, flight, self._rules.schedule.wait(entry.attempts, self._dice()))
            return None
        except asyncio.CancelledError:
            await self._drop(entry, flight)
            raise
        except Exception as error:
            self._journal.bug(entry.id, error)
            await self._drop(entry, flight, self._rules.schedule.wait(entry.attempts, self._dice()))
            return None
        return not all(isinstance(verdict, Deferred) and verdict.unreached for verdict in verdicts.values())

    async def _forward(self, entry: Entry, route: Route, message: Message, began: float, flight: Flight) -> tuple[Verdicts, str]:
        """Offer it to the route's smarthosts; what was said, and by which."""
        envelope = entry.envelope._replace(recipients=tuple(standing.recipient for standing in entry.waiting))
        before_dot = partial(self._before_dot, entry, began, flight)
        terms = Terms(self._rules.patience, is_split=True, patience=self._rules.doubt, before_dot=before_dot)
        attempt = await self._dispatch.forward(route, entry.user, envelope, message, terms)
        return attempt.verdicts if attempt.late is None else await attempt.late, attempt.host

    async def _before_dot(self, entry: Entry, began: float, flight: Flight, refused: Mapping[Recipient, Verdict]) -> None:
        """Make sure that the claim outlasts the answer to the dot; raises ClaimLost."""
        if time.monotonic() - began > self._rules.patience and not await self._spool.renew(entry.id, self.lease):
            raise ClaimLost
        flight.is_sent = True

    # -- what came of it -----------------------------------------------------------------------------------------------------

    async def _record(self, entry: Entry, host: str, verdicts: Verdicts, prefix: bytes, wire: bytes) -> None:
        """Record verdicts, give up what is too old, and put the reports that are owed into the spool."""
        now = self._spool.now()
        entry = replace(entry, attempts=entry.attempts + 1)
        standings = entry.standings_after(verdicts)
        self._tell(entry, standings, now)
        due = self._next(entry, standings, now)
        if due is None:
            standings = _given_up(standings)
        await self._finish(entry, host, standings, due, prefix, wire, tried=now)
        waiting = [one for one in standings if one.state == "waiting"]
        if waiting and due is not None:
            names = [one.recipient.address for one in waiting]
            self._journal.deferred(entry.id, names, waiting[0].reply, entry.attempts, due - now)

    def _next(self, entry: Entry, standings: tuple[Standing, ...], now: float) -> float | None:
        """When those who wait are tried again; None: given up."""
        due = self._rules.schedule.next_due(entry.arrived, now, entry.attempts, self._dice())
        if due is not None and any(one.state == "waiting" and one.in_doubt for one in standings):
            return max(due, now + self._rules.doubt)
        return due

    async def _settle_debts(self, entry: Entry, host: str, prefix: bytes, wire: bytes) -> None:
        """Report on those whose fate is known; the others are tried in their turn."""
        now = self._spool.now()
        due = self._next(entry, entry.standings, max(now, entry.arrived))
        if any(one.state == "waiting" and one.in_doubt for one in entry.standings):
            due = entry.arrived + self._rules.doubt
        await self._finish(entry, host, entry.standings, due if due is not None else now, prefix, wire, tried=entry.arrived)

    async def give_up(self, entry: Entry, route: Route | None) -> None:
        """Give up those who wait, without another attempt: the route, if it is known at all, leads nowhere now, and the time is up."""
        try:
            prefix, wire = await self._spool.content(entry.id)
            await self._finish(entry, _host(route), _given_up(entry.standings), None, prefix, wire)
        except EntryCorrupt:
            return  # the spool holds it for a person, and has told of it

    async def let_go(self, entry: Entry, due: float) -> None:
        """Drop a claim under which nothing was tried."""
        try:
            await self._spool.release(entry.id, due)
        except SpoolUnavailable as error:  # the claim's lease ends
            self._journal.alarm("spool_unavailable", id=entry.id, error=str(error))

    async def _drop(self, entry: Entry, flight: Flight, wait: float = 0.0) -> None:
        """Drop the claim of an attempt that was cut short; if nothing was sent it is due after `wait`."""
        if flight.is_sent:
            self._journal.in_doubt(entry.id, [one.recipient.address for one in entry.waiting], "451 4.4.2 cut short by a stop")
        now = self._spool.now()
        await self.let_go(entry, now + (self._rules.doubt if flight.is_sent else wait))

    # -- recording -----------------------------------------------------------------------------------------------------------

    async def _finish(
        self, entry: Entry, host: str, standings: tuple[Standing, ...], due: float | None, prefix: bytes, wire: bytes,
        tried: float | None = None,
    ) -> None:  # fmt: skip
        """Write standings and reports in one commit, and put on record what they say; insists until the spool takes it."""
        now = self._spool.now()
        is_warning = due is not None and self._rules.schedule.is_warning_due(entry.arrived, now, entry.is_warned)
        reports = reports_for(
            entry, standings, prefix, wire, is_warning=is_warning, hostname=self._rules.hostname, now=now, new_id=self._new_id,
            remote=host, last_attempt=tried, retry_until=self._rules.schedule.expiry(entry.arrived), ahead=time.time() - now,
        )  # fmt: skip
        held: Hold = "undeliverable" if reports.is_undeliverable else ""
        for patience in itertools.count(start=1):
            try:
                is_there = await self._spool.finish(
                    entry.id, reports.standings, due, reports.reports, attempts=entry.attempts,
                    is_warned=entry.is_warned or is_warning, held=held,
                )  # fmt: skip
                break
            except SpoolUnavailable as error:
                self._journal.alarm("spool_unavailable", id=entry.id, error=str(error))
                if patience % INSISTENCE == 0 and await self._set_aside(entry):
                    return
                await asyncio.sleep(PAUSE)
        if is_there:
            self._tell_reports(entry, reports)

    async def _set_aside(self, entry: Entry) -> bool:
        """Hold an entry whose result cannot be recorded although the spool takes other things; False if it takes nothing."""
        try:
            if await self._spool.hold(entry.id, "corrupt"):
                self._journal.alarm("entry_corrupt", id=entry.id, error="what came of it cannot be recorded")
                self._journal.in_doubt(entry.id, [one.recipient.address for one in entry.waiting], "451 4.3.0 the result is not recorded")
        except SpoolUnavailable:
            return False
        return True

    def _tell(self, entry: Entry, standings: tuple[Standing, ...], now: float) -> None:
        """Put on record who was delivered to, and whose delivery is in doubt."""
        before = {standing.recipient for standing in entry.waiting}
        after = [standing for standing in standings if standing.recipient in before]
        served = [one for one in after if one.state in ("delivered", "relayed")]
        doubted = [one for one in after if one.state == "waiting" and one.in_doubt]
        if served:
            names = [one.recipient.address for one in served]
            self._journal.delivered(entry.id, names, served[0].reply, entry.attempts, now - entry.arrived)
        if doubted:
            self._journal.in_doubt(entry.id, [one.recipient.address for one in doubted], doubted[0].reply)

    def _tell_reports(self, entry: Entry, reports: Reporting) -> None:
        for recipients, action, dsn in reports.reported:
            self._journal.reported(entry.id, list(recipients), action, dsn)
        for recipients, reason in reports.discarded:
            self._journal.discarded(entry.id, list(recipients), reason)
        if reports.is_undeliverable:
            self._journal.held(entry.id, "undeliverable")
            self._journal.alarm("dsn_undeliverable", id=entry.id, origin=entry.origin)

    def _new_id(self) -> str:
        self._serial += 1
        return f"{self._spool.incarnation}.{self._serial}"


def _host(route: Route | None) -> str:
    """The name of the smarthost that comes first; "" where there is none."""
    return route.choices[0].target.host if route is not None and route.choices else ""


def _given_up(standings: Sequence[Standing]) -> tuple[Standing, ...]:
    """The standings once the time of those who wait is up (RFC 3463 section 3.5: X.4.7, delivery time expired)."""
    return tuple(replace(one, state="failed", reply=_expired(one)) if one.state == "waiting" else one for one in standings)


def _expired(standing: Standing) -> str:
    doubt = "It may have been delivered all the same. " if standing.in_doubt else ""
    return f"554 5.4.7 Delivery time expired. {doubt}Last: {standing.reply or 'nothing was heard'}"
