"""One message's entry in the spool, for as long as its transaction has a hand in it.

Promises:
- Where some recipients were refused and others accepted, the entry is durable before the final dot: whatever dies after it, the
  refused are reported and the accepted are known to be in doubt.
- What is in doubt at the forward deadline stays this process's while it listens for the smarthost's answer; retry waits as long.
- What was put is never lost by a failing record: until the record succeeds the entry stands as it was, in doubt.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from relay.mail.envelope import Envelope
from relay.mail.verdict import Verdicts
from relay.spool.entry import Entry, Standing, standing_of
from relay.spool.fault import SpoolUnavailable

if TYPE_CHECKING:
    from relay.accounts.user import User
    from relay.session.house import House

SOON = 1.0
"""Seconds after which retry looks at an entry: its own transaction has settled by then."""
MARGIN = 60.0
"""Seconds beyond the doubt for which an entry stays this process's: for the record of the answer."""
PAUSE = 1.0
"""Seconds between two tries to record what became of an entry."""


class Deposit:
    """The entry of one message, made or not."""

    __slots__ = ("_entry", "_envelope", "_house", "_id", "_route", "_units", "_user")

    def __init__(self, house: House, user: User, envelope: Envelope, id: str, units: int, route: str) -> None:
        """`route` is the id of the setting that it was taken under, "" of the relay's own."""
        self._house = house
        self._user = user
        self._envelope = envelope
        self._id = id
        self._units = units
        self._route = route
        self._entry: Entry | None = None

    @property
    def is_made(self) -> bool:
        """Whether the entry is in the spool."""
        return self._entry is not None

    @property
    def standings(self) -> tuple[Standing, ...]:
        """The standings as they were put."""
        return self._entry.standings if self._entry is not None else ()

    async def make(
        self, standings: tuple[Standing, ...], accepted: int, prefix: bytes, wire: bytes, is_mine: bool = False, is_unreached: bool = False
    ) -> None:
        """Put the entry; durable on return. Raises SpoolUnavailable.

        `is_mine`: this process goes on working at it. `is_unreached`: the smarthost was not there, so that its return decides when to
        try again, not this message's turn.
        """
        house, spool = self._house, self._house.spool
        assert spool is not None
        now = spool.now()
        entry = Entry(
            id=self._id, user=self._user.name, owner=self._user.owner_id, envelope=self._envelope, standings=standings, arrived=now,
            due=now + house.rules.doubt + MARGIN if is_mine else self._due(standings, is_unreached), units=self._units,
            accepted=accepted, attempts=1, size=len(prefix) + len(wire), claimed_by=spool.incarnation if is_mine else "",
            route=self._route,
        )  # fmt: skip
        self._entry = entry  # from here on it may be there: only a failure, or a withdrawal, says that it is not
        try:
            await spool.put(entry, prefix, wire)
        except asyncio.CancelledError:
            with suppress(SpoolUnavailable):
                await asyncio.shield(self.withdraw())  # behind the put, in the same writer
            raise
        except BaseException:
            self._entry = None
            raise

    async def record(self, standings: tuple[Standing, ...], accepted: int) -> None:
        """Record the end of the attempt, and what is charged for it, in the entry made before its dot; raises SpoolUnavailable."""
        assert self._house.spool is not None
        await self._house.spool.finish(self._id, standings, self._due(standings), accepted=accepted)

    def note_settled(self) -> None:
        """The ledger has answered for its hold: whoever claims the entry need not ask."""
        if self._entry is not None and self._house.spool is not None:
            self._house.spool.note_settled(self._id)

    async def withdraw(self) -> None:
        """Take the entry back: everyone was refused after all, and the client is told so. Raises SpoolUnavailable."""
        assert self._house.spool is not None
        await self._house.spool.withdraw(self._id)
        self._entry = None

    def hear_out(self, late: asyncio.Task[Verdicts]) -> None:
        """The client has its reply; record what the smarthost says in the end."""
        task = asyncio.get_running_loop().create_task(self._hear_out(late))
        self._house.late.add(task)
        task.add_done_callback(self._house.late.discard)

    async def _hear_out(self, late: asyncio.Task[Verdicts]) -> None:
        spool, entry = self._house.spool, self._entry
        assert spool is not None
        assert entry is not None
        verdicts = await late
        standings = entry.standings_after(verdicts)
        due = self._due(standings)
        while True:
            try:
                await spool.finish(self._id, standings, due)
            except SpoolUnavailable as error:
                self._house.journal.alarm("spool_unavailable", id=self._id, error=str(error))
                await asyncio.sleep(PAUSE)
            else:
                break
        self._tell(entry, standings, spool.now(), due)

    def _tell(self, entry: Entry, standings: tuple[Standing, ...], now: float, due: float) -> None:
        """Put on record what became of those who were in doubt."""
        journal = self._house.journal
        before = {standing.recipient for standing in entry.standings if standing.in_doubt}
        after = [standing for standing in standings if standing.recipient in before]
        served = [one for one in after if one.state in ("delivered", "relayed")]
        deferred = [one for one in after if one.state == "waiting" and not one.in_doubt]
        if served:
            journal.delivered(self._id, [one.recipient.address for one in served], served[0].reply, 1, now - entry.arrived)
        if deferred:
            journal.deferred(self._id, [one.recipient.address for one in deferred], deferred[0].reply, 1, due - now)

    def _due(self, standings: tuple[Standing, ...], is_unreached: bool = False) -> float:
        """When retry is to look at it: soon where a report is owed or nothing was tried, after the doubt, else in its turn."""
        house = self._house
        assert house.spool is not None
        now = house.spool.now()
        if is_unreached or any(one.state in ("failed", "relayed") for one in standings):
            return now + SOON
        if any(one.in_doubt for one in standings):
            return now + house.rules.doubt
        return now + house.wait()


def in_flight(envelope: Envelope, refused: Verdicts, reply: str) -> tuple[Standing, ...]:
    """The standings just before the final dot: the refused as refused, the others in doubt until it is answered."""
    return tuple(
        standing_of(envelope, one, refused[one]) if one in refused else Standing(one, "waiting", reply, in_doubt=True)
        for one in envelope.recipients
    )


def counted(standings: tuple[Standing, ...], unit: str) -> int:
    """What a message with these standings is charged: all but the failed."""
    kept = sum(standing.state != "failed" for standing in standings)
    return min(kept, 1) if unit == "messages" else kept
