"""The table: the holds one process may have, in a file of fixed slots.

Promises:
- An entry is in the file before its hold can exist in the store, and what is to be charged for it before the settle is sent; both
  outlive the process, not the machine. A process killed while it writes leaves no half entry: it is there, or it is not.
- A full disk is an error before anything is written, and not a signal at a page that cannot be had: the file's blocks are its own
  before they are mapped.
- A lock on the file shows that its process lives.

What became of a hold is the teller's to say.

The file is mapped: what is written there is the kernel's at once, without a call of it. A slot is the entry's line, `user id units
accepted rejected` with its line feed, and at `MARK` what is to be charged after all: `!accepted rejected`, with a line feed. The first
octet of each is written last, and taken away first.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

SLOT = 256
"""Octets of one entry of the table."""
MARK = 224
STEP = 4096
"""Octets by which the file grows."""
_MARKED = ord("!")


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
        if slot[:1] in (b"", b"\0") or not words[1] or len(parts) != 5 or not all(map(_is_whole, parts[2:])):
            return None
        if slot[MARK : MARK + 1] == b"!":
            marked = slot[MARK + 1 :].partition(b"\n")[0].decode("ascii", "replace").split(" ")
            if len(marked) != 2 or not all(map(_is_whole, marked)):
                return None
            parts[3:] = marked
        return cls(parts[0], parts[1], int(parts[2]), int(parts[3]), int(parts[4]))


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit()


class Table:
    """The holds a process may have, in a file of fixed slots."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        new = path.with_name(f"{path.name}.new")
        self._fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)  # shows that its process lives: nobody sees the file without it
        new.rename(path)
        self._map: mmap.mmap | None = None
        self._free: list[int] = []
        self._end = 0
        self._places: dict[str, int] = {}

    def enter(self, user: str, id: str, units: int) -> None:
        """Enter a hold, unless it is there; raises OSError when the disk is full."""
        if id in self._places:
            return
        if not self._free or self._map is None:
            self._grow()
        map = self._map
        assert map is not None
        line = f"{user} {id} {units} 0 0\n".encode("ascii")
        if len(line) > MARK:
            raise ValueError(f"{user} {id}: too long for the table")
        self._places[id] = place = self._free.pop()
        map[place + MARK] = 0
        map[place + 1 : place + len(line)] = line[1:]
        map[place] = line[0]

    def mark(self, user: str, id: str, units: int, accepted: int, rejected: int) -> None:
        """Say what is to be charged for a hold, which is entered if it is not there; raises OSError when the disk is full."""
        if id not in self._places:
            self.enter(user, id, units)
        map = self._map
        if map is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        mark = b"%d %d\n" % (accepted, rejected)
        place = self._places[id] + MARK
        map[place] = 0
        map[place + 1 : place + 1 + len(mark)] = mark
        map[place] = _MARKED

    def clear(self, id: str) -> None:
        """Forget a hold that is settled."""
        place = self._places.pop(id, None)
        if place is not None and self._map is not None:
            self._map[place] = 0
            self._free.append(place)

    def _grow(self) -> None:
        """Have more slots, none of them on a disk that could be full when they are written."""
        os.posix_fallocate(self._fd, self._end, STEP)
        grown = mmap.mmap(self._fd, self._end + STEP)
        if self._map is not None:
            self._map.close()
        self._map = grown
        self._free += range(self._end + STEP - SLOT, self._end - SLOT, -SLOT)
        self._end += STEP

    def __contains__(self, id: str) -> bool:
        return id in self._places

    def close(self) -> None:
        """Close the file, and remove it if nothing is left in it."""
        if self._map is not None:
            self._map.close()  # it has the file open, too, and the lock
            self._map = None
        os.close(self._fd)
        self._fd = -1  # what comes now is an error, and nobody else's file
        if not self._places:
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
