"""config/valkey.conf: a real server takes it, and the relay finds nothing to warn of."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.store import fitness
from relay.store.client import Store, StoreUnavailable
from relay.store.embedded import find_server

CONF = Path(__file__).parents[2] / "config" / "valkey.conf"
PRODUCTION_SOCKET = "/run/valkey/valkey.sock"


@pytest.fixture
async def production(place: Path) -> AsyncIterator[str]:
    """A server run with the file, its socket in an empty directory; yields its URL."""
    text = CONF.read_text()
    assert PRODUCTION_SOCKET in text
    file = place / "valkey.conf"
    users = "user default off\nuser relay on >PASSWORD ~* &* +@all -@dangerous +info +config|get\n"
    assert all(f"# {line}\n" in text for line in users.splitlines())
    file.write_text(text.replace(PRODUCTION_SOCKET, str(place / "s")) + f'dir "{place}"\nlogfile "{place}/log"\n{users}')
    server = subprocess.Popen([find_server(), str(file)], cwd=place)
    url = f"unix://relay:PASSWORD@{place}/s?db=0"
    try:
        for _ in range(200):
            if (place / "s").exists() or server.poll() is not None:
                break
            await asyncio.sleep(0.02)
        assert server.poll() is None, (place / "log").read_text()
        yield url
    finally:
        server.terminate()
        server.wait()


async def test_the_relay_has_nothing_to_warn_of(production: str, place: Path) -> None:
    store = Store(production)
    try:
        for _ in range(100):
            try:
                assert await fitness.join(store, place / "epoch")
                break
            except StoreUnavailable:
                await asyncio.sleep(0.02)
        assert await fitness.inspect(store) == []
        await fitness.agree(store, {"unit": "messages"})
    finally:
        await store.close()
