"""The machine sleeps while the smarthost thinks: the claim's lease is over, and its own process does not send a second copy."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from relay.accounts.directory import Directory
from relay.accounts.registry import Registry
from relay.accounts.secrets import open_key
from relay.journal import Journal
from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from relay.mail.envelope import Envelope, Recipient
from relay.quota.ledger import Ledger
from relay.quota.limit import Rules as QuotaRules
from relay.retry.runner import Rules, Runner
from relay.retry.schedule import Schedule
from relay.spool.entry import Entry, Standing
from relay.spool.spool import Spool
from relay.store.client import Store
from relay.upstream.dispatch import Dispatch
from relay.upstream.guard import Guard
from relay.upstream.route import Target, only

RULES = Rules("relay.example", Schedule(), is_holding=False)


class SleepyClock:
    """A clock that counts the time the machine slept."""

    def __init__(self) -> None:
        self.slept = 0.0

    def __call__(self) -> float:
        return time.time() + self.slept


@asynccontextmanager
async def retrying(spool: Spool, sink: Sink, store: Store, place: Path) -> AsyncIterator[None]:
    """A retry process's work on this spool."""
    dispatch = Dispatch("relay.example", Guard(), store)
    journal = Journal(os.open(place / "journal.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), "relay.example")
    key = open_key(place / "key")
    directory, registry = Directory(store, key), Registry(store, key)
    stop = asyncio.Event()
    runner = Runner(spool, dispatch, only(Target("127.0.0.1", sink.port)), directory, Ledger(store, QuotaRules()), registry, journal, RULES)
    running = asyncio.create_task(runner.run(stop))
    try:
        yield
    finally:
        stop.set()
        await running
        dispatch.close()
        await spool.close()


async def test_a_claim_that_ran_out_while_the_machine_slept_is_not_taken_again_by_its_own_process(
    place: Path, sink: Sink, store: Store
) -> None:
    clock = SleepyClock()
    spool = Spool(place / "spool.db", "sleepy", 0, clock)
    sink.script = Script.parse(["dot match=slow* stall=2"])
    async with retrying(spool, sink, store, place), asyncio.timeout(15):
        for name in ("one", "two"):  # after them there is more than one session
            await spool.put(entry_to(name, clock()), b"", b"Subject: quick\r\n\r\nx\r\n")
            await _until_gone(spool, name)
        await spool.put(entry_to("slow", clock()), b"", b"Subject: once\r\n\r\nonly\r\n")
        while sink.replies[354] < 3:
            await asyncio.sleep(0.01)
        clock.slept = 4 * 3600
        await _until_gone(spool, "slow")
        await asyncio.sleep(2.5)
    assert sink.intake.answered == 3
    assert '"event":"in_doubt"' not in (place / "journal.log").read_text()


def entry_to(name: str, now: float) -> Entry:
    to = Recipient(f"{name}@example.net")
    return Entry(name, "app", "owner", Envelope("app@example.com", (to,)), (Standing(to),), arrived=now, due=now, is_settled=True)


async def _until_gone(spool: Spool, id: str) -> None:
    while await spool.find(id):
        await asyncio.sleep(0.05)
