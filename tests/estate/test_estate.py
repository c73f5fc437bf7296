"""What dead processes leave: what is settled before a relay reserves anything, and whose claims are freed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from relay.accounts.user import User
from relay.daemon import Rooms, holds_folder, join, open_journal, open_rooms, provisioning, spool_file
from relay.estate import Estate
from relay.mail.envelope import Envelope, Recipient
from relay.quota.ledger import Hold, key
from relay.quota.table import Table
from relay.source import load
from relay.spool.entry import Entry, Standing
from relay.spool.spool import Spool
from relay.store.embedded import Embedded


@dataclass(slots=True)
class House:
    """The rooms of a supervisor, and one user."""

    rooms: Rooms
    spool: Spool
    estate: Estate
    user: User
    log: Path

    async def put(self, id: str, claimed_by: str = "") -> None:
        """A spooled message whose hold is open."""
        assert isinstance(await self.rooms.ledger.reserve(self.user.name, id, 1, self.user.generation), Hold)
        to = (Recipient("to@example.net"),)
        now = self.spool.now()
        spool = Spool(spool_file(self.rooms.settings), claimed_by, 0)
        standings = (Standing(to[0], in_doubt=bool(claimed_by)),)
        entry = Entry(
            id, self.user.name, self.user.owner_id, Envelope("a@b.example", to), standings, now, now + 660, 1, 1, claimed_by=claimed_by
        )
        await spool.put(entry, b"", b"x\r\n")
        if not claimed_by:
            await spool.close()  # that of a claimant would give its claim back

    async def taken(self) -> int:
        usage = await self.rooms.ledger.usage(self.user.name)
        assert usage is not None
        return usage.taken

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in map(json.loads, self.log.read_text().splitlines()) if line["event"] == name]


@pytest.fixture
async def house(server: Embedded, place: Path) -> AsyncIterator[House]:
    path = place / "relay.toml"
    path.write_text(
        f'[data]\ndirectory = "{place / "data"}"\n[journal]\nfile = "{place / "journal"}"\n[api]\nchange_wait_seconds = 0.2\n'
        f'[store]\nurl = "unix://{place / "data" / "store.sock"}"\n[retry]\ndoubt_seconds = 30\n'
    )
    settings = load(path)
    journal = open_journal(settings)
    async with open_rooms(settings, journal) as rooms:
        await join(rooms)
        accounts = provisioning(rooms)
        owner, _ = await accounts.add_owner("owner")
        user, _ = await accounts.add_user(owner.owner_id, 100, None)
        spool = Spool(spool_file(settings), "estate", 0)
        estate = Estate(rooms, spool, journal)
        yield House(rooms, spool, estate, user, place / "journal")
        await estate.end(1)
        await spool.close()


async def test_after_a_power_failure_what_is_in_the_spool_is_charged_before_anything_is_reserved(house: House) -> None:
    await house.put("a.1")
    await house.put("a.2")
    await house.estate.replay()
    assert await house.taken() == 2
    assert await house.spool.unsettled() == []
    assert sorted(line["id"] for line in house.events("settled")) == ["a.1", "a.2"]


async def test_a_claim_whose_process_is_gone_is_freed_charged_and_on_record(house: House) -> None:
    await house.put("a.1", claimed_by="dead")
    await house.estate.replay()
    entry = await house.spool.find("a.1")
    assert entry is not None
    assert (entry.claimed_by, entry.is_settled) == ("", True)
    assert entry.due <= house.spool.now() + 30
    assert await house.taken() == 1
    assert [(line["id"], line["incarnation"]) for line in house.events("killed_in_flight")] == [("a.1", "dead")]


async def test_what_a_living_process_has_is_left_to_it_until_it_dies(house: House) -> None:
    table = Table(holds_folder(house.rooms.settings) / "living.holds")
    await house.put("a.1", claimed_by="living")
    await house.estate.replay()
    await house.estate.begin()
    await asyncio.sleep(0.3)
    entry = await house.spool.find("a.1")
    assert entry is not None and entry.claimed_by == "living"
    assert await house.taken() == 0
    table.close()  # its lock goes with it, as with a process
    async with asyncio.timeout(5):
        while not house.events("killed_in_flight"):
            await asyncio.sleep(0.02)
        while await house.taken() == 0:
            await asyncio.sleep(0.02)


async def test_a_hold_that_the_store_refuses_for_its_user_keeps_no_claim(house: House) -> None:
    table = Table(holds_folder(house.rooms.settings) / "dead.holds")
    await house.put("a.1", claimed_by="dead")
    counters = await house.rooms.store.command("HGET", key(house.user.name), "taken")
    await house.rooms.store.command("HSET", key(house.user.name), "taken", "x")
    table.close()
    house.estate.inherit("dead")
    async with asyncio.timeout(5):
        while not (house.events("killed_in_flight") and house.events("charge_refused")):
            await asyncio.sleep(0.02)
    assert house.events("charge_refused")[0]["id"] == "a.1"
    await house.rooms.store.command("HSET", key(house.user.name), "taken", counters)
