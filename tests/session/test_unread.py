"""Who reads nothing of what it is told: what is kept for it is bounded, it is counted no longer than it must be, and it is cut off."""

from __future__ import annotations

import _ssl
import asyncio
import ctypes
import os
import socket
import ssl
import time
from dataclasses import replace

import pytest
import trustme

from relay.session.engine import LINGER
from relay.session.tunnel import MOST_UNREAD, Tunnel
from tests.certificate import trusting
from tests.session.conftest import Opening, Worker
from tests.session.test_tls import Inside, approach

MESSAGE = b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n"
SENT_AT_ONCE = {"max_commands": 1_000_000}


async def test_what_comes_behind_the_end_of_tls_is_not_kept(worker: Worker, authority: trustme.CA) -> None:
    account = await worker.add_user()
    worker.script("dot stall=2")

    def talk() -> None:
        with approach(worker.ports["implicit"], "implicit") as sock:
            client = Inside(sock, trusting(authority))
            for line in (b"", b"EHLO client.example\r\n", b"AUTH PLAIN " + account.plain + b"\r\n"):
                sock.sendall(client.wrap(line) if line else b"")
                client.hear()
            sock.sendall(client.wrap(MESSAGE))
            while b"354 " not in client.hear():
                pass
            sock.sendall(client.wrap(b"Subject: x\r\n\r\nx\r\n.\r\n"))
            with pytest.raises(ssl.SSLWantReadError):
                client.records.unwrap()
            sock.sendall(client.outgoing.read())
            tunnel = worker.only()._transport
            assert isinstance(tunnel, Tunnel)
            while not tunnel._is_ended:
                time.sleep(0.01)
            for _ in range(20):
                sock.sendall(b"x" * 100_000)
                time.sleep(0.01)
            assert tunnel._incoming.pending == 0 and worker.house.connections

    await asyncio.to_thread(talk)
    await worker.await_connections(0)
    async with asyncio.timeout(5):  # the log's lines are written at the end of the turn
        while not worker.events("taken"):
            await asyncio.sleep(0.01)
    assert len(worker.events("taken")) == 1


async def test_who_closes_and_reads_nothing_is_cut_off_even_if_its_deadline_passed_while_a_message_was_under_way(
    open_worker: Opening,
) -> None:
    async with open_worker(rules={"command_timeout": 0.5}) as worker:
        account = await worker.add_user()
        worker.script("dot stall=1")

        def enter() -> socket.socket:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.connect(("127.0.0.1", worker.ports["plain"]))
            sock.settimeout(5)
            for line in (b"", b"EHLO client.example\r\n", b"AUTH PLAIN " + account.plain + b"\r\n", MESSAGE):
                sock.sendall(line)
                while not sock.recv(4096).endswith(b"\r\n"):
                    pass
            return sock

        with await asyncio.to_thread(enter) as sock:
            subject = worker.only()
            with socket.socket(fileno=os.dup(subject._transport.get_extra_info("socket").fileno())) as theirs:
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            # All of it is answered in one turn, in which what was said before has left: with more than the kernel takes.
            sock.sendall(b"Subject: x\r\n\r\nx\r\n.\r\n" + b"EHLO %b.example\r\n" % (b"c" * 240) * 95 + b"QUIT\r\n")
            await worker.await_connections(0)
            assert not subject._is_lost and subject._transport.get_write_buffer_size()
            async with asyncio.timeout(LINGER + 4):
                while not subject._is_lost:
                    await asyncio.sleep(0.05)


async def test_who_breaks_tls_and_reads_nothing_is_not_counted_any_more(open_worker: Opening, authority: trustme.CA) -> None:
    async with open_worker(rules={"command_timeout": 60.0, **SENT_AT_ONCE}) as worker:

        def talk() -> None:
            with approach(worker.ports["implicit"], "implicit") as sock:
                client = Inside(sock, trusting(authority))
                while not worker.only()._transport.get_write_buffer_size():
                    sock.sendall(client.wrap(b"HELP\r\n" * 50))
                    time.sleep(0.002)
                sock.sendall(b"no record at all\r\n")
                end = time.monotonic() + 5
                while worker.house.connections and time.monotonic() < end:
                    time.sleep(0.01)
                assert not worker.house.connections

        await asyncio.to_thread(talk)


@pytest.mark.parametrize("content", [b"", b"x"])
async def test_new_keys_are_not_answered_for_ever_to_who_reads_nothing(worker: Worker, authority: trustme.CA, content: bytes) -> None:
    library = ctypes.CDLL(_ssl.__file__)  # Python has no word for it
    library.SSL_key_update.argtypes, library.SSL_do_handshake.argtypes = [ctypes.c_void_p, ctypes.c_int], [ctypes.c_void_p]

    def talk() -> None:
        with approach(worker.ports["implicit"], "implicit") as sock:
            client = Inside(sock, trusting(authority))
            client.hear()
            inner = client.records._sslobj  # type: ignore[attr-defined]
            pointer = ctypes.c_void_p.from_address(id(inner) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)).value
            most, end = 0, time.monotonic() + 60
            subject = worker.only()
            with pytest.raises(OSError):
                while time.monotonic() < end:
                    for _ in range(500):
                        library.SSL_key_update(pointer, 1)
                        library.SSL_do_handshake(pointer)
                        client.records.write(content)
                    sock.sendall(client.outgoing.read())
                    tunnel = subject._transport
                    assert isinstance(tunnel, Tunnel)
                    most = max(most, tunnel._outgoing.pending + (0 if subject._is_lost else tunnel.get_write_buffer_size()))
            assert most < 2 * MOST_UNREAD

    await asyncio.to_thread(talk)
    await worker.await_connections(0)


class Broken:
    """A context with which no TLS can be begun."""

    def wrap_bio(self, *_: object, **__: object) -> ssl.SSLObject:
        raise MemoryError


async def test_a_bug_where_tls_begins_ends_that_connection(worker: Worker) -> None:
    wire = await worker.connect("starttls")
    await wire.reply()
    await wire.ask(b"EHLO client.example")
    subject = worker.only()
    subject._door = replace(subject._door, context=Broken)  # type: ignore[arg-type]
    await wire.send(b"STARTTLS")
    assert (await asyncio.wait_for(wire.reader.read(), 3)).endswith(b"421 4.3.0 Internal error, closing\r\n")
    await worker.await_connections(0)
    assert len(worker.events("bug")) == 1


async def test_a_handshake_of_who_had_logged_in_without_has_the_time_that_there_is_for_logging_in(open_worker: Opening) -> None:
    async with open_worker(rules={"login_timeout": 0.5, "command_timeout": 20.0}) as worker:
        account = await worker.add_user()
        wire = await worker.connect("starttls")
        await wire.reply()
        subject = worker.only()
        subject._door = replace(subject._door, auth_without_tls=True)
        await wire.log_in(account)
        assert (await wire.ask(b"STARTTLS")).startswith(b"220 ")
        assert await asyncio.wait_for(wire.reader.read(), 5) == b""
        await worker.await_connections(0)
