"""TLS at the doors: what is refused, how long a handshake may take, and sessions that are resumed."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import struct
import time

import pytest
import trustme

from relay.session.tunnel import Tunnel
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


class Inside:
    """A client that holds its records in its own hands."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.records = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        while True:
            try:
                self.records.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.sock.sendall(self.outgoing.read())
                self.incoming.write(self.sock.recv(65_536))
        self.sock.sendall(self.outgoing.read())

    def wrap(self, content: bytes) -> bytes:
        """The records of what is to be said."""
        self.records.write(content)
        return self.outgoing.read()

    def hear(self, is_last: bool = False) -> bytes:
        """What is said: a line, or if `is_last` all up to the end that TLS has; that of the connection alone raises an error."""
        said = b""
        while is_last or not said.endswith(b"\r\n"):
            try:
                if not (part := self.records.read(65_536)):
                    break
                said += part
            except ssl.SSLWantReadError:
                octets = self.sock.recv(65_536)
                self.incoming.write(octets) if octets else self.incoming.write_eof()
        return said


@pytest.mark.parametrize("door", DOORS)
async def test_records_count_however_they_are_cut(worker: Worker, authority: trustme.CA, door: str) -> None:
    def talk() -> None:
        with approach(worker.ports[door], door) as sock:
            client = Inside(sock, trusting(authority))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            assert door == "starttls" or client.hear().startswith(b"220 ")
            for octet in client.wrap(b"NOOP\r\nNO"):
                sock.sendall(bytes([octet]))
            assert client.hear() == b"250 2.0.0 OK\r\n"
            sock.sendall(b"".join(client.wrap(part) for part in (b"OP\r\n", b"NOOP\r\n" * 99 + b"x" * 30_000, b"\r\nQUIT\r\n")))
            replies = client.hear(is_last=True).splitlines()
            assert replies == [b"250 2.0.0 OK"] * 100 + [b"500 5.5.2 Line too long", b"221 2.0.0 Bye"]

    await asyncio.to_thread(talk)
    await worker.await_connections(0)
    assert not worker.events("bug")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_the_end_is_said_to_who_says_it_and_waits(worker: Worker, authority: trustme.CA, version: ssl.TLSVersion) -> None:
    context = trusting(authority)
    context.minimum_version = context.maximum_version = version

    def talk() -> None:
        with context.wrap_socket(approach(worker.ports["starttls"], "starttls"), server_hostname="localhost") as sock:
            sock.sendall(b"NOOP\r\n")
            assert sock.recv(4096).startswith(b"250 ")
            sock.unwrap()  # which waits for the other side's, or raises an error

    await asyncio.to_thread(talk)
    await worker.await_connections(0)
    assert not worker.events("bug")


async def test_a_record_that_was_altered_ends_the_connection_with_an_alert(worker: Worker, authority: trustme.CA) -> None:
    def talk() -> None:
        with approach(worker.ports["starttls"], "starttls") as sock:
            client = Inside(sock, trusting(authority))
            altered = bytearray(client.wrap(b"NOOP\r\n"))
            altered[-1] ^= 1
            sock.sendall(altered + client.wrap(b"NOOP\r\n"))
            with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
                client.hear()

    await asyncio.to_thread(talk)
    await worker.await_connections(0)
    assert not worker.events("bug")


async def test_a_connection_that_has_gone_leaves_nothing_to_the_collector(worker: Worker, authority: trustme.CA) -> None:
    gc.collect()
    gc.disable()
    try:
        await asyncio.to_thread(visit, worker.ports["starttls"], "starttls", trusting(authority))
        await worker.await_connections(0)
        async with asyncio.timeout(3):
            while any(isinstance(found, Tunnel) for found in gc.get_objects()):
                await asyncio.sleep(0.01)
    finally:
        gc.enable()
