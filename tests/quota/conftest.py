"""What several files of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.quota.audit import volatile_server


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server of the module's own, which need not survive a power failure."""
    with volatile_server() as url:
        yield url
