"""The ledger: how much a user may send, decided in the store, one script a decision.

Promises (the design behind them is told in book.lua):
- In any `window` a user has at most `hourly` units taken, and at most `total` ever, over all connections, workers and nodes. What
  counts is the commit instant, by the store's clock.
- `reserve` holds capacity for a lease before the message is asked for; `settle` takes or releases it. Both may be repeated.
- A hold whose lease ends stops counting but is not forgotten: settled after all, it is charged, and if that exceeds a limit the
  settlement says so (an overdraft).
- A refusal says from which instant the same request would fit: exact when nothing is in flight, else an upper bound.

Who is told what, and what happens to a charge while the store is away, is left to the teller and the session.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, NamedTuple

from relay.quota import audit
from relay.quota.audit import Audit, Look, Record
from relay.quota.limit import Rules, Usage
from relay.store.client import Script, Store

RECORDS_READ = 100_000
"""The most records of a user that are read at once."""
CHANGES = "relay:changes"
"""The channel on which the name of a changed user is published."""

Reason = Literal["unknown", "disabled", "stale", "total", "never", "hourly", "rejected", "in_flight"]
Outcome = Literal["ok", "late", "done", "gone"]


class Hold(NamedTuple):
    """Capacity held for one message."""

    user: str
    id: str
    units: int
    generation: int
    """The credential generation it was reserved under."""
    expires: float
    """End of the lease by this process's monotonic clock, counted from before the store was asked: never later than the store's."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the ledger said no.

    unknown: no such user. disabled: the user or its owner. stale: its credentials were changed. total: its total limit is reached.
    never: more than its hourly limit at once. hourly: its hourly limit is reached. rejected: too much of its mail was rejected by
    the smarthost. in_flight: only messages in flight stand in the way.
    """

    reason: Reason
    used: int
    limit: int
    retry_after: int | None
    """Seconds, rounded up; None: never."""
    at: int | None
    """The same as seconds since 1970 by the store's clock."""


class Settlement(NamedTuple):
    """What became of a hold."""

    outcome: Outcome
    at: int
    """The commit instant, µs since 1970 by the store's clock."""
    window: int
    taken: int
    is_overdraft: bool


def clock_text() -> str:
    """The text of the scripts' clock; tests put another in its place."""
    return _text("clock.lua")


def _text(name: str) -> str:
    return resources.files("relay.quota").joinpath(name).read_text()


class Ledger:
    """The ledger's calls. Every one raises StoreUnavailable when it is not known whether it was carried out."""

    def __init__(self, store: Store, rules: Rules, clock: str | None = None) -> None:
        self.rules = rules
        self._store = store
        clock = clock or clock_text()
        book = clock + _text("book.lua")
        self._verify = Script.of(clock + _text("verify.lua"))
        self._reserve, self._settle, self._usage = (Script.of(book + _text(f"{name}.lua")) for name in ("reserve", "settle", "usage"))
        self._rules = (rules.window * 1_000_000, rules.resolution * 1_000_000, int(rules.keep_lapsed * 1_000_000))
        self._caps = (str(rules.rejected_factor), rules.rejected_minimum, rules.rejected_unlimited)

    async def reserve(self, user: str, id: str, units: int, generation: int) -> Hold | Refusal:
        """Hold `units` for a message, all or nothing; the same id again renews the lease or says what has changed since."""
        began = time.monotonic()
        lease = int(self.rules.lease * 1_000_000)
        answer = await self._store.run(self._reserve, key(user), *self._rules, id, units, generation, lease, *self._caps)
        if answer[0] == b"ok":
            return Hold(user, id, units, generation, began + self.rules.lease)
        reason, used, limit, instant, raw = answer
        return Refusal(
            reason=reason.decode(),
            used=used,
            limit=limit,
            retry_after=_seconds(instant - raw) if instant else None,
            at=math.ceil(instant / 1e6) if instant else None,
        )

    async def settle(self, user: str, id: str, units: int, accepted: int, rejected: int = 0) -> Settlement:
        """Close a hold: `accepted` of its `units` are taken, `rejected` are counted as such, the rest is released. Idempotent."""
        answer = await self._store.run(self._settle, key(user), *self._rules, id, units, accepted, rejected, self.rules.records)
        outcome, at, window, taken, over = answer
        return Settlement(outcome.decode(), at, window, taken, bool(over))

    async def usage(self, user: str) -> Usage | None:
        """What the user's book says now; None without such a user."""
        answer = await self._store.run(self._usage, key(user), *self._rules)
        if answer[0] == 0:
            return None
        _, hourly, total, window, in_flight, taken, rejected, instant, raw, _ = answer
        retry = None if instant < 0 else _seconds(instant - raw) if instant else 0
        return Usage(_limit(hourly), _limit(total), window, in_flight, taken, rejected, retry)

    async def audit(self, user: str) -> Audit | None:
        """Recount the user's book from its entries and records; nothing is written. None without such a user."""
        answer = await self._store.run(self._verify, key(user), RECORDS_READ)
        if not answer:
            return None
        clock, counters, *zsets, records = answer
        values = (None if value is None else _show(value) for value in counters)
        log, rlog, open, lapsed = ([(_show(flat[i]), float(flat[i + 1])) for i in range(0, len(flat), 2)] for flat in zsets)
        look = Look(clock, dict(zip(audit.COUNTERS, values, strict=True)), log, rlog, open, lapsed, [_show(record) for record in records])
        return audit.audit(look, self.rules)

    async def record(self, user: str, id: str) -> Record | None:
        """The record of the settle of a message, if it charged something and is still kept."""
        entries = await self._store.command("XREVRANGE", f"{key(user)}:settles", "+", "-", "COUNT", RECORDS_READ)
        return audit.recorded([_show(values[1]) for _, values in entries], id)

    async def open_holds(self, user: str) -> dict[str, int]:
        """The user's open holds, id:units to the end of the lease in µs; {} without such a user."""
        answer = await self._store.run(self._usage, key(user), *self._rules)
        return {} if answer[0] == 0 else read_holds(answer[9])

    async def wait_for_change(self, open_then: Mapping[str, Mapping[str, int]], timeout: float) -> bool:
        """Wait until holds are settled or were checked anew; False if some outlast `timeout` seconds.

        `open_then` are each user's open holds as they were read in one step with the change (as `open_holds` shows them): one read
        later may have been checked anew already, and would be waited for in vain. When this returns True, no message that was let
        in under the old state can be taken.
        """
        end = time.monotonic() + timeout
        waiting = {user: holds for user, holds in open_then.items() if holds}
        pause = 0.002
        while waiting and time.monotonic() < end:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.1)
            for user, before in list(waiting.items()):
                now = await self.open_holds(user)
                # A hold that was checked anew shows a later lease.
                before = {member: lease for member, lease in before.items() if now.get(member) == lease}
                if before:
                    waiting[user] = before
                else:
                    del waiting[user]
        return not waiting


def key(user: str) -> str:
    """The key of a user's hash; its braces are the hash tag that all keys of the user share."""
    return f"{{u:{user}}}"


def read_holds(flat: Sequence[Any]) -> dict[str, int]:
    """Read what a script answers for open holds: id:units to the end of the lease in µs."""
    return {flat[i].decode(): int(float(flat[i + 1])) for i in range(0, len(flat), 2)}


def _show(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def _limit(value: bytes) -> int | None:
    return int(value) if value else None


def _seconds(microseconds: int) -> int:
    return max(0, math.ceil(microseconds / 1e6))
