"""The drain: the idle are told at once, what is under way ends, and nothing outlasts the patience."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.session.conftest import Account, Opening, Worker

DOORS = ("plain", "starttls", "implicit")
SHUTDOWN = b"421 4.3.2 Service shutting down\r\n"


@pytest.mark.parametrize("door", DOORS)
async def test_the_idle_are_told_at_once(worker: Worker, account: Account, door: str) -> None:
    fresh, greeted, entered = await worker.connect(door), await worker.connect(door), await worker.enter(account, door)
    await fresh.reply()
    await greeted.reply()
    await greeted.ask(b"EHLO x")
    await entered.send(b"MAIL FROM:<a@b.example>")
    await entered.reply()
    began = time.monotonic()
    await worker.listeners.drain(5)
    assert time.monotonic() - began < 1
    for wire in (fresh, greeted, entered):
        assert await wire.reply() == SHUTDOWN
        assert await wire.is_closed()
    with pytest.raises(ConnectionError):
        await worker.connect()


@pytest.mark.parametrize("door", DOORS)
async def test_a_message_that_is_being_forwarded_is_answered_and_then_the_connection_is_closed(
    worker: Worker, account: Account, door: str
) -> None:
    worker.script("dot stall=0.2")
    wire = await worker.enter(account, door)
    await wire.begin()
    await wire.write(b"Subject: x\r\n.\r\n")
    await asyncio.sleep(0.05)
    await worker.listeners.drain(5)
    assert (await wire.reply()).startswith(b"250 2.0.0 ")
    assert await wire.reply() == SHUTDOWN
    assert await wire.is_closed()
    assert await worker.account_of(account) == (1, 1)


async def test_a_message_that_is_being_uploaded_may_end(worker: Worker, account: Account) -> None:
    wire = await worker.enter(account)
    await wire.begin()
    draining = asyncio.create_task(worker.listeners.drain(5))
    await asyncio.sleep(0.05)
    await wire.send(b"Subject: x", b".", b"MAIL FROM:<a@b.example>", b"RCPT TO:<c@d.example>", b"DATA")
    assert (await wire.reply()).startswith(b"250 2.0.0 ")
    assert await wire.reply() == SHUTDOWN
    assert await wire.is_closed()
    await draining
    assert await worker.account_of(account) == (1, 1)


async def test_what_does_not_end_in_time_is_told_421_and_released(worker: Worker, account: Account) -> None:
    wire = await worker.enter(account)
    await wire.begin()
    login = await worker.connect()
    await login.reply()
    await login.ask(b"EHLO x")
    await login.ask(b"AUTH LOGIN")
    await worker.listeners.drain(0.2)
    for one in (wire, login):
        assert await one.reply() == SHUTDOWN
        assert await one.is_closed()
    assert await worker.account_of(account) == (0, 0)
    assert worker.house.tasks == set() and not worker.events("bug")


async def test_replies_to_a_long_group_are_not_lost_in_a_drain(worker: Worker) -> None:
    """Whatever was obeyed before the drain is answered before the 421."""
    wire = await worker.connect()
    await wire.reply()
    await wire.write(b"NOOP\r\n" * 300)
    protocol = worker.only()
    while not 0 < protocol.unread < 1800:  # it lets others have their turn, with a part of the group obeyed
        await asyncio.sleep(0)
    obeyed = 300 - protocol.unread // 6
    assert 0 < obeyed < 300
    protocol.drain()
    said = (await wire.reader.read()).splitlines(keepends=True)
    assert said == [b"250 2.0.0 OK\r\n"] * obeyed + [SHUTDOWN]


async def test_a_client_that_does_not_read_does_not_hold_up_the_drain(open_worker: Opening) -> None:
    async with open_worker(rules={"max_commands": 1 << 30}) as worker:
        wire = await worker.connect()
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                while True:
                    await wire.write(b"EHLO x\r\n" * 30_000)
        began = time.monotonic()
        await worker.listeners.drain(0.5)
        assert time.monotonic() - began < 2
        assert worker.house.tasks == set()


async def test_a_draining_worker_greets_nobody(worker: Worker) -> None:
    worker.house.is_draining = True
    wire = await worker.connect()
    assert await wire.reply() == SHUTDOWN
    assert await wire.is_closed()
