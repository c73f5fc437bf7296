"""The table: the holds one process may have, in a file of fixed slots.

Promises: an entry is in the file before its hold can exist in the store; it outlives the process, not the machine; a lock on the file
shows that its process lives. What became of a hold is the teller's to say.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

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

    @property
    def is_due(self) -> bool:
        """Whether anything is to be charged; else it only gives capacity back."""
        return self.accepted > 0 or self.rejected > 0

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
        new = path.with_name(f"{path.name}.new")
        self._fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)  # shows that its process lives: nobody sees the file without it
        new.rename(path)
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


async def dead(path: Path) -> None:
    """Wait until the process that made this table is dead, or has ended in order."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    pause = 0.05
    try:
        while not is_abandoned(fd):
            await asyncio.sleep(pause)
            pause = min(pause * 1.2, 1.0)
    finally:
        os.close(fd)


def is_abandoned(fd: int) -> bool:
    """Whether the process that made this open table is dead."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
