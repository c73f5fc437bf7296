"""The retry process's rooms, joined in this process: a real spool, a real store, a scripted smarthost."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from relay.accounts.arranging import Arranging
from relay.accounts.directory import Directory
from relay.accounts.provisioning import Provisioning
from relay.accounts.registry import Registry
from relay.accounts.secrets import Key
from relay.accounts.user import User
from relay.journal import Journal
from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from relay.mail.envelope import Envelope, Recipient
from relay.quota.ledger import Hold, Ledger
from relay.quota.limit import Rules as QuotaRules
from relay.retry.runner import Rules, Runner
from relay.retry.schedule import Schedule
from relay.spool.entry import Entry, Standing
from relay.spool.spool import Spool
from relay.store.client import Store
from relay.upstream.dispatch import Dispatch
from relay.upstream.guard import Guard
from relay.upstream.route import Choice, Target, only

SCHEDULE = Schedule(first=0.1, longest=0.2, factor=2.0, jitter=0.2, expire=60.0)


@dataclass(slots=True)
class Bench:
    """The rooms, and what a test does with them."""

    spool: Spool
    ledger: Ledger
    sink: Sink
    provisioning: Provisioning
    arranging: Arranging
    user: User
    log: Path
    number: int = 0
    owners: int = 0

    async def put(self, *recipients: str, notify: str = "", sender: str = "app@example.com", **changes: Any) -> Entry:
        """A spooled message of the user, its hold still open."""
        self.number += 1
        id = f"m.{self.number}"
        hold = await self.ledger.reserve(self.user.name, id, 1, self.user.generation)
        assert isinstance(hold, Hold)
        them = tuple(Recipient(address, notify) for address in recipients or ("to@example.net",))
        now = self.spool.now()
        standings = tuple(Standing(one) for one in them)
        envelope = Envelope(sender, them)
        entry = Entry(
            id, self.user.name, self.user.owner_id, envelope, standings, now, now, 1, 1, attempts=1,
        )  # fmt: skip
        entry = replace(entry, **changes)
        await self.spool.put(entry, b"Received: from here\r\n", b"Subject: x\r\n\r\nHello\r\n")
        return entry

    async def another(self) -> User:
        """A user of another owner."""
        self.owners += 1
        owner, _ = await self.provisioning.add_owner(f"another{self.owners}")
        user, _ = await self.provisioning.add_user(owner.owner_id, 1000, None)
        return user

    async def set_route(self, port: int, domain: str = "", **changes: Any) -> str:
        """Have mail of a domain of the owner's go to a port of this machine; returns the setting's id."""
        target = Target("127.0.0.1", port, down_seconds=0.1, timeout=2.0, is_guarded=True)
        given = await self.arranging.put_setting(self.user.owner_id, domain, [Choice(replace(target, **changes))])
        assert given is not None
        return given[0].id

    def script(self, *lines: str) -> None:
        """What the smarthost does out of the ordinary."""
        self.sink.script = Script.parse(lines)

    def events(self, *names: str) -> list[dict[str, Any]]:
        """The journal's lines of these events."""
        return [line for line in map(json.loads, self.log.read_text().splitlines()) if line["event"] in names]

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(10):
            while not is_so():
                await asyncio.sleep(0.01)

    async def until_gone(self) -> None:
        """Wait until nothing is left in the spool."""
        async with asyncio.timeout(10):
            while [entry async for page in self.spool.pages() for entry in page]:
                await asyncio.sleep(0.02)

    async def taken(self) -> int:
        """Units charged to the user."""
        usage = await self.ledger.usage(self.user.name)
        assert usage is not None
        assert usage.in_flight == 0
        return usage.taken


Starting = Callable[..., AbstractAsyncContextManager[None]]


@pytest.fixture
async def bench(store: Store, place: Path, sink: Sink) -> AsyncIterator[Bench]:
    """A spool and a user; nothing runs yet."""
    fd = os.open(log := place / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    key = Key(bytes(range(32)))
    journal = Journal(fd, "test")
    ledger = Ledger(store, QuotaRules())
    provisioning = Provisioning(store, key, Registry(store, key), ledger, journal, change_wait=0.2)
    owner, _ = await provisioning.add_owner("owner")
    user, _ = await provisioning.add_user(owner.owner_id, 1000, None)
    spool = Spool(place / "spool.db", "other", 0)
    arranging = Arranging(store, key, Directory(store, key), journal)
    yield Bench(spool, ledger, sink, provisioning, arranging, user, log)
    await spool.close()
    os.close(fd)


@pytest.fixture
def retrying(bench: Bench, store: Store, place: Path) -> Starting:
    """Runs a retry process's runner for as long as the context lasts; keywords change its rules, `port` is the smarthost's.

    `opened` opens its spool, `dispatching` sends: a test may have something happen there. `own` are features of the smarthost's target.
    """

    @asynccontextmanager
    async def start(
        port: int = 0, incarnation: str = "retry", opened: type[Spool] = Spool, dispatching: type[Dispatch] = Dispatch,
        own: Mapping[str, Any] = MappingProxyType({}), **rules: Any,
    ) -> AsyncIterator[None]:  # fmt: skip
        fd = os.open(bench.log, os.O_WRONLY | os.O_APPEND)
        spool = opened(place / "spool.db", incarnation, 0)
        route = only(replace(Target("127.0.0.1", port or bench.sink.port, down_seconds=0.1, timeout=2.0), **own))
        guard = Guard(["127.0.0.0/8"], range(1, 65536))
        dispatch = dispatching("relay.example", guard, store)
        key = Key(bytes(range(32)))
        directory, registry = Directory(store, key), Registry(store, key)
        given = Rules(
            **{"hostname": "relay.example", "schedule": SCHEDULE, "doubt": 0.5, "patience": 3.0, "drain": 1.0, "review": 0.1, **rules}
        )
        runner = Runner(spool, dispatch, route, directory, bench.ledger, registry, Journal(fd, "test"), given)
        stop = asyncio.Event()
        task = asyncio.create_task(runner.run(stop))
        try:
            yield
        finally:
            stop.set()
            await task
            dispatch.close()
            await spool.close()
            os.close(fd)

    return start


@pytest.fixture
async def theirs() -> AsyncIterator[Sink]:
    """The owner's own smarthost."""
    started = Sink()
    started.manners = replace(started.manners, keep=True)
    await started.start()
    yield started
    await started.stop()
