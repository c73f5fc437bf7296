"""The teller: one process's use of the ledger, with its promises kept while the store is away and after its own death.

Promises:
- A charge is never forgotten: if the store does not answer a settle in time, it is kept and repeated until answered, and nothing
  is reserved before that (what is open in the store may be ours to close first).
- Capacity held by a process that was killed comes back at once: before a hold can exist in the store it is written to a table in
  a file (which outlives the process, not the machine: then the lease ends it), and what the smarthost has taken is marked there
  before the settle is sent. `recover` settles what the table shows, with the charge for what was marked.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from relay.quota.ledger import Hold, Ledger, Refusal, Settlement
from relay.store.client import StoreRefused, StoreUnavailable

SLOT = 256
"""Octets of one entry of the table."""
_FREE = b"\0" * SLOT


@dataclass(frozen=True, slots=True)
class Charge:
    """A settle to be sent."""

    user: str
    id: str
    units: int
    accepted: int
    rejected: int

    def line(self) -> bytes:
        """The entry of the table."""
        text = f"{self.user} {self.id} {self.units} {self.accepted} {self.rejected}\n"
        return text.encode("ascii").ljust(SLOT, b"\0")

    @classmethod
    def of(cls, slot: bytes) -> Charge | None:
        """Read an entry; None if the slot is free or was never finished."""
        words = slot.partition(b"\n")
        parts = words[0].decode("ascii", "replace").split(" ")
        # After a power failure a block may hold anything.
        if not words[1] or len(parts) != 5 or not all(part.isascii() and part.isdigit() for part in parts[2:]):
            return None
        return cls(parts[0], parts[1], int(parts[2]), int(parts[3]), int(parts[4]))


class Table:
    """The holds a process may have, in a file of fixed slots."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)  # shows that its process lives
        self._free: list[int] = []
        self._end = 0
        self._slots: dict[str, int] = {}

    def write(self, charge: Charge) -> None:
        """Enter a hold, or change what is to be charged for it; raises OSError when the disk is full."""
        slot = self._slots.get(charge.id)
        is_new = slot is None
        if slot is None:
            if not self._free:
                self._free.append(self._end)
                self._end += 1
            slot = self._free[-1]
        if os.pwrite(self._fd, charge.line(), slot * SLOT) != SLOT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if is_new:
            self._slots[charge.id] = self._free.pop()

    def clear(self, id: str) -> None:
        """Forget a hold that is settled."""
        slot = self._slots.pop(id, None)
        if slot is not None:
            with suppress(OSError):  # what stays is settled once more by `recover`, without effect
                os.pwrite(self._fd, _FREE, slot * SLOT)
            self._free.append(slot)

    def __contains__(self, id: str) -> bool:
        return id in self._slots

    def close(self) -> None:
        """Close the file, and remove it if nothing is left in it."""
        os.close(self._fd)
        if not self._slots:
            self.path.unlink(missing_ok=True)


def read_table(path: Path) -> list[Charge]:
    """What the table of a dead process shows."""
    content = path.read_bytes()
    slots = (content[i : i + SLOT] for i in range(0, len(content), SLOT))
    return [charge for slot in slots if (charge := Charge.of(slot))]


def _is_abandoned(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Teller:
    """Reserves and settles for one process."""

    def __init__(self, ledger: Ledger, table: Table, on_settled: Callable[[Charge, Settlement], None]) -> None:
        """`on_settled` hears of each charge that had to wait."""
        self.ledger = ledger
        self._table = table
        self._on_settled = on_settled
        self._kept: deque[Charge] = deque()
        self._odd: deque[Charge] = deque()
        self._replay: asyncio.Task[None] | None = None

    @property
    def kept(self) -> int:
        """How many settles wait for the store."""
        return len(self._kept) + len(self._odd)

    async def reserve(self, user: str, id: str, units: int, generation: int) -> Hold | Refusal:
        """Hold capacity for a message, or say why not; raises StoreUnavailable, then nothing may be sent under this id."""
        charge = Charge(user, id, units, 0, 0)
        # What the store cannot record for one user (a damaged book) bars that user, not the others.
        is_barred = self._kept or any(odd.user == user for odd in self._odd)
        problem = "charges wait to be recorded first" if is_barred else self._enter(charge)
        if problem is not None:
            if id in self._table:
                self._keep(charge)  # it was reserved before, and the caller will not come back for it
            raise StoreUnavailable(problem)
        try:
            answer = await self.ledger.reserve(user, id, units, generation)
        except BaseException:
            self._keep(charge)  # the hold may exist: its reply was lost
            raise
        if isinstance(answer, Refusal):
            self._table.clear(id)
        return answer

    async def settle(self, hold: Hold, accepted: int, rejected: int = 0) -> Settlement | None:
        """Take or release what was held; None if the store did not answer: the charge is kept and will be recorded."""
        charge = Charge(hold.user, hold.id, hold.units, accepted, rejected)
        if accepted or rejected:
            self._enter(charge)  # if that fails, memory still has it: only a kill at this very moment could lose it
        try:
            settlement = await self.ledger.settle(charge.user, charge.id, charge.units, accepted, rejected)
        except (StoreUnavailable, StoreRefused):
            self._keep(charge)
            return None
        except BaseException:
            self._keep(charge)
            raise
        self._table.clear(charge.id)
        return settlement

    def _enter(self, charge: Charge) -> str | None:
        """Write to the table; returns what prevents it."""
        try:
            self._table.write(charge)
        except OSError as error:
            return f"{self._table.path}: {error.strerror}"
        return None

    def _keep(self, charge: Charge) -> None:
        self._kept.append(charge)
        if self._replay is None or self._replay.done():
            self._replay = asyncio.get_running_loop().create_task(self._replay_kept())

    async def _replay_kept(self) -> None:
        pause = 0.05
        while waiting := self._kept or self._odd:
            charge = waiting[0]
            try:
                settlement = await self.ledger.settle(charge.user, charge.id, charge.units, charge.accepted, charge.rejected)
            except StoreUnavailable:
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
            except StoreRefused:
                self._odd.append(waiting.popleft())
                if not self._kept:
                    await asyncio.sleep(1.0)
            else:
                waiting.popleft()
                self._table.clear(charge.id)
                self._on_settled(charge, settlement)

    async def close(self, patience: float) -> None:
        """Give the kept charges `patience` seconds; what is left stays in the table for `recover`."""
        if self._replay is not None and not self._replay.done():
            await asyncio.wait({self._replay}, timeout=patience)
            self._replay.cancel()
        self._table.close()


async def recover(path: Path, ledger: Ledger, on_settled: Callable[[Charge, Settlement], None]) -> int:
    """Settle what the table of a dead process shows, remove it, and return how many holds there were.

    Waits for the process to be dead (one whose supervisor was killed may still be draining), and for the store.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        while not _is_abandoned(fd):
            await asyncio.sleep(0.05)
    finally:
        os.close(fd)
    if not path.exists():  # its process ended in order
        return 0
    charges = await asyncio.to_thread(read_table, path)
    pause = 0.05
    left = list(charges)
    while left:
        calls = [ledger.settle(c.user, c.id, c.units, c.accepted, c.rejected) for c in left]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        again = []
        for charge, answer in zip(left, answers, strict=True):
            if isinstance(answer, StoreUnavailable | StoreRefused):
                again.append(charge)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                on_settled(charge, answer)
        if again:
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)
        left = again
    path.unlink(missing_ok=True)
    return len(charges)
