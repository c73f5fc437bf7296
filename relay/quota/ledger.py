"""The ledger: how much a user may send, decided in the store, by a script.

Promises (the design behind them is told in book.lua; how calls are carried, in post):
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
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from relay.quota import audit
from relay.quota.answer import Hold, Outcome, Reason, Refusal, Settlement
from relay.quota.audit import Audit, Look, Record, show
from relay.quota.limit import Rules, Usage
from relay.quota.post import Post, key, seconds
from relay.store.client import Script, Store

__all__ = ["CHANGES", "Hold", "Ledger", "Outcome", "Reason", "Refusal", "Settlement", "clock_text", "key", "read_holds"]

RECORDS_READ = 100_000
"""The most records of a user that are read at once."""
CHANGES = "relay:changes"
"""The channel on which the name of a changed user is published."""


def clock_text() -> str:
    """The text of the scripts' clock; tests put another in its place."""
    return _text("clock.lua")


def _text(name: str) -> str:
    return resources.files("relay.quota").joinpath(name).read_text(encoding="utf-8")


def _rules_text(rules: Rules) -> str:
    """The rules as the scripts know them: part of their text, so that no call has to say them."""
    window, resolution = rules.window * 1_000_000, rules.resolution * 1_000_000
    keep, lease = int(rules.keep_lapsed * 1_000_000), int(rules.lease * 1_000_000)
    caps = f"{rules.rejected_factor!r}, {rules.rejected_minimum}, {rules.rejected_unlimited}"
    return (
        f"local WINDOW, RESOLUTION, KEEP, LEASE, RECORDS = {window}, {resolution}, {keep}, {lease}, {rules.records}\n"
        f"local CAP_FACTOR, CAP_LEAST, CAP_UNLIMITED = {caps}\n"
    )


class Ledger:
    """The ledger's calls. Every one raises StoreUnavailable when it is not known whether it was carried out."""

    def __init__(self, store: Store, rules: Rules, clock: str | None = None) -> None:
        self.rules = rules
        self._store = store
        clock = clock or clock_text()
        form = clock + _text("form.lua") + _text("records.lua")
        book = form + _rules_text(rules) + _text("book.lua")
        self.script = Script.of(book + _text("post.lua"))
        """What carries out reserve and settle."""
        self._post = Post(store, self.script)
        self._usage = Script.of(book + _text("usage.lua"))
        self._verify = Script.of(form + _text("verify.lua"))

    def reserve(self, user: str, id: str, units: int, generation: int) -> asyncio.Future[Hold | Refusal]:
        """Hold `units` for a message, all or nothing; the same id again renews the lease or says what has changed since."""
        hold = Hold(user, id, units, generation, time.monotonic() + self.rules.lease)
        return self._post.ask(user, f"{id}:{units}".encode(), generation, hold)

    def settle(self, user: str, id: str, units: int, accepted: int, rejected: int = 0) -> asyncio.Future[Settlement]:
        """Close a hold: `accepted` of its `units` are taken, `rejected` are counted as such, the rest is released. Idempotent."""
        charge = "" if accepted == units and not rejected else f"{accepted},{rejected}"
        return self._post.ask(user, f"{id}:{units}".encode(), charge, None)

    async def usage(self, user: str) -> Usage | None:
        """What the user's book says now; None without such a user."""
        answer = await self._store.run(self._usage, key(user))
        if isinstance(answer, int):
            return None
        hourly, total, window, in_flight, taken, rejected, instant, raw, _ = answer
        retry = None if instant < 0 else seconds(instant - raw) if instant else 0
        return Usage(_limit(hourly), _limit(total), window, in_flight, taken, rejected, retry)

    async def audit(self, user: str) -> Audit | None:
        """Recount the user's book from its entries and records; nothing is written. None without such a user."""
        answer = await self._store.run(self._verify, key(user), RECORDS_READ)
        if not answer:
            return None
        clock, counters, *zsets, records = answer
        values = (None if value is None else show(value) for value in counters)
        log, rlog, open, lapsed = ([(show(flat[i]), float(flat[i + 1])) for i in range(0, len(flat), 2)] for flat in zsets)
        look = Look(clock, dict(zip(audit.COUNTERS, values, strict=True)), log, rlog, open, lapsed, records)
        return audit.audit(look, self.rules)

    async def records(self, user: str) -> list[Record]:
        """The settles of a user that charged something, the oldest first, as far as they are kept."""
        answer = await self._store.run(self._verify, key(user), RECORDS_READ)
        return [record for entry in answer[-1] for record in Record.of(entry) or ()] if answer else []

    async def record(self, user: str, id: str) -> Record | None:
        """The record of the settle of a message, if it charged something and is still kept."""
        return next((record for record in reversed(await self.records(user)) if record.id == id), None)

    async def open_holds(self, user: str) -> dict[str, int]:
        """The user's open holds, id:units to the end of the lease in µs; {} without such a user."""
        answer = await self._store.run(self._usage, key(user))
        return {} if isinstance(answer, int) else read_holds(answer[-1])

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


def read_holds(flat: Sequence[Any]) -> dict[str, int]:
    """Read what a script answers for open holds: id:units to the end of the lease in µs."""
    return {flat[i].decode(): int(float(flat[i + 1])) for i in range(0, len(flat), 2)}


def _limit(value: bytes) -> int | None:
    return int(value) if value else None
