"""The real things every test stands on: a Valkey server, short directories for its socket, a loop that is uvloop's in production."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from relay.loadkit.sink import Sink
from relay.store import fitness
from relay.store.client import Store
from relay.store.embedded import Embedded

# A relay is six processes: each would compile all of it anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# A shell without a terminal has what it starts in the background ignore Ctrl-C, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty directory whose path is short enough for a unix socket."""
    path = Path(tempfile.mkdtemp(prefix="relay-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def server(place: Path) -> AsyncIterator[Embedded]:
    """An embedded store server on an empty directory."""
    embedded = Embedded(place / "data", None, "256mb", lambda name, text: None)
    await embedded.start()
    yield embedded
    if embedded.pid:
        with suppress(ProcessLookupError):
            os.kill(embedded.pid, signal.SIGKILL)  # nothing of it is wanted any more, and to end in order would take it 0.1 s
    await embedded.stop()


@pytest.fixture
async def store(server: Embedded, place: Path) -> AsyncIterator[Store]:
    """A client that has joined the empty store."""
    client = Store(f"unix://{place / 'data' / 'store.sock'}")
    await fitness.join(client, place / "data" / "epoch")
    yield client
    await client.close()


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    """A scripted smarthost that takes everything until its script is changed."""
    started = Sink()
    await started.start()
    yield started
    await started.stop()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who signs the smarthost's certificate."""
    return trustme.CA()


@pytest.fixture
def certificate(authority: trustme.CA) -> ssl.SSLContext:
    """The smarthost's own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def ca_file(authority: trustme.CA, place: Path) -> Path:
    """What the relay trusts."""
    path = place / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path
