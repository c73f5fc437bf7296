"""The upstream and token commands on a real store, and smarthosts on this machine that owners may have."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from relay.accounts.secrets import open_key
from relay.cli.app import app
from relay.store.embedded import Embedded
from tests.shell import Ran, Shell, invoke


@pytest.fixture
def config(place: Path) -> Path:
    """A configuration whose data are in the test's own directory, and whose guard lets owners have smarthosts on this machine."""
    path = place / "relay.toml"
    path.write_text(
        f'[data]\ndirectory = "{place / "data"}"\n[journal]\nfile = "{place / "journal"}"\n'
        '[api]\ntest_recipient = "test@sink.example"\ntest_budget_seconds = 3.0\n[guard]\nallow_networks = ["127.0.0.0/8"]\n'
    )
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
    """An owner."""
    found: str = (await relay("owner", "add", "Acme", "--json")).json["owner_id"]
    return found
