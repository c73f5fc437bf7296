"""Who says little, or nothing, holds a connection no longer than its deadlines allow: in a handshake, a command, AUTH and a message."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.session.conftest import Account, Opening, Wire, Worker

PATIENCE = 0.5
"""Seconds that each deadline is set to here."""
DRIBBLE = 0.05
"""Seconds between two octets: within any deadline that an octet could put off."""
SLACK = 1.0


async def dribble(wire: Wire, octets: bytes) -> float:
    """Send octet by octet until the relay ends the connection; returns for how long it did not."""
    began = time.monotonic()
    ended = asyncio.create_task(wire.reader.read())
    for octet in octets * 1000:
        if ended.done() or time.monotonic() - began > 10:
            break
        try:
            await wire.write(bytes([octet]))
        except ConnectionError:
            break
        await asyncio.wait({ended}, timeout=DRIBBLE)
    said = await asyncio.wait_for(ended, 5)
    assert said == b"" or said.startswith(b"421 4.4.2 ") or b"\r\n421 4.4.2 " in said
    return time.monotonic() - began


async def is_even(worker: Worker, account: Account) -> None:
    """Nothing was charged, nothing is held, nobody is connected."""
    await worker.await_connections(0)
    assert await worker.account_of(account) == (0, 0)
    assert worker.house.budget.used == 0


async def test_a_command_that_comes_octet_by_octet_is_cut_off(open_worker: Opening) -> None:
    async with open_worker(rules={"command_timeout": PATIENCE}) as worker:
        account = await worker.add_user()
        wire = await worker.enter(account)
        assert PATIENCE * 0.9 < await dribble(wire, b"NOOP ") < PATIENCE + SLACK
        await is_even(worker, account)


@pytest.mark.parametrize("door", ["plain", "starttls", "implicit"])
async def test_who_does_not_log_in_is_cut_off_however_much_it_says(open_worker: Opening, door: str) -> None:
    async with open_worker(rules={"login_timeout": PATIENCE, "max_commands": 10**6}) as worker:
        wire = await worker.connect(door)
        began = time.monotonic()
        with pytest.raises((ConnectionError, AssertionError)):
            while True:
                reply = await wire.ask(b"NOOP")
                assert reply[:4] in (b"220 ", b"250 "), reply
                await asyncio.sleep(DRIBBLE)
        assert PATIENCE * 0.9 < time.monotonic() - began < PATIENCE + SLACK
        await worker.await_connections(0)


async def test_who_has_logged_in_may_stay(open_worker: Opening) -> None:
    async with open_worker(rules={"login_timeout": PATIENCE}) as worker:
        wire = await worker.enter(await worker.add_user())
        await asyncio.sleep(PATIENCE * 2)
        assert await wire.ask(b"NOOP") == b"250 2.0.0 OK\r\n"


async def test_an_exchange_of_auth_that_comes_octet_by_octet_is_cut_off(open_worker: Opening) -> None:
    async with open_worker(rules={"login_timeout": PATIENCE}) as worker:
        wire = await worker.connect()
        await wire.reply()
        await wire.ask(b"EHLO client.example")
        assert await wire.ask(b"AUTH LOGIN") == b"334 VXNlcm5hbWU6\r\n"
        assert await dribble(wire, b"QUJD") < PATIENCE + SLACK


@pytest.mark.parametrize("door", ["starttls", "implicit"])
async def test_a_handshake_that_comes_octet_by_octet_is_cut_off(open_worker: Opening, door: str) -> None:
    async with open_worker(rules={"login_timeout": PATIENCE}) as worker:
        worker.wires.append(wire := Wire(*await asyncio.open_connection("127.0.0.1", worker.ports[door])))
        if door == "starttls":
            await wire.reply()
            await wire.ask(b"EHLO client.example")
            assert (await wire.ask(b"STARTTLS")).startswith(b"220 ")
        assert await dribble(wire, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)) < PATIENCE + SLACK
        await worker.await_connections(0)
        assert not worker.events("bug")


@pytest.mark.parametrize("way", ["DATA", "BDAT", "BDAT of many"])
async def test_a_message_that_comes_octet_by_octet_is_cut_off_and_costs_nothing(open_worker: Opening, way: str) -> None:
    async with open_worker(rules={"grace": PATIENCE, "min_rate": 500}) as worker:
        account = await worker.add_user(hourly=1)
        wire = await worker.enter(account)
        if way == "DATA":
            assert (await wire.begin()).startswith(b"354 ")
        else:
            chunks = [b"BDAT 9", b"Subject"] if way == "BDAT of many" else []
            await wire.send(b"MAIL FROM:<a@b.example>", b"RCPT TO:<c@d.example>", *chunks, b"BDAT 100000 LAST")
        # Every octet buys its time, 2 ms: far less than it takes to come.
        assert PATIENCE * 0.9 < await dribble(wire, b"Subject: x\r\n") < PATIENCE + SLACK
        await is_even(worker, account)


async def test_chunks_that_come_slowly_have_the_deadline_of_a_message_between_them(open_worker: Opening) -> None:
    async with open_worker(rules={"data_deadline": PATIENCE}) as worker:
        account = await worker.add_user()
        wire = await worker.enter(account)
        await wire.send(b"MAIL FROM:<a@b.example>", b"RCPT TO:<c@d.example>")
        await wire.reply()
        await wire.reply()
        began = time.monotonic()
        while (reply := await wire.ask(b"BDAT 0")).startswith(b"250 "):
            await asyncio.sleep(DRIBBLE)
        assert reply == b"421 4.4.2 Timeout waiting for the client, closing\r\n"
        assert PATIENCE * 0.9 < time.monotonic() - began < PATIENCE + SLACK
        await is_even(worker, account)


async def test_an_upload_at_the_rate_asked_for_goes_on_past_its_grace(open_worker: Opening) -> None:
    async with open_worker(rules={"grace": 0.1, "min_rate": 1000}) as worker:
        account = await worker.add_user()
        wire = await worker.enter(account)
        assert (await wire.begin()).startswith(b"354 ")
        for _ in range(10):
            await wire.write(b"Subject: " + b"x" * 200 + b"\r\n")
            await asyncio.sleep(0.1)
        await wire.write(b".\r\n")
        assert (await wire.reply()).startswith(b"250 ")
        assert await worker.account_of(account) == (1, 1)


async def test_who_does_not_read_its_replies_is_cut_off(open_worker: Opening) -> None:
    async with open_worker(rules={"command_timeout": PATIENCE, "max_commands": 10**6}) as worker:
        wire = await worker.connect()
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        began = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - began < 10:
                await wire.write(b"EHLO x\r\n" * 3000)
        assert time.monotonic() - began < 5
        await worker.await_connections(0)
