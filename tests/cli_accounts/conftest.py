"""The account commands on a real store."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import typer

from relay.accounts.secrets import open_key
from relay.cli import accounts
from relay.store.embedded import Embedded
from tests.shell import Ran, Shell, invoke

app = typer.Typer(rich_markup_mode=None)
app.add_typer(accounts.owner, name="owner")
app.add_typer(accounts.user, name="user")


@pytest.fixture
def config(place: Path) -> Path:
    """A configuration whose data are in the test's own directory."""
    path = place / "relay.toml"
    path.write_text(f'[data]\ndirectory = "{place / "data"}"\n[journal]\nfile = "{place / "journal"}"\n[api]\nchange_wait_seconds = 0.3\n')
    return path


@pytest.fixture
async def relay(server: Embedded, config: Path, place: Path) -> Shell:
    """Run a command where a relay has been started; `said` is its standard input."""
    open_key(place / "data" / "secret.key")
    (place / "journal").touch()

    async def ran(*arguments: object, said: str = "") -> Ran:
        return await asyncio.to_thread(invoke, app, *arguments, "--config", config, said=said)

    return ran


@pytest.fixture
async def owner_id(relay: Shell) -> str:
    found: str = (await relay("owner", "add", "Acme", "--json")).json["owner_id"]
    return found
