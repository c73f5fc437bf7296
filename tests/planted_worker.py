"""A worker with one fault planted in it, beside those of a running relay, to see whether the oracle finds it.

It is joined as the daemon joins one, of the real rooms; the fault is a part of its own kind, or a store that is told another text than
the ledger's scripts, handed to the constructor that takes it. "none" is the control.

python -m tests.planted_worker FAULT PORT CONFIG
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import uvloop

from relay.accounts.changes import Changes
from relay.accounts.directory import Directory, Look
from relay.accounts.setting import Outfit
from relay.accounts.throttle import Throttle
from relay.config.settings import Settings
from relay.daemon import epoch_file, holds_folder, new_incarnation, open_journal, open_rooms, quota_rules, settled_in, store_url
from relay.mail.envelope import Envelope
from relay.mail.reply import Reply
from relay.mail.verdict import Delivered
from relay.outlet import open_dispatch, own_route, terms, worker_share
from relay.quota.ledger import CHANGES, Hold, Ledger, Refusal, Settlement
from relay.quota.table import Charge, Table
from relay.quota.teller import Kept, Teller
from relay.session.door import Door
from relay.session.house import Forward, House, Rules
from relay.session.listener import Listeners, bind
from relay.source import load
from relay.store import fitness
from relay.store.client import Argument, Script, Store, StoreUnavailable, Waiter
from relay.upstream.route import Route
from relay.upstream.smarthost import Message
from relay.upstream.terms import Attempt, Terms

ROOT = Path(__file__).parents[1]
LATE = 1.0
"""Seconds by which what is late is late."""


class Rewriting(Store):
    """A store that is told another text than the ledger's."""

    def __init__(self, url: str, timeout: float, texts: Sequence[tuple[str, str]]) -> None:
        super().__init__(url, timeout)
        self._texts = texts
        self._rewritten: dict[str, Script] = {}

    def run(self, script: Script, key: Argument, *arguments: Argument) -> asyncio.Future[Any]:
        return super().run(self._rewrite(script), key, *arguments)

    def tell(self, waiter: Waiter, script: Script, key: Argument, arguments: Sequence[Argument]) -> None:
        super().tell(waiter, self._rewrite(script), key, arguments)

    def _rewrite(self, script: Script) -> Script:
        if script.digest not in self._rewritten:
            text = script.text
            for old, new in self._texts:
                text = text.replace(old, new)
            self._rewritten[script.digest] = Script.of(text) if text != script.text else script
        return self._rewritten[script.digest]


class Open(Teller):
    """A teller that lets everything pass while the store is away."""

    async def reserve(self, user: str, id: str, units: int, generation: int) -> Hold | Refusal:
        try:
            return await super().reserve(user, id, units, generation)
        except StoreUnavailable:
            return Hold(user, id, units, generation, time.monotonic() + 600)

    async def settle(self, hold: Hold, accepted: int, rejected: int = 0) -> Settlement | Kept:
        try:
            settlement = await self.ledger.settle(hold.user, hold.id, hold.units, accepted, rejected)
        except StoreUnavailable:
            settlement = Settlement("done", 0, 0, 0, False)
        self._table.clear(hold.id)
        return settlement


class Tardy(Teller):
    """A teller that counts after the client was answered."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._late: set[asyncio.Task[None]] = set()

    async def settle(self, hold: Hold, accepted: int, rejected: int = 0) -> Settlement | Kept:
        self._late.add(asyncio.create_task(self._settle_late(hold, accepted, rejected)))
        return Settlement("done", 0, 0, 0, False)

    async def _settle_late(self, hold: Hold, accepted: int, rejected: int) -> None:
        await asyncio.sleep(LATE)
        settlement = await super().settle(hold, accepted, rejected)
        if isinstance(settlement, Settlement):
            self._on_settled(Charge(hold.user, hold.id, hold.units, accepted, rejected), settlement)


class Guess(Look):
    """A look that takes nothing for an answer."""

    __slots__ = ()

    async def outfit(self) -> Outfit:
        try:
            return await super().outfit()
        except StoreUnavailable:
            return Outfit()


class Guessing(Directory):
    """A directory that says that nothing is set while the store is away."""

    def look(self, owner_id: str) -> Look:
        look = super().look(owner_id)
        look.__class__ = Guess
        return look


class Forgetful:
    """A way out that loses every tenth message, and says that it was delivered."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._count = 0

    async def forward(self, route: Route, user: str, envelope: Envelope, message: Message, terms: Terms) -> Attempt:
        self._count += 1
        if self._count % 10 == 0:
            return Attempt(dict.fromkeys(envelope.recipients, Delivered(Reply(250, "0.0", "Ok"))))
        return await self._forward(route, user, envelope, message, terms)


TEXTS: dict[str, tuple[tuple[str, str], ...]] = {
    # Entries leave with the end of their calendar window, as where a counter begins anew each hour.
    "fixed hour": (
        (
            "return (tonumber(entry[1] or bucket) + 1) * resolution + window",
            "return (math.floor(tonumber(entry[1] or bucket) * resolution / window) + 1) * window",
        ),
        (
            "math.floor(now / RESOLUTION), math.floor((now - WINDOW) / RESOLUTION)",
            "math.floor(now / RESOLUTION), fixed * WINDOW / RESOLUTION",
        ),
        ("local bucket, edge =", "local fixed = math.floor(now / WINDOW)\nlocal bucket, edge ="),
        ("if edge > math.floor((last - WINDOW) / RESOLUTION) then", "do"),
    ),
    "total ignored": (("local cap = hourly and", "total = nil\nlocal cap = hourly and"),),
    "refuses with room": (("hourly and sent + n > hourly", "hourly and sent + n > hourly / 2"),),
    "cap ignored": (("local sent, bounced = taken - gone, rejected - rgone", "local sent, bounced = taken - gone, 0"),),
    "lost refund": (("accepted, bounced = tonumber(accepted), tonumber(bounced)", "accepted, bounced = n, tonumber(bounced)"),),
    "wrong second": (
        ("reason, used, limit = 'hourly', sent, hourly", "reason, used, limit, instant = 'hourly', sent, hourly, instant + 2000000"),
    ),
    "late disable": (
        (
            "if f[1] ~= 'E' or f[2] ~= 'E' then",
            "if f[1] ~= 'E' then redis.call('HSETNX', K, 'planted', now) end\n"
            "local spared = f[1] ~= 'E' and now - tonumber(redis.call('HGET', K, 'planted')) < 1000000\n"
            "if (f[1] ~= 'E' or f[2] ~= 'E') and not spared then",
        ),
        ("elseif asked ~= generation then", "elseif asked ~= generation and not spared then"),
    ),
}
"""What stands in the ledger's scripts, and what is put in its place."""


def texts_of(fault: str) -> tuple[tuple[str, str], ...]:
    """What to rewrite for a fault; the scripts must say it, else nothing would be planted."""
    whole = "".join(resources.files("relay.quota").joinpath(name).read_text() for name in ("book.lua", "post.lua"))
    texts = TEXTS.get(fault, ())
    assert all(old in whole for old, _ in texts), f"the ledger's scripts say it in other words now: {fault}"
    return texts


async def serve(fault: str, port: int, settings: Settings) -> None:
    """Be the worker until SIGTERM."""
    journal, incarnation = open_journal(settings), new_incarnation()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with open_rooms(settings, journal, may_create_key=False) as rooms:
        planted = Rewriting(store_url(settings), settings.store.timeout_seconds, texts_of(fault))
        for store in (rooms.store, planted):
            await fitness.join(store, epoch_file(settings))
        teller = {"fail open": Open, "counts late": Tardy}.get(fault, Teller)(
            Ledger(planted, quota_rules(settings)), Table(holds_folder(settings) / f"{incarnation}.holds"), settled_in(journal)
        )
        dispatch = open_dispatch(settings, journal, rooms.store, partial(worker_share, settings))
        house: House
        changes = Changes(rooms.store, CHANGES if fault != "late disable" else "unheard", lambda user: house.on_change(user))
        house = House(
            rules=Rules("planted.example", max_refusals=1_000_000), incarnation=incarnation, registry=rooms.registry,
            throttle=Throttle(rooms.store, settings.throttle), teller=teller, changes=changes, journal=journal, terms=terms(settings),
            directory=(Guessing if fault == "fail open" else Directory)(rooms.store, rooms.key), route=own_route(settings),
            forward=Forgetful(dispatch.forward).forward if fault == "lost message" else dispatch.forward,
        )  # fmt: skip
        listeners = Listeners(house)
        listening = asyncio.create_task(changes.run())
        await listeners.open([(Door(port, "none", auth_without_tls=True), bind("127.0.0.1", port))])
        print("ready", flush=True)
        await stop.wait()
        await listeners.drain(5)
        await asyncio.sleep(LATE if fault == "counts late" else 0)
        listening.cancel()
        dispatch.close()
        await teller.close(settings.store.timeout_seconds)
        await planted.close()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2]), load(Path(sys.argv[3]))))
