"""What dead processes of this node leave behind, and who sees to it.

Promises:
- What a worker held in the ledger comes back as soon as it is dead: charged where the smarthost or the spool had taken the message,
  else released.
- What a process was sending from the spool is put on record as killed in flight, and is tried again after the doubt.
- The charges that the store could not be told of are recorded before the node's workers start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from relay.daemon import Rooms, holds_folder, pending_file, settled_in
from relay.journal import Journal
from relay.quota.gate import Gate
from relay.quota.teller import recover, replay_vault
from relay.spool.fault import SpoolUnavailable
from relay.spool.spool import Spool

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
        """Record the charges of the vault; waits for the store. From then on it is looked at again and again."""
        await self._replay()
        _start(self._replay_again(), self._tasks)

    async def _replay(self) -> None:
        for charge in await replay_vault(self._spool, self._rooms.ledger, self._record):
            self._journal.alarm("charge_refused", id=charge.id, user=charge.user, units=charge.accepted)

    async def _replay_again(self) -> None:
        while True:
            await asyncio.sleep(AGAIN)
            await self._replay()

    async def begin(self) -> None:
        """Inherit from all that died before this relay started."""
        # After a power failure a flag may have outlived the table it stood for.
        self._gate.sweep(lambda name: (self._folder / f"{name}.holds").exists())
        names = {path.stem for path in self._folder.glob("*.holds")}
        with suppress(SpoolUnavailable):  # what is claimed is free again when the claims' leases end
            names |= await self._spool.claimants()
        for name in names:
            self.inherit(name)

    def inherit(self, incarnation: str) -> None:
        """See to what a process left; returns at once. Its table shows whether it is dead indeed."""
        _start(self._inherit(incarnation), self._inheriting)

    async def _inherit(self, incarnation: str) -> None:
        path: Path = self._folder / f"{incarnation}.holds"
        try:
            count = await recover(path, self._rooms.ledger, self._record, self._spool.charged, self._spool, self._gate)
        except Exception as error:
            self._journal.bug(incarnation, error)
            count = 0
        if count:
            self._journal.event("holds_returned", incarnation=incarnation, holds=count)
        await self._free_claims(incarnation)

    async def _free_claims(self, incarnation: str) -> None:
        while True:
            try:
                latest = self._spool.now() + self._rooms.settings.retry.doubt_seconds
                entries = await self._spool.release_claims(incarnation, latest)
            except SpoolUnavailable:
                await asyncio.sleep(PAUSE)
                continue
            for entry in entries:
                recipients = [standing.recipient.address for standing in entry.waiting]
                self._journal.killed_in_flight(entry.id, incarnation, recipients)
            return

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
