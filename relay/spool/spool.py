"""The spool: messages that this relay has promised to deliver, until nothing is owed any more.

Promises:
- What `put` or any other change returned from is on the disk: the fsync has covered it. What raised SpoolUnavailable was not done.
- An entry is removed in the very commit that records its last outcome and inserts the reports on it.
- An entry that cannot be read is held for a person (held = "corrupt") and told of, never dropped, and never in the others' way.
- Leases and waits are on a clock that does not step; several processes work on one spool at a time.

Left to others: when to try again (retry), what to charge (the ledger), what is journaled.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from relay.spool import asked, claim, pile, queue, rows
from relay.spool.asked import Ask
from relay.spool.claim import Damage
from relay.spool.clock import SpoolClock
from relay.spool.entry import Entry, Hold, Standing
from relay.spool.fault import EntryCorrupt, SpoolUnavailable
from relay.spool.pile import Pile, Place, Sorted
from relay.spool.queue import Counts
from relay.spool.reader import Reader
from relay.spool.schema import connect, locked, prepare, said
from relay.spool.writer import Writer, do_each

__all__ = ["Counts", "Spool"]

T = TypeVar("T")


def _not_kept(db: sqlite3.Connection) -> None:
    """A clock that was given needs no keeping."""


class Spool:
    """One process's door to the spool. For one event loop."""

    def __init__(
        self,
        path: Path,
        incarnation: str,
        reserve: int,
        clock: Callable[[], float] | None = None,
        on_corrupt: Callable[[str, str], None] | None = None,
        linger: float = 0.0,
    ) -> None:
        """Open the database, or create it; raises SpoolUnusable or SpoolUnavailable.

        `reserve` is in octets of free disk. `on_corrupt` hears, in the loop, the id of an entry that cannot be read, and why.
        `linger` is how long a write waits, in s, for others to share its fsync: for a process that nobody waits for.
        """
        prepare(path, may_upgrade=bool(incarnation))  # a visitor only looks: the relay whose spool it is may still be an older one
        self.path = path
        self.incarnation = incarnation
        keep = _not_kept
        if clock is None:
            clock = spool_clock = _open_clock(path)
            keep = spool_clock.keep
        self._clock = clock
        self._on_corrupt = on_corrupt
        self._writer = Writer(path, reserve, keep, linger)
        self._reader = Reader(path)
        self._told: set[int] = set()

    def now(self) -> float:
        """The instant on the spool's clock."""
        return self._clock()

    async def close(self) -> None:
        """Finish what is queued, drop this process's claims (their entries stay due when they are), and close."""
        try:
            if self.incarnation:
                await self._write(partial(claim.release_all, incarnation=self.incarnation))
        except SpoolUnavailable:
            pass  # the supervisor drops them, or their leases end
        finally:
            await self._writer.close()
            await self._reader.close()

    async def _write(self, call: Callable[[sqlite3.Connection], T]) -> T:
        answer: T = await self._writer.submit(do_each, call)
        return answer

    # -- taking --------------------------------------------------------------------------------------------------------------

    async def put(self, entry: Entry, prefix: bytes, wire: bytes) -> None:
        """Take an entry; durable on return. Raises SpoolFull below the disk's reserve. A claim made by it lasts until `entry.due`."""
        await self._writer.submit(rows.insert, (entry, prefix, wire), len(prefix) + len(wire))

    async def finish(
        self,
        id: str,
        standings: Sequence[Standing],
        due: float | None,
        reports: Sequence[tuple[Entry, bytes, bytes]] = (),
        *,
        attempts: int | None = None,
        is_warned: bool | None = None,
        held: Hold = "",
        accepted: int | None = None,
    ) -> bool:
        """Record the standings of all recipients, with the insertion of `reports`, in one commit; durable on return.

        If nothing is owed any more the entry is removed by it, else its claim is dropped, and it is due then (None: as before). False: it
        was removed before, and nothing is inserted. `accepted` is what is to be charged now, unless it is settled already. If our lease
        has lapsed and another process has claimed the entry, its claim stays, and of every standing what has come farther.
        """
        task = claim.Finish(id, tuple(standings), due, tuple(reports), attempts, is_warned, held, accepted, self.incarnation, self.now())
        answer: bool = await self._writer.submit(claim.finish, task, sum(len(prefix) + len(wire) for _, prefix, wire in reports))
        return answer

    async def withdraw(self, id: str) -> bool:
        """Remove an entry that nobody was told of; False: there is none."""
        return await self._write(partial(claim.withdraw, id=id))

    # -- trying again --------------------------------------------------------------------------------------------------------

    async def piles(self) -> dict[Pile, float]:
        """The piles of what is not held, and when the first of each is due."""
        piles, damages = await self._reader.read(pile.find_piles)
        await self._whole([], damages)
        return piles

    async def due(self, before: float, limit: int) -> list[Entry]:
        """Entries that are due by then, free and not held, the longest due first."""
        return await self._whole(*await self._reader.read(partial(pile.find_any_due, before=before, limit=limit, now=self.now())))

    async def due_in(self, before: float, wanted: Mapping[Pile, int]) -> list[Entry]:
        """The same of these piles only, so many of each at most, the longest due of each first."""
        return await self._whole(*await self._reader.read(partial(pile.find_due, before=before, wanted=wanted, now=self.now())))

    async def expiring(self, arrived_before: float, limit: int, piles: Sequence[Pile] | None = None) -> list[Entry]:
        """Entries (of these piles) that arrived by then, free and not held, with recipients still waiting, the oldest first."""
        call = partial(pile.find_expiring, arrived_before=arrived_before, limit=limit, now=self.now(), piles=piles)
        return await self._whole(*await self._reader.read(call))

    async def asked(self) -> dict[Ask, str]:
        """What people asked to have tried now, of late; the mark of each changes when it is asked for again."""
        return await self._reader.read(asked.find)

    async def owners_without_route(self) -> set[str]:
        """Whose mail is held for want of a route."""
        return await self._reader.read(pile.owners_without_route)

    async def seqs_of(self, owner: str) -> list[int]:
        """The numbers of an owner's entries that `sort` may be asked to sort."""
        return await self._reader.read(partial(pile.seqs_of, owner=owner))

    async def sort(self, seqs: Sequence[int], place: Place) -> Sorted:
        """Put entries into the piles of the routes that their mail goes by now; hold those that had one and have none, and let go again.

        `place` is asked with the domain of each, in another thread. What somebody is working on stays as it is.
        """
        return await self._write(partial(pile.sort, seqs=seqs, place=place, now=self.now()))

    async def mark_settled(self, ids: Sequence[str]) -> None:
        """Record that the ledger has answered for their holds."""
        if ids:
            await self._writer.submit(claim.mark_settled, list(ids))

    def note_settled(self, id: str) -> None:
        """Have it recorded with what is written next, without waiting: if it gets lost, somebody settles once more, without effect."""
        self._writer.submit(claim.mark_settled, [id]).add_done_callback(_forget)

    async def claim(self, ids: Sequence[str], lease: float, due: float) -> list[Entry]:
        """Take those that are settled, free and not held, for `lease` s; `due` is what stands if this process is killed."""
        now = self.now()
        call = partial(claim.claim, ids=list(ids), us=self.incarnation, lease_end=now + lease, due=due, now=now)
        return await self._whole(*await self._write(call))

    async def renew(self, id: str, lease: float) -> bool:
        """Prolong our claim to `lease` s from now; False: it is no longer ours."""
        return await self._write(partial(claim.renew, id=id, us=self.incarnation, lease_end=self.now() + lease))

    async def release(self, id: str, due: float) -> None:
        """Drop our claim without a result."""
        await self._write(partial(claim.release, id=id, us=self.incarnation, due=due))

    async def content(self, id: str) -> tuple[bytes, bytes]:
        """The prefix and the wire, as put; raises EntryCorrupt, the entry is then held."""
        seq, found = await self._reader.read(partial(_content, id=id))
        if isinstance(found, EntryCorrupt):
            if seq is not None:
                await self._whole([], [Damage(seq, id, str(found))])
            raise found
        return found

    async def _whole(self, entries: list[Entry], damages: Sequence[Damage]) -> list[Entry]:
        """Hold the corrupt entries and tell of them, once; return the others."""
        for damage in damages:
            try:
                is_news = await self._write(partial(queue.mark_corrupt, seq=damage.seq))
            except SpoolUnavailable:
                is_news = damage.seq not in self._told  # its page cannot be written either
                self._told.add(damage.seq)
            if is_news and self._on_corrupt is not None:
                self._on_corrupt(damage.id.encode("utf-8", "replace").decode(), damage.why)
        return entries

    # -- after a death -------------------------------------------------------------------------------------------------------

    async def claimants(self) -> set[str]:
        """The incarnations that have claims, lapsed ones included."""
        return await self._reader.read(claim.claimants)

    async def claims_of(self, incarnation: str) -> list[Entry]:
        """What a process has claimed."""
        return await self._reader.read(partial(claim.claims_of, incarnation=incarnation))

    async def release_claims(self, incarnation: str, latest: float = float("inf")) -> list[Entry]:
        """Drop the claims of a dead process and return their entries, which stay due when they are, but not later than `latest`."""
        return await self._write(partial(claim.release_all, incarnation=incarnation, latest=latest))

    async def charged(self, ids: Sequence[str]) -> dict[str, tuple[str, int, int]]:
        """Of those ids that are entries with a hold: its user, units, and what of them is accepted."""
        return await self._reader.read(partial(claim.charged, ids=list(ids)))

    async def unsettled(self) -> list[tuple[str, str, int, int]]:
        """User, id, units, and what of them is accepted, of holds that the ledger has not answered for, the oldest first.

        Only of entries that nobody works on: the others may yet be withdrawn.
        """
        return await self._reader.read(claim.unsettled)

    # -- charges -------------------------------------------------------------------------------------------------------------

    async def keep_charge(self, user: str, id: str, units: int, accepted: int, rejected: int) -> None:
        """Keep a charge that the ledger could not be told of; durable on return, and not subject to the reserve."""
        await self._write(partial(claim.keep_charge, charge=(user, id, units, accepted, rejected)))

    async def forget_charges(self, ids: Sequence[str]) -> None:
        """Forget charges that the ledger has."""
        await self._write(partial(claim.forget_charges, ids=list(ids)))

    async def charges(self) -> list[tuple[str, str, int, int, int]]:
        """User, id, units, accepted and rejected of every charge kept."""
        return await self._reader.read(claim.charges)

    # -- the operator --------------------------------------------------------------------------------------------------------

    async def find(self, id: str) -> Entry | None:
        """One entry; a corrupt one as far as it can be read."""
        return await self._reader.read(partial(queue.find, id=id))

    async def pages(self, *, owner: str | None = None, user: str | None = None, which: queue.Which = "all") -> AsyncIterator[list[Entry]]:
        """All entries, oldest first, in pages; a corrupt one as far as it can be read, shown as held."""
        after: int | None = -1
        while after is not None:
            after, page = await self._reader.read(partial(queue.page, after=after, owner=owner, user=user, which=which))
            if page:
                yield page

    async def counts(self, owner: str | None = None) -> Counts:
        """The spool in figures."""
        return await self._reader.read(partial(queue.counts, owner=owner, now=self.now()))

    async def hold(self, id: str, reason: Hold, owner: str | None = None) -> bool:
        """Hold an entry; False: there is none (of that owner). What is held already stays so, but a person's reason comes first."""
        return await self._write(partial(queue.hold, id=id, reason=reason, owner=owner))

    async def unhold(self, id: str, owner: str | None = None) -> bool:
        """Let a held entry go on, due now; False: none is held under that id."""
        return await self._write(partial(queue.unhold, id=id, owner=owner, now=self.now()))

    async def retry(self, id: str, owner: str | None = None) -> bool:
        """Have an entry tried now; False: there is none, or it is held."""
        return await self._write(partial(queue.retry, id=id, owner=owner, now=self.now()))

    async def flush(self, owner: str | None = None) -> int:
        """Have all that waits tried now; returns how many were due later."""
        return await self._write(partial(queue.flush, owner=owner, now=self.now()))

    async def remove(self, id: str, owner: str | None = None) -> Entry | Literal["claimed"] | None:
        """Remove an entry and return it; "claimed": it is being sent right now; None: there is none (of that owner)."""
        return await self._write(partial(queue.remove, id=id, owner=owner, now=self.now()))

    async def postpone_user(self, user: str, due: float) -> None:
        """Have nothing of a user's mail that nobody is working on be due before then; reads the whole table."""
        await self._write(partial(queue.postpone_user, user=user, due=due, now=self.now()))

    async def held_users(self, reason: Hold) -> set[str]:
        """Whose mail is held for that reason."""
        return await self._reader.read(partial(queue.held_users, reason=reason))

    async def unhold_user(self, user: str, reason: Hold, owner: str | None = None) -> list[str]:
        """Let a user's mail go on that is held for that reason, due now; returns the ids. With an `owner`, only what is of his."""
        return await self._write(partial(queue.unhold_user, user=user, reason=reason, owner=owner, now=self.now()))


def _forget(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()


def _content(db: sqlite3.Connection, id: str) -> tuple[int | None, tuple[bytes, bytes] | EntryCorrupt]:
    seq = claim.seq_of(db, id)
    if seq is None:
        return None, EntryCorrupt(f"{id} is not in the spool")
    try:
        return seq, rows.read_content(db, seq)
    except EntryCorrupt as error:
        return seq, error


def _open_clock(path: Path) -> SpoolClock:
    try:
        with locked(path):
            db = connect(path)
            try:
                db.execute("BEGIN IMMEDIATE")
                clock = SpoolClock(db)
                db.execute("COMMIT")
            finally:
                db.close()
    except sqlite3.Error as error:
        raise SpoolUnavailable(said(path, error)) from error
    except OSError as error:
        raise SpoolUnavailable(f"{error.filename or path}: {error.strerror}") from error
    return clock
