"""Spools in a folder of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.spool.spool import Spool
from tests.spool.making import Hands


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "spool.db"


@pytest.fixture
async def spool(path: Path, clock: Hands) -> AsyncIterator[Spool]:
    opened = Spool(path, "me", 0, clock)
    yield opened
    await opened.close()


@pytest.fixture
async def other(spool: Spool, path: Path, clock: Hands) -> AsyncIterator[Spool]:
    """Another process's door to the same spool."""
    opened = Spool(path, "other", 0, clock)
    yield opened
    await opened.close()
