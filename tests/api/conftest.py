"""The HTTP door on a loopback port, with everything real behind it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from relay.accounts.arranging import Arranging
from relay.accounts.directory import Directory
from relay.accounts.provisioning import Provisioning
from relay.accounts.registry import Registry
from relay.accounts.secrets import Key
from relay.accounts.throttle import Throttle
from relay.accounts.token import Tokens
from relay.api.app import create_app
from relay.api.rooms import Rooms
from relay.api.server import serve_api
from relay.journal import Journal
from relay.quota.ledger import Ledger
from relay.quota.limit import Rules
from relay.session.listener import bind
from relay.spool.spool import Spool
from relay.store.client import Store
from relay.upstream.guard import Guard


@dataclass
class ApiSettings:
    errors_always_200: bool = False
    max_body_bytes: int = 4096
    test_recipient: str = "test@sink.example"
    test_budget_seconds: float = 5.0


@dataclass
class Settings:
    api: ApiSettings = field(default_factory=ApiSettings)


@dataclass
class Guesses:
    failures_per_user: int = 5
    failures_per_address: int = 50
    window_seconds: int = 300


@dataclass
class House:
    """What is behind the door, and where the door is."""

    settings: Settings
    registry: Registry
    provisioning: Provisioning
    ledger: Ledger
    store: Store
    log: Path
    port: int
    stop: asyncio.Event
    rooms: Rooms


@pytest.fixture
def guesses() -> Guesses:
    """The bounds of guessing."""
    return Guesses()


@pytest.fixture
def guard() -> Guard:
    """Where owners' smarthosts may be: on this machine, unless a module says otherwise."""
    return Guard(["127.0.0.0/8"], [*range(1024, 65536)])


@pytest.fixture
async def empty_spool(place: Path) -> AsyncIterator[Spool]:
    """A spool for a module that has one."""
    opened = Spool(place / "spool" / "spool.db", "testtest", 0)
    yield opened
    await opened.close()


@pytest.fixture
async def spool() -> Spool | None:
    """The spool behind the door: none, unless a module has one."""
    return None


@pytest.fixture
async def house(store: Store, place: Path, spool: Spool | None, guesses: Guesses, guard: Guard) -> AsyncIterator[House]:
    """The running server."""
    log = place / "journal"
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    journal, key, settings = Journal(fd, "test"), Key(bytes(range(32))), Settings()
    ledger, registry = Ledger(store, Rules()), Registry(store, key)
    provisioning = Provisioning(store, key, registry, ledger, journal, change_wait=1.0)
    directory = Directory(store, key)
    arranging, tokens = Arranging(store, key, directory, journal), Tokens(store, key, journal)
    rooms = Rooms(
        settings.api, registry, provisioning, ledger, Throttle(store, guesses), journal, store, directory, arranging, tokens,
        guard, "relay.example", spool,
    )  # fmt: skip
    app = create_app(rooms)
    sock = bind("127.0.0.1", 0, shared=False)  # as the relay does it: else each answer would wait 40 ms for an acknowledgement
    sock.listen()
    stop = asyncio.Event()
    serving = asyncio.create_task(serve_api(app, sock, stop))
    yield House(settings, registry, provisioning, ledger, store, log, sock.getsockname()[1], stop, rooms)
    stop.set()
    await serving
    os.close(fd)


@pytest.fixture
async def http(house: House) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the running server."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{house.port}", timeout=30) as client:
        yield client


@dataclass(frozen=True)
class Tenant:
    owner_id: str
    token: str

    @property
    def body(self) -> dict[str, str]:
        return {"owner_id": self.owner_id, "token": self.token}

    @property
    def auth(self) -> tuple[str, str]:
        return self.owner_id, self.token


async def tenant_of(house: House, profile: str = "") -> Tenant:
    owner, token = await house.provisioning.add_owner("A tenant", profile)
    return Tenant(owner.owner_id, token)


@pytest.fixture
async def tenant(house: House) -> Tenant:
    """An owner."""
    return await tenant_of(house)


@pytest.fixture
async def other(house: House) -> Tenant:
    """Another owner."""
    return await tenant_of(house)


@pytest.fixture
async def poweremail(house: House) -> Tenant:
    """An owner with the profile of PowerEmail's document."""
    return await tenant_of(house, "poweremail")
