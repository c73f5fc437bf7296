"""Connections of one user, limited over all workers: one too many is told so and closed, and nobody else feels it."""

from __future__ import annotations

import asyncio

import pytest

from relay.accounts.presence import Presence
from relay.store.client import Store
from tests.session.conftest import Account, Worker

CROWDED = b"421 4.7.0 Too many connections for this account\r\n"


@pytest.fixture
def elsewhere(worker: Worker, store: Store) -> Presence:
    """Another worker's presence; both have a limit of two."""
    worker.house.presence = Presence(store, "test", 2)
    return Presence(store, "other", 2)


async def refused(worker: Worker, account: Account) -> None:
    wire = await worker.connect()
    await wire.reply()
    await wire.ask(b"EHLO client.example")
    assert await wire.ask(b"AUTH PLAIN " + account.plain) == CROWDED
    assert await wire.is_closed()


async def test_one_connection_too_many_is_told_so_closed_and_put_on_record(worker: Worker, account: Account, elsewhere: Presence) -> None:
    assert await elsewhere.enter(account.name)
    wire = await worker.enter(account)
    for _ in range(6):  # no guesses, however often
        await refused(worker, account)
    lines = worker.events("auth_refused")
    assert len(lines) == 6 and (lines[0]["user"], lines[0]["reply"]) == (account.name, CROWDED.decode().strip())
    assert (await wire.offer(b"Subject: x\r\n")).startswith(b"250 ")
    await worker.enter(await worker.add_user())


@pytest.mark.parametrize("goes", ["quit", "reset"])
async def test_who_leaves_makes_room_whichever_way(worker: Worker, account: Account, elsewhere: Presence, goes: str) -> None:
    assert await elsewhere.enter(account.name)
    for _ in range(3):
        wire = await worker.enter(account)
        await refused(worker, account)
        if goes == "quit":
            assert await wire.ask(b"QUIT") == b"221 2.0.0 Bye\r\n"
        else:
            wire.writer.transport.abort()
        await worker.await_connections(0)


async def test_many_at_once_are_let_in_up_to_the_limit(worker: Worker, account: Account, elsewhere: Presence) -> None:
    async def answer() -> bytes:
        wire = await worker.connect()
        await wire.reply()
        await wire.ask(b"EHLO client.example")
        return await wire.ask(b"AUTH PLAIN " + account.plain)

    answers = await asyncio.gather(*(answer() for _ in range(20)))
    assert sorted(answer[:3] for answer in answers) == [b"235"] * 2 + [b"421"] * 18
    assert not await elsewhere.enter(account.name)


async def test_only_who_knows_the_password_is_counted_or_told(worker: Worker, account: Account, elsewhere: Presence) -> None:
    wire = await worker.connect()
    await wire.reply()
    await wire.ask(b"EHLO client.example")
    assert await elsewhere.enter(account.name) and await elsewhere.enter(account.name)
    assert (await wire.ask(b"AUTH LOGIN " + account.plain)).startswith(b"334 ")
    assert (await wire.ask(b"eA==")).startswith(b"535 ")
    elsewhere.leave(account.name)
    elsewhere.leave(account.name)
    await worker.enter(account)
    assert await elsewhere.enter(account.name)


async def test_without_the_store_nobody_is_let_in(worker: Worker, account: Account, elsewhere: Presence, store: Store) -> None:
    lost = Store("unix:///nowhere/at/all")
    worker.house.presence = Presence(lost, "test", 2)
    wire = await worker.connect()
    await wire.reply()
    await wire.ask(b"EHLO client.example")
    assert (await wire.ask(b"AUTH PLAIN " + account.plain)).startswith(b"454 4.7.0 Temporary authentication failure")
    worker.house.presence = elsewhere
    assert (await wire.ask(b"AUTH PLAIN " + account.plain)).startswith(b"235 ")
    await wire.ask(b"QUIT")
    await worker.await_connections(0)
    await lost.close()
    assert await store.command("KEYS", "{t:*") == []
