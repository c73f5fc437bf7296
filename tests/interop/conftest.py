"""One relay for all the client programs of a file."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.interop.client import Front, running_front


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front() -> AsyncIterator[Front]:
    """A relay with STARTTLS and with implicit TLS before a sink."""
    with tempfile.TemporaryDirectory(prefix="relay-", ignore_cleanup_errors=True) as folder:
        async with running_front(Path(folder)) as started:
            yield started
