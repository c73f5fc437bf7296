"""The ledger's commands on a real store, a real spool and mail logs written by the journal."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from relay.accounts.secrets import open_key
from relay.cli.app import app
from relay.journal import Journal
from relay.quota.ledger import Hold, Ledger
from relay.quota.limit import Rules
from relay.store.client import Store
from relay.store.embedded import Embedded
from tests.talking import generation_of


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What a command with --json printed."""
        return json.loads(self.out)

    @property
    def faults(self) -> list[str]:
        """The lines on standard error."""
        return self.err.splitlines()


Relay = Callable[..., Awaitable[Ran]]


def invoke(*arguments: object) -> Ran:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def config(place: Path) -> Path:
    """A configuration whose data and mail log are in the test's own directory."""
    path = place / "relay.toml"
    path.write_text(f'[data]\ndirectory = "{place / "data"}"\n[journal]\nfile = "{place / "journal"}"\n')
    return path


@pytest.fixture
async def relay(server: Embedded, store: Store, config: Path, place: Path) -> Relay:
    """Run a command where a relay has been started."""
    open_key(place / "data" / "secret.key")

    async def ran(*arguments: object) -> Ran:
        return await asyncio.to_thread(invoke, *arguments, "--config", config)

    return ran


async def add_users(relay: Relay, count: int) -> list[str]:
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
