"""The spool's clock: seconds that never step, the same in every process of one boot, and roughly those since 1970.

Leases, waits and ages are counted on it: an operator or NTP setting the wall's clock moves none of them. It is the kernel's time since
boot (suspended time counted) plus an offset that is fixed once a boot and kept in the database beside the boot's id. At a new boot the
offset is taken from the wall again, but never so that the clock would run behind the last instant that the spool has seen.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
SEEN_EVERY = 60.0
"""How often the instant is written down, in s: by so much the clock may fall back at a boot with a wrong wall."""


def boottime() -> float:
    """Seconds since boot, those in suspension included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class SpoolClock:
    """Reads the instant; `keep` must be called within the writer's transactions."""

    def __init__(
        self,
        db: sqlite3.Connection,
        boot_id: str | None = None,
        uptime: Callable[[], float] = boottime,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Take the offset of this boot from the database, or fix it there; within a write transaction."""
        self._uptime = uptime
        boot = boot_id or BOOT_ID.read_text().strip()
        kept = dict(db.execute("SELECT name, value FROM meta").fetchall())
        seen = max(float(kept.get("seen", 0.0)), db.execute("SELECT max(arrived) FROM entry WHERE held = ''").fetchone()[0] or 0.0)
        if kept.get("boot") == boot:
            self._offset = float(kept["offset"])
        else:
            up = uptime()
            self._offset = max(wall() - up, seen - up)
            rows = [("boot", boot), ("offset", repr(self._offset))]
            db.executemany("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", rows)
        self._seen = seen

    def __call__(self) -> float:
        return self._uptime() + self._offset

    def keep(self, db: sqlite3.Connection) -> None:
        """Write the instant down, if the last time is a while ago."""
        now = self()
        if now - self._seen >= SEEN_EVERY:
            db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('seen', ?)", (repr(now),))
            self._seen = now
