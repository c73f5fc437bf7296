"""What was once wrong in a session, each by the way it was found."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
import time
from contextlib import suppress
from typing import Any, cast

import pytest

from relay.quota.teller import Teller
from tests.session.conftest import Account, Opening, Worker


async def test_more_recipients_than_commands_are_told_452_and_the_others_get_their_mail(open_worker: Opening) -> None:
    async with open_worker(rules={"max_commands": 50, "max_recipients": 100}) as worker:
        account = await worker.add_user()

        def send() -> dict[str, Any]:
            with smtplib.SMTP("127.0.0.1", worker.ports["plain"]) as client:
                client.login(account.name, account.password)
                return dict(client.sendmail("a@b.example", [f"to{number}@d.example" for number in range(300)], "Subject: x\r\n\r\n"))

        refused = await asyncio.to_thread(send)
        assert len(refused) == 200 and {code for code, _ in refused.values()} == {452}
        assert await worker.account_of(account) == (1, 1)


async def test_errors_are_forgiven_with_each_message_taken(open_worker: Opening) -> None:
    async with open_worker(rules={"max_errors": 2}) as worker:
        wire = await worker.enter(await worker.add_user())
        for _ in range(4):
            assert (await wire.ask(b"RCPT TO:<first@d.example>")).startswith(b"503 ")
            assert (await wire.ask(b"WHAT")).startswith(b"500 ")
            assert (await wire.offer(b"Subject: x\r\n")).startswith(b"250 ")


async def test_a_rate_is_asked_of_a_message_and_not_of_each_of_its_chunks(open_worker: Opening) -> None:
    async with open_worker(rules={"grace": 0.4, "min_rate": 100_000}) as worker:
        account = await worker.add_user()
        wire = await worker.enter(account)
        await wire.send(b"MAIL FROM:<a@b.example>", b"RCPT TO:<c@d.example>")
        assert [(await wire.reply())[:4] for _ in range(2)] == [b"250 ", b"250 "]
        began = time.monotonic()
        with pytest.raises((ConnectionError, AssertionError)):
            while True:  # each chunk within the grace, all of them far below the rate
                await wire.write(b"BDAT 1100\r\n" + b"x" * 550)
                await asyncio.sleep(0.1)
                await wire.write(b"x" * 550)
                assert (await wire.reply()).startswith(b"250 2.0.0 1100 octets")
        assert time.monotonic() - began < 2
        assert await worker.account_of(account) == (0, 0)


async def test_a_group_with_chunks_is_answered_in_one_write(worker: Worker, account: Account) -> None:
    wire = await worker.enter(account)
    protocol: Any = worker.only()
    count, write = 0, protocol._transport.write

    class Counting:
        """The transport, which counts what is written."""

        def __getattr__(self, name: str) -> Any:
            return getattr(transport, name)

        def write(self, octets: bytes) -> None:
            nonlocal count
            count += 1
            write(octets)

    transport, protocol._transport = protocol._transport, Counting()
    await wire.send(b"MAIL FROM:<a@b.example>", b"RCPT TO:<c@d.example>", b"BDAT 4", b"ab", b"BDAT 4", b"cd", b"RSET", b"NOOP")
    replies = [await wire.reply() for _ in range(6)]
    assert all(reply.startswith(b"250 ") for reply in replies)
    assert count <= 2  # the ledger is asked in between, and nobody waits for the client then


async def test_what_comes_with_the_end_of_a_handshake_is_all_answered(open_worker: Opening) -> None:
    """More than is held back: nothing of it may be held back on what TLS has taken the place of."""
    async with open_worker(rules={"max_commands": 1 << 20, "login_timeout": 10.0}) as worker:
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.ports["implicit"])
        coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
        side = worker.trust.wrap_bio(coming, going, server_hostname="localhost")
        is_shaken = False
        while not is_shaken:
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
                is_shaken = True
            if not is_shaken:
                writer.write(going.read())
                coming.write(await reader.read(65_536))
        side.write(b"NOOP\r\n" * 30_000)
        writer.write(going.read())  # the end of the handshake and all of this in one go
        said = b""
        async with asyncio.timeout(8):
            while said.count(b"\r\n") < 30_001:
                coming.write(await reader.read(65_536))
                with suppress(ssl.SSLWantReadError):
                    while True:
                        said += side.read(65_536)
        assert said.endswith(b"250 2.0.0 OK\r\n")
        writer.close()


class FailingTeller:
    """A teller whose second reservation meets a bug."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self._is_second = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._teller, name)

    async def reserve(self, *given: Any) -> Any:
        """Do it, once."""
        if self._is_second:
            raise ZeroDivisionError
        self._is_second = True
        return await self._teller.reserve(*given)


async def test_a_bug_while_a_message_comes_in_leaves_nothing_of_it_to_be_obeyed(open_worker: Opening) -> None:
    async with open_worker(rules={"data_deadline": 0.4}) as worker:
        account = await worker.add_user()
        worker.house.teller = cast(Teller, FailingTeller(worker.house.teller))
        wire = await worker.enter(account)
        assert (await wire.begin()).startswith(b"354 ")
        await wire.write(b"Subject: x\r\n")
        await worker.provisioning.edit_user(account.name, hourly=5)  # so that it is checked anew
        assert await wire.reply() == b"421 4.4.2 Timeout waiting for the client, closing\r\n"
        assert await wire.is_closed()
        assert await worker.account_of(account) == (0, 0)


async def test_a_drain_says_nothing_in_clear_where_tls_comes_first(open_worker: Opening) -> None:
    async with open_worker() as worker:
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.ports["implicit"])
        while not worker.house.connections:
            await asyncio.sleep(0)
        await worker.listeners.drain(1)
        assert await reader.read() == b""
        writer.close()
        assert worker.house.tasks == set() and worker.house.connections == set()
