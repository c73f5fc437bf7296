"""The accounts room on a real store, with a real ledger."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from relay.accounts.arranging import Arranging
from relay.accounts.directory import Directory
from relay.accounts.provisioning import Provisioning
from relay.accounts.registry import Registry
from relay.accounts.secrets import Key
from relay.journal import Journal
from relay.quota.ledger import Ledger
from relay.quota.limit import Rules
from relay.store.client import Store


@dataclass(frozen=True)
class Limits:
    """The throttle's, small enough to be met."""

    failures_per_user: int = 3
    failures_per_address: int = 6
    window_seconds: int = 320


@pytest.fixture
def key() -> Key:
    """The key of the accounts."""
    return Key(bytes(range(32)))


@pytest.fixture
def log(place: Path) -> Path:
    """The file the journal writes."""
    return place / "journal"


@pytest.fixture
async def journal(log: Path) -> AsyncIterator[Journal]:
    """A journal on a file."""
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    yield Journal(fd, "test")
    os.close(fd)


@pytest.fixture
def ledger(store: Store) -> Ledger:
    """The ledger on the same store."""
    return Ledger(store, Rules())


@pytest.fixture
def registry(store: Store, key: Key) -> Registry:
    """The registry."""
    return Registry(store, key)


@pytest.fixture
def provisioning(store: Store, key: Key, registry: Registry, ledger: Ledger, journal: Journal) -> Provisioning:
    """Provisioning, with a short wait for what is in flight."""
    return Provisioning(store, key, registry, ledger, journal, change_wait=1.0)


@pytest.fixture
async def owner_id(provisioning: Provisioning) -> str:
    return (await provisioning.add_owner("Acme"))[0].owner_id


@pytest.fixture
def arranging(store: Store, key: Key, journal: Journal) -> Arranging:
    """The writer of settings, beside a directory that nobody else asks."""
    return Arranging(store, key, Directory(store, key), journal)
