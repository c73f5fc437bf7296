"""The gate: no process of this node reserves while one of them has charges the store has not answered for.

Promises:
- A process that shuts the gate keeps it shut until it opens it itself, or until who recovers its table does so: the file outlives
  the process. What is shut for one name is not opened for another.
- A look at it costs no system call: the file is mapped, and what the others write is seen at once.
- It never makes a charge fail: where the file cannot be written, the process that has charges still reserves nothing itself.

Which charges count, and when they are answered, is the teller's to know.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SLOTS = 512
NAME = 32
"""Octets of a name; the names stand behind the flags, one octet a slot."""
_SIZE = SLOTS * (1 + NAME)
_SHUT, _OPEN = b"\1", b"\0"


class Gate:
    """The gate of one node; all its processes open the same file. Raises OSError where the file cannot be had."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Its blocks exist from here on: a look at the map must never meet a full disk.
            os.posix_fallocate(self._fd, 0, _SIZE)
            self._map = mmap.mmap(self._fd, _SIZE, access=mmap.ACCESS_READ)
        except BaseException:
            os.close(self._fd)
            raise

    def is_shut(self) -> bool:
        """Whether anyone on this node has charges to be recorded first."""
        return self._map.find(_SHUT, 0, SLOTS) >= 0

    def shut(self, name: str) -> None:
        """Shut it in the name of a process; again is no different."""
        with self._alone(), suppress(OSError):
            slot = self._find(name)
            if slot is None:
                # With every slot taken it is shut 512 times over already.
                slot = self._map.find(_OPEN, 0, SLOTS)
                if slot < 0:
                    return
                self._write(SLOTS + slot * NAME, _padded(name))
            self._write(slot, _SHUT)

    def open(self, name: str) -> None:
        """Take back what was shut in this name; without effect if nothing was."""
        with self._alone(), suppress(OSError):
            slot = self._find(name)
            if slot is not None:
                self._write(slot, _OPEN)

    def sweep(self, is_pending: Callable[[str], bool]) -> None:
        """Open it for every name that has nothing pending any more: after a power failure flags may outlive what they stood for."""
        for name in self.names():
            if not is_pending(name):
                self.open(name)

    def names(self) -> list[str]:
        """In whose names it is shut."""
        with self._alone():
            return [self._name(slot) for slot in range(SLOTS) if self._map[slot : slot + 1] == _SHUT]

    def close(self) -> None:
        """Let go of the file; what is shut stays shut."""
        self._map.close()
        os.close(self._fd)

    def _find(self, name: str) -> int | None:
        wanted = _padded(name)
        slot = self._map.find(_SHUT, 0, SLOTS)
        while slot >= 0:
            if self._map[SLOTS + slot * NAME : SLOTS + (slot + 1) * NAME] == wanted:
                return slot
            slot = self._map.find(_SHUT, slot + 1, SLOTS)
        return None

    def _name(self, slot: int) -> str:
        return self._map[SLOTS + slot * NAME : SLOTS + (slot + 1) * NAME].rstrip(b"\0").decode("ascii", "replace")

    def _write(self, place: int, octets: bytes) -> None:
        # Not through the map: there a full disk would be a signal instead of an error.
        if os.pwrite(self._fd, octets, place) != len(octets):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)


def _padded(name: str) -> bytes:
    octets = name.encode("ascii", "backslashreplace")
    if not octets or len(octets) > NAME:
        raise ValueError(f"{name!r} is no name of 1 to {NAME} octets")
    return octets.ljust(NAME, b"\0")
