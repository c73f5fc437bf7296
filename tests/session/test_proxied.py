"""A worker behind a balancer: who its clients are, and what becomes of a balancer that does not say so."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

import pytest

from relay.session.descriptors import MARGIN, make_room, shortage
from tests.session.conftest import Opening, Wire, Worker

DOORS = ("plain", "starttls", "implicit")
LINE = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 587\r\n"
LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
BALANCER, OTHER = "127.0.0.1", "127.0.0.2"


def block(address: str) -> bytes:
    """A header of version 2."""
    body = socket.inet_aton(address) + socket.inet_aton("198.51.100.1") + struct.pack("!HH", 40000, 587)
    return b"\r\n\r\n\x00\r\nQUIT\n\x21\x11" + struct.pack("!H", len(body)) + body


@pytest.fixture
async def balanced(open_worker: Opening) -> AsyncIterator[Worker]:
    """A worker with a balancer before it."""
    async with open_worker(proxies=[BALANCER], header_timeout=0.5) as worker:
        yield worker


async def dial(worker: Worker, door: str, pieces: list[bytes], origin: str = BALANCER) -> socket.socket:
    """A connection that begins with these octets, sent one piece after the other."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    try:
        sock.bind((origin, 0))
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", worker.ports[door]))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            await loop.sock_sendall(sock, piece)
            await asyncio.sleep(0.002)
    except OSError:
        sock.close()
        raise
    return sock


async def come_in(worker: Worker, door: str, *pieces: bytes, origin: str = BALANCER) -> Wire:
    """A client at a door behind a header."""
    sock = await dial(worker, door, list(pieces), origin)
    context: ssl.SSLContext | None = worker.trust if door == "implicit" else None
    streams = await asyncio.open_connection(sock=sock, ssl=context, server_hostname="localhost" if context else None)
    worker.wires.append(wire := Wire(*streams))
    return wire


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("header", [LINE, block("192.0.2.7")])
async def test_the_client_is_the_one_that_the_header_names(balanced: Worker, door: str, header: bytes) -> None:
    account = await balanced.add_user()
    wire = await come_in(balanced, door, header)
    assert (await wire.reply()).startswith(b"220 ")
    if door == "starttls":
        await wire.ask(b"EHLO client.example")
        await wire.ask(b"STARTTLS")
        await wire.secure(balanced.trust)
    await wire.log_in(account)
    assert (await wire.offer(b"Subject: x\r\n")).startswith(b"250 ")
    assert [line["client"] for line in balanced.events("connected")] == ["192.0.2.7"]
    content = balanced.sink.messages[0].content
    assert content is not None and b"192.0.2.7" in content
    assert not balanced.events("proxy_refused", "bug")


@pytest.mark.parametrize("door", ["plain", "implicit"])
async def test_a_header_may_dribble_in(balanced: Worker, door: str) -> None:
    for header in (LINE, block("192.0.2.7")):
        wire = await come_in(balanced, door, *(header[index : index + 1] for index in range(len(header))))
        assert (await wire.reply()).startswith(b"220 ")
    assert [line["client"] for line in balanced.events("connected")] == ["192.0.2.7"] * 2


@pytest.mark.parametrize("header", [LOCAL, b"PROXY UNKNOWN\r\n"])
async def test_a_balancer_that_speaks_for_itself_is_the_client(balanced: Worker, header: bytes) -> None:
    wire = await come_in(balanced, "plain", header)
    assert (await wire.reply()).startswith(b"220 ")
    assert balanced.events("connected")[0]["client"] == BALANCER


async def test_what_follows_the_header_in_one_segment_is_the_clients(balanced: Worker) -> None:
    wire = await come_in(balanced, "plain", LINE + b"EHLO client.example\r\nQUIT\r\n")
    assert [(await wire.reply())[:4] for _ in range(3)] == [b"220 ", b"250-", b"221 "]


async def test_a_header_of_anyone_else_is_a_wrong_command(balanced: Worker) -> None:
    wire = await come_in(balanced, "plain", origin=OTHER)
    assert (await wire.reply()).startswith(b"220 ")
    assert (await wire.ask(LINE[:-2])).startswith(b"500 ")
    assert balanced.events("connected")[0]["client"] == OTHER


async def test_where_there_is_no_balancer_a_header_is_a_wrong_command(worker: Worker) -> None:
    wire = await worker.connect()
    await wire.reply()
    assert (await wire.ask(LINE[:-2])).startswith(b"500 ")


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"EHLO client.example\r\n", "no PROXY header"),
        (b"PROXY TCP4 192.0.2.7 nowhere 1 2\r\n", "a malformed header of version 1"),
        (b"PROXY TCP4 ", "no whole header within 0.5 s"),
        (b"", "no whole header within 0.5 s"),
    ],
)
async def test_a_balancer_without_a_valid_header_is_turned_away(balanced: Worker, octets: bytes, reason: str) -> None:
    sock = await dial(balanced, "plain", [octets])
    with sock:
        told = await balanced.await_event("proxy_refused")
        with suppress(ConnectionError):  # a reset, where octets are left unread
            assert await asyncio.get_running_loop().sock_recv(sock, 100) == b""
    assert (told["client"], told["port"], told["reason"]) == (BALANCER, 1, reason)
    assert not balanced.events("connected")


async def test_a_balancer_that_only_looks_whether_anybody_listens_is_not_told_of(balanced: Worker) -> None:
    for _ in range(5):
        (await dial(balanced, "plain", [])).close()
    wire = await come_in(balanced, "plain", LINE)
    await wire.reply()
    assert not balanced.events("proxy_refused", "bug")


async def test_nobody_waits_for_the_header_of_another(balanced: Worker) -> None:
    silent = [await dial(balanced, "plain", [b"PROXY "]) for _ in range(50)]
    began = time.monotonic()
    wire = await come_in(balanced, "plain", LINE)
    assert (await wire.reply()).startswith(b"220 ")
    assert time.monotonic() - began < 0.4
    for sock in silent:
        sock.close()


async def test_the_limit_of_an_address_is_the_clients(open_worker: Opening) -> None:
    async with open_worker(rules={"max_connections_per_address": 1}, proxies=["127.0.0.0/30"]) as worker:
        one, same, other = [await come_in(worker, "plain", block(address)) for address in ("192.0.2.7", "192.0.2.7", "192.0.2.8")]
        assert (await one.reply()).startswith(b"220 ")
        assert (await same.reply()).startswith(b"421 ")
        assert (await other.reply()).startswith(b"220 ")


async def test_a_drain_stops_accepting_and_ends_who_has_not_come_in(balanced: Worker) -> None:
    inside = await come_in(balanced, "plain", LINE)
    await inside.reply()
    arriving = await dial(balanced, "plain", [b"PROXY "])
    await asyncio.sleep(0.05)
    began = time.monotonic()
    await balanced.listeners.drain(5)
    assert time.monotonic() - began < 0.4
    assert (await inside.reply()).startswith(b"421 4.3.2 ")
    assert await inside.is_closed()
    with arriving:
        assert await asyncio.get_running_loop().sock_recv(arriving, 100) == b""
    with pytest.raises(ConnectionError):
        await come_in(balanced, "plain", LINE)
    assert not balanced.events("bug", "proxy_refused")


async def test_without_files_accepting_pauses_and_goes_on(balanced: Worker) -> None:
    """It is told of once, and costs next to nothing while it lasts."""
    loop = asyncio.get_running_loop()
    with socket.socket() as waiting:
        waiting.setblocking(False)
        with no_more_files():
            await loop.sock_connect(waiting, ("127.0.0.1", balanced.ports["plain"]))
            await loop.sock_sendall(waiting, LINE)
            began = time.process_time()
            await asyncio.sleep(1.2)
            assert time.process_time() - began < 0.3
        async with asyncio.timeout(5):
            assert (await loop.sock_recv(waiting, 100)).startswith(b"220 ")
    (told,) = balanced.events("accept_failed")
    assert told["alarm"] and told["error"] == "Too many open files"


@contextmanager
def no_more_files() -> Iterator[None]:
    """This process can open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(lowest := os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_worker_takes_what_it_needs_of_the_hard_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        make_room(100)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (1024, hard)
        make_room(1000)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (2000 + MARGIN, hard)
        make_room(hard)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert shortage(hard - MARGIN) is None
    assert str(hard) in str(shortage(hard - MARGIN + 1))


@pytest.mark.parametrize("is_reset", [False, True])
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("wait", [0.0, 0.05])
async def test_a_balancer_that_hangs_up_behind_its_header_is_gone_at_once(balanced: Worker, door: str, is_reset: bool, wait: float) -> None:
    for count in range(1, 6):
        sock = await dial(balanced, door, [])
        await asyncio.get_running_loop().sock_sendall(sock, LINE)
        await asyncio.sleep(wait)
        if is_reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        async with asyncio.timeout(3):
            await balanced.await_event("disconnected", count)
    await balanced.await_connections(0)
    assert not balanced.events("bug")
