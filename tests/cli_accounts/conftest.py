"""The account commands on a real store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from relay.accounts.secrets import open_key
from relay.cli import accounts
from relay.store.embedded import Embedded

app = typer.Typer(rich_markup_mode=None)
app.add_typer(accounts.owner, name="owner")
app.add_typer(accounts.user, name="user")


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What a command with --json printed."""
        assert self.status == 0, self.err
        return json.loads(self.out)

    @property
    def faults(self) -> list[str]:
        """The lines on standard error."""
        return self.err.splitlines()


Relay = Callable[..., Awaitable[Ran]]


def invoke(*arguments: object) -> Ran:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return Ran(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def config(place: Path) -> Path:
    """A configuration whose data are in the test's own directory."""
    path = place / "relay.toml"
    path.write_text(f'[data]\ndirectory = "{place / "data"}"\n[journal]\nfile = "{place / "journal"}"\n[api]\nchange_wait_seconds = 0.3\n')
    return path


@pytest.fixture
async def relay(server: Embedded, config: Path, place: Path) -> Relay:
    """Run a command where a relay has been started."""
    open_key(place / "data" / "secret.key")

    async def ran(*arguments: object) -> Ran:
        return await asyncio.to_thread(invoke, *arguments, "--config", config)

    return ran


@pytest.fixture
async def owner_id(relay: Relay) -> str:
    found: str = (await relay("owner", "add", "Acme", "--json")).json["owner_id"]
    return found
