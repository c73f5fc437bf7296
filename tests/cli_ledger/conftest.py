"""The ledger's commands on a real store, a real spool and mail logs written by the journal."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relay.accounts.secrets import open_key
from relay.cli.app import app
from relay.journal import Journal
from relay.quota.ledger import Hold, Ledger
from relay.quota.limit import Rules
from relay.store.client import Store
from relay.store.embedded import Embedded
from tests.shell import Ran, Shell, invoke
from tests.talking import generation_of


@pytest.fixture
def config(place: Path) -> Path:
    """A configuration whose data and mail log are in the test's own directory."""
    path = place / "relay.toml"
    path.write_text(f'[data]\ndirectory = "{place / "data"}"\n[journal]\nfile = "{place / "journal"}"\n')
    return path


@pytest.fixture
async def relay(server: Embedded, store: Store, config: Path, place: Path) -> Shell:
    """Run a command where a relay has been started; `said` is its standard input."""
    open_key(place / "data" / "secret.key")
    (place / "journal").touch()

    async def ran(*arguments: object, said: str = "") -> Ran:
        return await asyncio.to_thread(invoke, app, *arguments, "--config", config, said=said)

    return ran


async def add_users(relay: Shell, count: int) -> list[str]:
    """Users of one new owner."""
    owner = (await relay("owner", "add", "Acme", "--json")).json["owner_id"]
    made = [await relay("user", "add", "--owner", owner, "--hourly", "100", "--total", "unlimited", "--json") for _ in range(count)]
    return [ran.json["smtp_user_name"] for ran in made]


async def send(store: Store, user: str, id: str, units: int = 1, accepted: int = 1, rejected: int = 0) -> int:
    """Reserve and settle; the commit instant."""
    ledger = Ledger(store, Rules())
    assert isinstance(await ledger.reserve(user, id, units, await generation_of(store, user)), Hold)
    return (await ledger.settle(user, id, units, accepted, rejected)).at


@contextmanager
def journal(path: Path, style: str = "json") -> Iterator[Journal]:
    """Write to a mail log."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    try:
        yield Journal(fd, "relay.example", style)
    finally:
        os.close(fd)
