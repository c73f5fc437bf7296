"""What dead processes of this node leave behind, and who sees to it.

Promises:
- What a worker held in the ledger comes back as soon as it is dead: charged where the smarthost or the spool had taken the message,
  else released.
- What a process was sending from the spool is put on record as killed in flight, and is tried again after the doubt.
- The charges that the store could not be told of are recorded before the node's workers start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from relay.daemon import Rooms, holds_folder, pending_file, settled_in
from relay.journal import Journal
from relay.quota.gate import Gate
from relay.quota.table import Charge, dead
from relay.quota.teller import recover, replay_vault
from relay.spool.entry import Entry
from relay.spool.fault import SpoolUnavailable
from relay.spool.spool import Spool
from relay.store.client import StoreRefused, StoreUnavailable

Answer = TypeVar("Answer")
AT_ONCE = 256
"""Holds that are settled side by side."""

AGAIN = 30.0
"""Seconds between two looks at the vault: for what the store refused for its user, and for what came in by an operator's hand."""
PAUSE = 0.5
"""Seconds until the spool is asked again."""


class Estate:
    """What is left to be settled on this node; the supervisor's."""

    def __init__(self, rooms: Rooms, spool: Spool, journal: Journal) -> None:
        self._rooms = rooms
        self._spool = spool
        self._journal = journal
        self._folder = holds_folder(rooms.settings)
        self._gate = Gate(pending_file(rooms.settings))
        self._record = settled_in(journal)
        self._inheriting: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def replay(self) -> None:
        """Record what may not be on record yet: the vault's charges, and what is in the spool. Waits for the store.

        After a power failure nothing else remembers a message that was spooled and not settled. From then on the vault is looked at again
        and again.
        """
        await self._replay()
        for name in await self._claimants():
            if not (self._folder / f"{name}.holds").exists():  # its process ended, or the machine did
                await self._free_claims(name)
        await self._settle(await self._insist(self._spool.unsettled))
        _start(self._replay_again(), self._tasks)

    async def _replay(self) -> None:
        for charge in await replay_vault(self._spool, self._rooms.ledger, self._record):
            self._tell_refused(charge.id, charge.user, charge.accepted)

    async def _settle(self, holds: Sequence[tuple[str, str, int, int]]) -> None:
        """Settle holds of spooled messages: user, id, units, accepted. Waits for the store; what it refuses for a user is left to retry."""
        left = list(holds)
        while left:
            part, left = left[:AT_ONCE], left[AT_ONCE:]
            calls = [self._rooms.ledger.settle(*hold) for hold in part]
            done = []
            for hold, answer in zip(part, await asyncio.gather(*calls, return_exceptions=True), strict=True):
                user, id, units, accepted = hold
                match answer:
                    case StoreUnavailable():
                        left.append(hold)
                    case StoreRefused():
                        self._tell_refused(id, user, accepted)
                    case BaseException():
                        raise answer
                    case _:
                        if answer.outcome != "done":  # mostly it was settled by who put it
                            self._record(Charge(user, id, units, accepted, 0), answer)
                        done.append(id)
            with suppress(SpoolUnavailable):  # then it is settled once more, without effect
                await self._spool.mark_settled(done)
            if left and not done:
                await asyncio.sleep(PAUSE)

    def _tell_refused(self, id: str, user: str, accepted: int) -> None:
        self._journal.alarm("charge_refused", id=id, user=user, units=accepted)

    async def _replay_again(self) -> None:
        while True:
            await asyncio.sleep(AGAIN)
            await self._replay()

    async def begin(self) -> None:
        """Inherit from all that died before this relay started, and from those that will, if they are still draining."""
        # After a power failure a flag may have outlived the table it stood for.
        self._gate.sweep(lambda name: (self._folder / f"{name}.holds").exists())
        for path in self._folder.glob("*.holds"):
            _start(self._expect(path), self._tasks)

    async def _expect(self, path: Path) -> None:
        await dead(path)
        self.inherit(path.stem)

    def inherit(self, incarnation: str) -> None:
        """See to what a dead process left; returns at once."""
        _start(self._inherit(incarnation), self._inheriting)

    async def _inherit(self, incarnation: str) -> None:
        # Side by side: a store that is away, or refuses one user, must not keep the others' mail claimed.
        async with asyncio.TaskGroup() as both:
            both.create_task(self._recover(self._folder / f"{incarnation}.holds"))
            both.create_task(self._free_claims(incarnation))

    async def _recover(self, path: Path) -> None:
        try:
            count = await recover(path, self._rooms.ledger, self._record, self._spool.charged, self._spool, self._gate)
        except Exception as error:
            self._journal.bug(path.stem, error)
            return
        if count:
            self._journal.event("holds_returned", incarnation=path.stem, holds=count)

    async def _free_claims(self, incarnation: str) -> None:
        async def free() -> list[Entry]:
            return await self._spool.release_claims(incarnation, self._spool.now() + self._rooms.settings.retry.doubt_seconds)

        # On record first: who is killed in between tells of it twice, not never.
        for entry in await self._insist(partial(self._spool.claims_of, incarnation)):
            self._journal.killed_in_flight(entry.id, incarnation, [standing.recipient.address for standing in entry.waiting])
        entries = await self._insist(free)
        await self._settle(
            [(entry.user, entry.id, entry.units, entry.accepted) for entry in entries if entry.units and not entry.is_settled]
        )

    async def _claimants(self) -> set[str]:
        return await self._insist(self._spool.claimants)

    async def _insist(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask the spool until it answers."""
        while True:
            try:
                return await call()
            except SpoolUnavailable:
                await asyncio.sleep(PAUSE)

    async def end(self, patience: float) -> None:
        """Give what is under way `patience` seconds; the next start goes on with what is left."""
        if self._inheriting:
            await asyncio.wait(set(self._inheriting), timeout=patience)
        for task in (left := self._inheriting | self._tasks):
            task.cancel()
        if left:
            await asyncio.wait(left)
        self._gate.close()


def _start(work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
