"""The queue's commands on a real spool file, without a store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import typer

from relay.cli import queue
from relay.mail.envelope import Envelope, Recipient
from relay.spool.entry import Entry, Hold, Kind, Standing, State
from relay.spool.spool import Spool
from tests.shell import Ran, Shell, invoke

PREFIX = b"Received: from x\r\n"
WIRE = b"..begins with a dot\r\n\r\nHello\r\n...\r\n..and so does this\r\nbyte \xff\r\n"
MESSAGE = b"Received: from x\r\n.begins with a dot\r\n\r\nHello\r\n..\r\n.and so does this\r\nbyte \xff\r\n"

app = typer.Typer(rich_markup_mode=None)
app.add_typer(queue.queue, name="queue")


@pytest.fixture
def config(place: Path) -> Path:
    """A configuration whose data are in the test's own directory; no store runs there."""
    path = place / "relay.toml"
    (place / "journal").touch()  # a relay has run
    path.write_text(f'[data]\ndirectory = "{place / "data"}"\n[journal]\nfile = "{place / "journal"}"\n')
    return path


@pytest.fixture
def relay(config: Path) -> Shell:
    """Run a command of the queue."""

    async def ran(*arguments: object, said: str = "") -> Ran:
        return await asyncio.to_thread(invoke, app, "queue", *arguments, "--config", config, said=said)

    return ran


@pytest.fixture
async def spool(place: Path) -> AsyncIterator[Spool]:
    """The spool of a relay that runs."""
    opened = Spool(place / "data" / "spool.db", "testtest", 0)
    yield opened
    await opened.close()


async def put(
    spool: Spool, id: str, *, states: tuple[State, ...] = ("waiting",), owner: str = "12345678", user: str = "app", held: Hold = "",
    claimed: str = "", units: int = 0, age: float = 60.0, due: float = 600.0, doubt: bool = False, reply: str = "450 4.2.0 busy",
    sender: str = "app@example.com", kind: Kind = "mail",
) -> None:  # fmt: skip
    """Spool a message to r0@example.net, r1@example.net, ..."""
    now = spool.now()
    standings = tuple(Standing(Recipient(f"r{n}@example.net"), state, reply, doubt) for n, state in enumerate(states))
    envelope = Envelope(sender, tuple(standing.recipient for standing in standings))
    entry = Entry(
        id, user, owner, envelope, standings, now - age, now + due, units=units, accepted=units, held=held, claimed_by=claimed, attempts=2,
        kind=kind, size=len(PREFIX + WIRE),
    )  # fmt: skip
    await spool.put(entry, PREFIX, WIRE)


def events(place: Path) -> list[dict[str, Any]]:
    """What is in the journal."""
    path = place / "journal"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
