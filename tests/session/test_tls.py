"""TLS at the doors: what is refused, how long a handshake may take, and sessions that are resumed."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import time

import pytest
import trustme

from tests.certificate import trusting
from tests.session.conftest import Account, Opening, Worker

DOORS = ("starttls", "implicit")


def approach(port: int, door: str) -> socket.socket:
    """A connection just before its handshake."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    if door == "starttls":
        for line in (b"", b"EHLO client.example\r\n", b"STARTTLS\r\n"):
            sock.sendall(line)
            while not (text := sock.recv(4096)).endswith(b"\r\n") or text.splitlines()[-1][3:4] == b"-":
                pass
    return sock


def visit(port: int, door: str, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> tuple[ssl.SSLSession, bool]:
    """Connect, say EHLO and QUIT inside; returns the session and whether it is the one given."""
    with context.wrap_socket(approach(port, door), server_hostname="localhost", session=session) as sock:
        if door == "implicit":
            assert sock.recv(4096).startswith(b"220 ")
        sock.sendall(b"EHLO client.example\r\n")
        assert sock.recv(4096).startswith(b"250-")
        assert sock.session is not None and sock.session_reused is not None
        found = sock.session, sock.session_reused
        sock.sendall(b"QUIT\r\n")
        assert sock.recv(4096).startswith(b"221 ")
        return found


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("door", DOORS)
async def test_a_session_is_resumed(worker: Worker, authority: trustme.CA, door: str, version: ssl.TLSVersion) -> None:
    context = trusting(authority)
    context.minimum_version = context.maximum_version = version
    session, was_resumed = await asyncio.to_thread(visit, worker.ports[door], door, context)
    assert not was_resumed
    for _ in range(3):
        session, was_resumed = await asyncio.to_thread(visit, worker.ports[door], door, context, session)
        assert was_resumed
    assert not worker.events("bug")


@pytest.mark.parametrize("door", DOORS)
async def test_tls_1_1_is_refused(worker: Worker, authority: trustme.CA, door: str) -> None:
    context = trusting(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")  # else this side would not even ask
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.to_thread(visit, worker.ports[door], door, context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    await asyncio.to_thread(visit, worker.ports[door], door, context)  # it was the version
    await worker.await_connections(0)
    assert not worker.events("bug")


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"])
async def test_a_handshake_that_stalls_is_cut(open_worker: Opening, door: str, sent: bytes) -> None:
    async with open_worker(rules={"login_timeout": 0.4}) as worker:
        began = time.monotonic()
        with await asyncio.to_thread(approach, worker.ports[door], door) as sock:
            sock.sendall(sent)
            assert await asyncio.to_thread(_ending, sock) == b""
        assert time.monotonic() - began < 3
        await worker.await_connections(0)
        assert not worker.events("bug")


@pytest.mark.parametrize("door", DOORS)
async def test_no_tls_where_it_is_awaited_ends_the_connection(worker: Worker, door: str) -> None:
    with await asyncio.to_thread(approach, worker.ports[door], door) as sock:
        sock.sendall(b"EHLO client.example\r\nMAIL FROM:<a@example.com>\r\n")
        assert b"250" not in await asyncio.to_thread(_ending, sock)
    await worker.await_connections(0)
    assert not worker.events("bug")


async def test_a_handshake_of_one_client_holds_up_no_other(worker: Worker, account: Account) -> None:
    stalled = [await asyncio.to_thread(approach, worker.ports["implicit"], "implicit") for _ in range(20)]
    wire = await worker.enter(account, "implicit")
    assert (await wire.offer(b"Subject: x\r\n")).startswith(b"250 ")
    for sock in stalled:
        sock.close()


def _ending(sock: socket.socket) -> bytes:
    """All that is said until the connection ends."""
    said = b""
    try:
        while octets := sock.recv(4096):
            said += octets
    except ConnectionError:
        pass
    return said


@pytest.mark.parametrize("is_reset", [False, True])
@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"])
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("wait", [0.0, 0.05])
async def test_who_hangs_up_in_the_handshake_is_gone_at_once(worker: Worker, door: str, sent: bytes, is_reset: bool, wait: float) -> None:
    sock = await asyncio.to_thread(approach, worker.ports[door], door)
    sock.sendall(sent)
    await asyncio.sleep(wait)
    if is_reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    async with asyncio.timeout(3):
        await worker.await_event("disconnected")
    assert not worker.house.connections and not worker.events("bug")


@pytest.mark.parametrize("door", DOORS)
async def test_a_stop_does_not_wait_for_a_handshake(worker: Worker, door: str) -> None:
    with await asyncio.to_thread(approach, worker.ports[door], door):
        await worker.await_connections(1)
        await asyncio.sleep(0.05)
        began = time.monotonic()
        await worker.listeners.drain(5)
        assert time.monotonic() - began < 1
        assert not worker.house.connections and not worker.events("bug")
