"""What a hostile client tries: to send without leave, to be taken for somebody else, to speak in another's name, to fill the memory."""

from __future__ import annotations

import asyncio
import base64
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.session.conftest import Account, Guesses, Opening, Worker

REPLY = re.compile(rb"[2-5]\d\d(?:-[\x20-\x7e]*\r\n[2-5]\d\d)*(?: [\x20-\x7e]*)?\r\n")
FUZZ = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

COMMANDS = st.sampled_from([
    b"EHLO x", b"HELO x", b"EHLO", b"MAIL FROM:<a@b.example>", b"MAIL FROM:<>", b"MAIL FROM:<a", b"RCPT TO:<c@d.example>", b"RCPT TO:<c",
    b"RCPT TO:<>",
    b"RSET", b"NOOP", b"VRFY a", b"EXPN a", b"HELP", b"", b"WHAT", b"AUTH", b"AUTH X", b"AUTH PLAIN !", b"AUTH PLAIN =", b"STARTTLS",
    b"MAIL", b"RCPT",
    b"MAIL FROM:<a@b.example> SIZE=99999999999", b"NOOP\0", b"NOOP\n", b"QUIT x",
    b"BDAT 2 LAST\r\n", b"BDAT 2\r\n", b"BDAT 0", b"BDAT 0 LAST", b"\xff",
])  # fmt: skip


# -- without leave --------------------------------------------------------------------------------------------------------------


@given(
    st.lists(COMMANDS | st.sampled_from([b"DATA", b"AUTH PLAIN AGEAYg==", b"."]), max_size=15),
    st.sampled_from(["plain", "clear", "starttls"]),
)
@FUZZ
async def test_nothing_that_is_said_without_credentials_sends_mail(worker: Worker, commands: list[bytes], door: str) -> None:
    commands = [command for command in commands if command != b"STARTTLS"]
    wire = await worker.connect(door)
    await wire.send(*commands, b"QUIT")
    said = await wire.reader.read()
    assert b"\r\n354 " not in said and b"2.1.0 Sender" not in said and b"\r\n235 " not in said
    assert worker.sink.intake.connections == 0
    await wire.close()


@given(st.lists(COMMANDS | st.just(b"DATA"), max_size=20))
@FUZZ
async def test_every_command_gets_one_reply_in_whatever_order_they_come(worker: Worker, account: Account, commands: list[bytes]) -> None:
    """One at a time, with messages where they are asked for; in the end the account is even."""
    wire = await worker.enter(account)
    sent = 0
    for command in commands:
        reply = await wire.ask(command)
        assert REPLY.fullmatch(reply), (command, reply)
        if reply.startswith(b"354 "):
            reply = await wire.ask(b"Subject: x\r\n\r\n.")
            assert reply.startswith(b"250 ")
            sent += 1
        if reply.startswith(b"421 "):
            assert await wire.is_closed()
            break
    await wire.close()
    taken, answered = await worker.account_of(account)
    assert taken == answered >= sent


# -- in another's name ----------------------------------------------------------------------------------------------------------

ENDS = [b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n", b"\r.\r\n", b"\r\n.\r", b"\r\n\0.\r\n", b"\n\n.\r\n"]


@pytest.mark.parametrize("end", ENDS)
async def test_a_message_that_hides_another_is_refused_wherever_it_is_cut(worker: Worker, account: Account, end: bytes) -> None:
    hidden = b"MAIL FROM:<admin@b.example>\r\nRCPT TO:<victim@d.example>\r\nDATA\r\nSubject: smuggled\r\n"
    wire = await worker.enter(account)
    for cut in range(len(end) + 1):
        assert (await wire.begin()).startswith(b"354 ")
        await wire.write(b"Subject: x\r\n\r\nhello" + end[:cut])
        await asyncio.sleep(0.002)
        await wire.write(end[cut:] + hidden)
        await asyncio.sleep(0.002)
        await wire.write(b"\r\n.\r\n")
        reply = await wire.reply()
        assert reply.startswith(b"250 " if b"\0" in end else b"550 5.6.11 ")
    assert (await wire.ask(b"NOOP")).startswith(b"250 2.0.0 OK")
    assert {message.sender for message in worker.sink.messages} <= {"app@example.com"}
    taken, answered = await worker.account_of(account)
    assert taken == answered == (len(end) + 1 if b"\0" in end else 0)


async def test_a_session_octet_by_octet_is_the_same_session(worker: Worker, account: Account) -> None:
    wire = await worker.connect()
    session = (
        b"EHLO x\r\nAUTH PLAIN " + account.plain + b"\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n"
        b"Subject: x\r\n\r\n..\r\n.\r\nQUIT\r\n"
    )
    for octet in session:
        await wire.write(bytes([octet]))
        await asyncio.sleep(0.0005)
    said = await wire.reader.read()
    assert [int(line[:3]) for line in said.splitlines() if line[3:4] == b" "] == [220, 250, 235, 250, 250, 354, 250, 221]
    assert await worker.account_of(account) == (1, 1)


async def test_commands_behind_a_refused_data_are_not_obeyed_even_as_the_same_user(worker: Worker) -> None:
    """A form's text, sent by an application that does not wait for 354, must not send mail in the application's name."""
    account = await worker.add_user(hourly=1)
    wire = await worker.enter(account)
    assert (await wire.offer(b"Subject: x\r\n")).startswith(b"250 ")
    await worker.provisioning.edit_user(account.name, hourly=1, total=None)
    await wire.send(
        b"MAIL FROM:<a@b.example>", b"RCPT TO:<c@d.example>", b"DATA", b"MAIL FROM:<form@x.example>", b"RCPT TO:<victim@d.example>"
    )
    said = await wire.reader.read()
    assert [line[:3] for line in said.splitlines()] == [b"250", b"250", b"451", b"421"]


@pytest.mark.parametrize(
    "reply",
    ["550 5.1.1 a\\n550 250 2.0.0 fooled", "550-5.1.1 x\\n550 5.1.1 \u2028250 ok", "451 4.7.1 " + "x" * 5000, "550 \u0435vil\x1b[2J"],
)
async def test_a_smarthosts_text_never_breaks_out_of_its_line(worker: Worker, account: Account, reply: str) -> None:
    worker.script(f"dot reply='{reply}'")
    wire = await worker.enter(account)
    said = await wire.offer(b"Subject: x\r\n")
    assert REPLY.fullmatch(said) and said.count(b"\n") == 1 and len(said) <= 512
    assert (await wire.ask(b"NOOP")) == b"250 2.0.0 OK\r\n"


async def test_an_exchange_says_who_failed_and_not_what_was_said(worker: Worker, account: Account) -> None:
    wire = await worker.connect()
    await wire.reply()
    await wire.ask(b"EHLO x")
    for claim in (b"AGEAYg==", b"AABi", b"AGEKYgBj", b"AHt9AGI=", b"AOkA6Q=="):  # names with a newline, braces, octets that are no UTF-8
        assert await wire.ask(b"AUTH PLAIN " + claim) == b"535 5.7.8 Authentication credentials invalid\r\n" or claim == b"AOkA6Q=="
    assert len(worker.events("auth_refused")) == 5


# -- guessing -------------------------------------------------------------------------------------------------------------------


async def test_an_unknown_user_and_a_wrong_password_take_the_same_time(open_worker: Opening) -> None:
    async with open_worker(rules={"failure_floor": 0.1}, guesses=Guesses(100, 100)) as worker:
        account = await worker.add_user()
        wire = await worker.connect()
        await wire.reply()
        await wire.ask(b"EHLO x")
        loop = asyncio.get_running_loop()
        for claim in (b"\0" + account.name.encode() + b"\0wrong", b"\0smtp123456789\0wrong"):
            began = loop.time()
            assert (await wire.ask(b"AUTH PLAIN " + base64.b64encode(claim))).startswith(b"535 ")
            assert 0.09 < loop.time() - began < 0.3


# -- memory ---------------------------------------------------------------------------------------------------------------------


async def test_a_line_that_never_ends_takes_a_bounded_memory(worker: Worker) -> None:
    wire = await worker.connect()
    await wire.reply()
    for _ in range(50):
        await wire.write(b"x" * 100_000)
    await asyncio.sleep(0.1)
    assert worker.only().unread < 600_000
    await wire.write(b"\r\nNOOP\r\n")
    assert (await wire.reply()).startswith(b"500 5.5.2 ")
    assert (await wire.reply()).startswith(b"250 ")


async def test_replies_nobody_reads_take_a_bounded_memory(open_worker: Opening) -> None:
    async with open_worker(rules={"max_commands": 1 << 30}) as worker:
        wire = await worker.connect()
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                while True:
                    await wire.write(b"EHLO x\r\n" * 30_000)
        protocol: Any = worker.only()
        assert protocol._transport.get_write_buffer_size() + sum(map(len, protocol._out)) < 200_000
        assert protocol.unread < 600_000


async def test_commands_behind_a_message_wait_in_a_bounded_memory(worker: Worker, account: Account) -> None:
    worker.script("dot stall=0.5")
    wire = await worker.enter(account)
    await wire.begin()
    await wire.write(b"Subject: x\r\n.\r\n")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            while True:
                await wire.write(b"NOOP\r\n" * 10_000)
    protocol: Any = worker.only()
    assert protocol.unread < 600_000


async def test_more_connections_than_allowed_are_told_so(open_worker: Opening) -> None:
    async with open_worker(rules={"max_connections": 2}) as worker:
        wires = [await worker.connect() for _ in range(3)]
        replies = [await wire.reply() for wire in wires]
        assert [reply[:10] for reply in replies[:2]] == [b"220 relay."] * 2
        assert replies[2] == b"421 4.7.0 Too many connections, try again later\r\n"
        assert await wires[2].is_closed()
        await wires[0].close()
        await worker.await_connections(1)
        assert (await (await worker.connect()).reply()).startswith(b"220 ")


async def test_a_long_group_of_commands_does_not_hold_up_other_sessions(open_worker: Opening) -> None:
    async with open_worker(rules={"max_commands": 1 << 30}) as worker:
        loud, quiet = await worker.connect(), await worker.connect()
        await quiet.reply()
        await loud.write(b"NOOP\r\n" * 10_000)
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert (await quiet.ask(b"NOOP")).startswith(b"250 ")
        assert loop.time() - began < 0.1


# -- TLS ------------------------------------------------------------------------------------------------------------------------


async def test_what_was_sent_behind_starttls_is_never_obeyed(worker: Worker, account: Account) -> None:
    for pause in (0.0, 0.02):
        wire = await worker.connect("starttls")
        await wire.reply()
        await wire.ask(b"EHLO x")
        await wire.send(b"STARTTLS", b"EHLO injected", b"AUTH PLAIN " + account.plain)
        assert (await wire.reply()).startswith(b"220 ")
        await asyncio.sleep(pause)
        await wire.secure(worker.trust)
        assert (await wire.ask(b"MAIL FROM:<a@b.example>")).startswith(b"503 5.5.1 EHLO first")
        await wire.close()
    assert not worker.events("authenticated")


async def test_a_handshake_that_fails_ends_the_connection_and_nothing_else(worker: Worker) -> None:
    wire = await worker.connect("starttls")
    await wire.reply()
    assert (await wire.ask(b"STARTTLS")).startswith(b"220 ")
    await wire.write(b"EHLO in clear\r\n")
    said = await wire.reader.read()
    assert b"250" not in said
    await worker.await_connections(0)
    assert not worker.events("bug")
