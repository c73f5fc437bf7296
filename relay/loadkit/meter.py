"""What processes burn and hold: CPU time and resident memory, as the kernel has them (proc_pid_stat(5), proc_pid_status(5)).

Promises: CPU time counts every thread of a process, ended ones too, and for a tree of processes the children that ended and were waited
for; it is exact to the kernel's tick, 10 ms as a rule. Who is gone when it is looked at counts for nothing. A process of a relay is told
by its role, a store wherever it runs in a tree; whatever else is in a tree bears the tree's name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

TICK = 1_000_000 / os.sysconf("SC_CLK_TCK")
"""µs of the unit in which the kernel tells CPU time."""
STORES = ("valkey", "redis")


class Burnt(NamedTuple):
    """What one process has burnt, µs of CPU, and what it holds, octets."""

    cpu: float
    of_children: float
    """What its ended children had burnt."""
    resident: int


def look(pid: int) -> Burnt | None:
    """Look at one process; None where there is none."""
    try:
        # The name of a program may hold spaces and parentheses; what is counted on comes after it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return None
    user, system, children_user, children_system = (int(field) for field in fields[11:15])
    return Burnt((user + system) * TICK, (children_user + children_system) * TICK, pages * os.sysconf("SC_PAGE_SIZE"))


def tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            with suppress(OSError, IndexError):
                parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(place.name))
    found = [root]
    for pid in found:  # which grows while it is walked
        found += children.get(pid, ())
    return found


def peak(pid: int) -> int:
    """The most octets that were resident since the process began, or since `forget_peak`; 0 where there is none."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def forget_peak(pid: int) -> None:
    """Let the peak count from now; where the kernel does not allow that, it stays that of the whole life."""
    with suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


class Meter:
    """Looks at trees of processes by name, and at this process alone, as `load`."""

    def __init__(self, roots: Mapping[str, int]) -> None:
        self._roots = dict(roots)

    def cpu(self) -> dict[str, float]:
        """What was burnt so far, µs by role."""
        own = look(os.getpid())
        found = {"load": own.cpu if own else 0.0}
        for role, _, burnt in self._each():
            found[role] = found.get(role, 0.0) + burnt.cpu + burnt.of_children
        return found

    def pids(self, role: str) -> list[int]:
        """The processes of a role."""
        return [pid for found, pid, _ in self._each() if found == role]

    def resident(self, role: str) -> int:
        """The octets of the largest process of a role; 0 where there is none."""
        return max((burnt.resident for found, _, burnt in self._each() if found == role), default=0)

    def total(self, role: str) -> int:
        """The octets of all processes of a role; pages that they share count in each."""
        return sum(burnt.resident for found, _, burnt in self._each() if found == role)

    def _each(self) -> Iterator[tuple[str, int, Burnt]]:
        for name, root in self._roots.items():
            for pid in tree(root):
                burnt = look(pid)
                if burnt is not None:
                    yield _role(pid, name, is_root=pid == root), pid, burnt


def _role(pid: int, name: str, is_root: bool) -> str:
    try:
        program = Path(f"/proc/{pid}/comm").read_text()
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return name
    if program.startswith(STORES):
        return "store"
    if "worker" in words and "--role" in words[:-1]:
        return words[words.index("--role") + 1]
    return "supervisor" if is_root and name == "relay" else name
