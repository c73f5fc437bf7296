"""Damage in the file: the entry is held and told of, nothing of it is dropped, and the others go on."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.spool.fault import EntryCorrupt, SpoolUnavailable
from relay.spool.schema import PAGE
from relay.spool.spool import Spool
from tests.spool.making import Hands, as_all, ids, put, scribble


@pytest.fixture
def told() -> list[tuple[str, str]]:
    return []


@pytest.fixture
async def hearing(path: Path, clock: Hands, told: list[tuple[str, str]]) -> AsyncIterator[Spool]:
    """A spool that tells, with an entry before and after the one to be damaged."""
    spool = Spool(path, "me", 0, clock, lambda id, why: told.append((id, why)))
    for id in ("a", "bad", "c"):
        await put(spool, id, recipients=2)
    yield spool
    await spool.close()


ROWS = {
    "an address changed": "UPDATE standing SET address = 'r0@example.com' WHERE seq = 2 AND position = 0",
    "an address that is no text": "UPDATE standing SET address = x'ff00' WHERE seq = 2 AND position = 0",
    "an address of no UTF-8": "UPDATE standing SET address = CAST(x'ff00fe' AS TEXT) WHERE seq = 2 AND position = 0",
    "a sender changed": "UPDATE entry SET sender = 'x@example.com' WHERE seq = 2",
    "a state unknown": "UPDATE standing SET state = 'lost' WHERE seq = 2 AND position = 1",
    "a kind unknown": "UPDATE entry SET kind = 'spam' WHERE seq = 2",
    "a number that is none": "UPDATE entry SET attempts = 'x' WHERE seq = 2",
    "a standing gone": "DELETE FROM standing WHERE seq = 2 AND position = 1",
    "all standings gone": "DELETE FROM standing WHERE seq = 2",
}


@pytest.mark.parametrize("damage", ROWS)
async def test_an_entry_that_cannot_be_read_is_held(damage: str, hearing: Spool, path: Path, told: list[tuple[str, str]]) -> None:
    scribble(path, ROWS[damage])
    assert [entry.held for entry in [e async for page in hearing.pages() for e in page]] == ["", "corrupt", ""]
    assert [entry.id for entry in await hearing.due(hearing.now(), 10)] == ["a", "c"]
    assert [id for id, _ in told] == ["bad"]
    assert (await hearing.counts()).held == 1
    assert [entry.id for entry in await hearing.due(hearing.now(), 10)] == ["a", "c"]
    assert [id for id, _ in told] == ["bad"]
    found = await hearing.find("bad")
    assert found is not None and found.id == "bad" and found.held == "corrupt"


@pytest.mark.parametrize("damage", ROWS)
async def test_an_entry_that_cannot_be_read_is_not_claimed(damage: str, hearing: Spool, path: Path, told: list[tuple[str, str]]) -> None:
    scribble(path, ROWS[damage])
    claimed = await hearing.claim(["a", "bad", "c"], 60, hearing.now())
    assert [entry.id for entry in claimed] == ["a", "c"]
    assert [id for id, _ in told] == ["bad"]
    assert await ids(hearing, which="held") == ["bad"]
    assert (await hearing.counts()).claimed == 2


async def test_a_content_that_is_gone_is_seen_before_anything_is_tried(hearing: Spool, path: Path, told: list[tuple[str, str]]) -> None:
    scribble(path, "DELETE FROM content WHERE seq = 2")
    assert len(await hearing.claim(["a", "bad", "c"], 60, hearing.now())) == 2
    assert told == [("bad", "its content is gone")]


@pytest.mark.parametrize(
    "change", ["wire = substr(wire, 1, 20)", "wire = zeroblob(length(wire))", "prefix = wire", "crc = 0", "wire = 'text'"]
)
async def test_a_content_that_was_changed_is_not_given_out(change: str, hearing: Spool, path: Path, told: list[tuple[str, str]]) -> None:
    scribble(path, f"UPDATE content SET {change} WHERE seq = 2")
    with pytest.raises(EntryCorrupt):
        await hearing.content("bad")
    assert [id for id, _ in told] == ["bad"]
    assert await ids(hearing, which="held") == ["bad"]
    assert (await hearing.content("a")) == (await hearing.content("c"))


async def test_a_corrupt_entry_can_be_removed_by_a_person(hearing: Spool, path: Path) -> None:
    scribble(path, ROWS["an address of no UTF-8"])
    await hearing.due(hearing.now(), 10)
    removed = await hearing.remove("bad")
    assert removed is not None and removed != "claimed"
    assert (removed.id, removed.held, removed.envelope.sender) == ("bad", "corrupt", "s@example.com")
    assert await ids(hearing) == ["a", "c"]


async def test_the_claims_of_a_dead_process_are_dropped_though_an_entry_is_corrupt(hearing: Spool, path: Path) -> None:
    await hearing.claim(["a", "bad"], 60, hearing.now())
    scribble(path, ROWS["all standings gone"])
    assert [(entry.id, entry.held) for entry in await hearing.release_claims("me")] == [("a", ""), ("bad", "corrupt")]


def pages_of(path: Path, table: str) -> list[int]:
    """The leaf pages of a table, from its beginning."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    [(root,)] = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,))
    db.close()
    raw = path.read_bytes()
    page = raw[(root - 1) * PAGE : root * PAGE]
    if page[0] in (10, 13):  # a leaf
        return [root]
    cells = int.from_bytes(page[3:5], "big")
    starts = [int.from_bytes(page[12 + 2 * cell : 14 + 2 * cell], "big") for cell in range(cells)]
    return [int.from_bytes(page[start : start + 4], "big") for start in starts] + [int.from_bytes(page[8:12], "big")]


def ruin(path: Path, page: int) -> None:
    """Overwrite a page of the file, as a bad disk would."""
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(b"\xaa" * PAGE)


@pytest.mark.parametrize("table", ["entry", "standing", "content"])
async def test_a_ruined_page_leaves_the_other_entries_alone(table: str, path: Path, clock: Hands) -> None:
    told: list[str] = []
    spool = Spool(path, "me", 0, clock)
    await asyncio.gather(*(put(spool, f"m{number:03}") for number in range(1000)))
    await spool.close()
    ruin(path, pages_of(path, table)[1])
    spool = Spool(path, "me", 0, clock, lambda id, why: told.append(id))
    assert len(await ids(spool)) == 1000
    found = await spool.due(clock.now, 2000)
    whole = 0
    for entry in found:
        try:
            await spool.content(entry.id)
            assert await spool.finish(entry.id, as_all(entry, "delivered"), None)
        except (EntryCorrupt, SpoolUnavailable):
            continue
        whole += 1
    assert 750 <= whole < 1000
    assert set(told) and set(told) <= {f"m{number:03}" for number in range(1000)}
    await put(spool, "new")
    assert (await spool.content("new"))[0]
    await spool.close()
