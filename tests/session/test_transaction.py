"""One message from DATA to its reply, over real sockets: what is taken, what is released, and who is told."""

from __future__ import annotations

import asyncio
import hashlib
import smtplib
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.loadkit.message import stuff
from relay.mail.envelope import Envelope
from relay.upstream.route import Route
from relay.upstream.smarthost import Message
from relay.upstream.terms import Attempt, Terms
from tests.session.conftest import Account, Opening, Wire, Worker

DOORS = ("plain", "starttls", "implicit")
Change = Callable[[Worker, Account], Awaitable[object]]

CHANGES: dict[str, tuple[Change, bytes, bytes]] = {
    "disabled": (lambda w, a: w.provisioning.edit_user(a.name, is_enabled=False), b"550 5.7.13 ", b"421 4.7.0 "),
    "its owner disabled": (lambda w, a: w.provisioning.set_owner_status(a.owner_id, False), b"550 5.7.13 ", b"421 4.7.0 "),
    "deleted": (lambda w, a: w.provisioning.delete_user(a.name), b"550 5.7.13 ", b"421 4.7.0 "),
    "password reset": (lambda w, a: w.provisioning.reset_password(a.name), b"530 5.7.0 ", b"421 4.7.0 "),
    "hourly limit lowered": (lambda w, a: w.provisioning.edit_user(a.name, hourly=1), b"451 4.7.0 Hourly ", b"250 2.0.0 "),
    "total limit lowered": (lambda w, a: w.provisioning.edit_user(a.name, total=1), b"550 5.7.1 Total ", b"250 2.0.0 "),
    "limits lowered that still suffice": (lambda w, a: w.provisioning.edit_user(a.name, hourly=2, total=2), b"250 2.0.0 ", b"250 2.0.0 "),
}


def hang_up(wire: Wire) -> None:
    """End the connection as a crash does: with a reset."""
    sock = wire.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.writer.transport.abort()


# -- who leaves -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("is_reset", [True, False], ids=["reset", "close"])
async def test_a_client_that_hangs_up_after_its_dot_cancels_nothing(worker: Worker, account: Account, door: str, is_reset: bool) -> None:
    worker.script("dot stall=0.2")
    wire = await worker.enter(account, door)
    assert (await wire.begin()).startswith(b"354 ")
    await wire.write(b"Subject: x\r\n\r\n.\r\n")
    await asyncio.sleep(0.05)
    if is_reset:
        hang_up(wire)
    else:
        await wire.close()
    await worker.await_event("taken")
    assert await worker.account_of(account) == (1, 1)
    await worker.await_connections(0)


@pytest.mark.parametrize("door", DOORS)
async def test_a_client_that_hangs_up_during_its_message_costs_nothing(worker: Worker, account: Account, door: str) -> None:
    wire = await worker.enter(account, door)
    assert (await wire.begin()).startswith(b"354 ")
    await wire.write(b"Subject: x\r\n\r\nhello\r\n.")
    await asyncio.sleep(0.02)
    assert await worker.ledger.open_holds(account.name)
    hang_up(wire)
    await worker.await_event("released")
    assert await worker.account_of(account) == (0, 0)
    await worker.await_connections(0)
    assert worker.house.uploads == set() and not worker.events("bug")


async def test_a_client_that_leaves_without_reading_354_is_no_bug(worker: Worker, account: Account) -> None:
    wire = await worker.enter(account)
    protocol = worker.only()
    protocol.pause_writing()  # as the transport does when the client does not read
    await wire.send(b"MAIL FROM:<a@b.example>", b"RCPT TO:<c@d.example>", b"DATA")
    while not await worker.ledger.open_holds(account.name):
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.02)
    hang_up(wire)
    await worker.await_connections(0)
    assert await worker.account_of(account) == (0, 0)
    assert not worker.events("bug")


async def test_the_next_group_of_a_client_that_left_is_not_begun(worker: Worker, account: Account) -> None:
    worker.script("dot stall=0.1")
    wire = await worker.enter(account)
    await wire.begin()
    await wire.send(b"Subject: x", b"", b".", b"MAIL FROM:<a@b.c>", b"RCPT TO:<d@e.f>", b"DATA", b"Subject: y", b"")
    hang_up(wire)
    await worker.await_connections(0)
    taken, answered = await worker.account_of(account)
    assert taken == answered <= 1


# -- who is slow ----------------------------------------------------------------------------------------------------------------


async def test_a_message_that_is_not_complete_at_its_deadline_is_given_up(open_worker: Opening) -> None:
    async with open_worker(rules={"data_deadline": 0.3}) as worker:
        account = await worker.add_user()
        wire = await worker.enter(account)
        assert (await wire.begin()).startswith(b"354 ")
        began = time.monotonic()
        for _ in range(20):  # octets that come in do not prolong it
            await wire.write(b"x")
            await asyncio.sleep(0.02)
            if time.monotonic() - began > 0.25:
                break
        assert (await wire.reply()).startswith(b"421 4.4.2 ")
        assert 0.25 < time.monotonic() - began < 1
        assert await wire.is_closed()
        assert await worker.account_of(account) == (0, 0)


@pytest.mark.parametrize("said", [b"", b"NOO", b"AUTH LOGIN\r\n", b"EHLO x\r\nAUTH PLAIN\r\n"])
async def test_a_client_that_says_nothing_is_told_421(open_worker: Opening, said: bytes) -> None:
    async with open_worker(rules={"command_timeout": 0.2}) as worker:
        wire = await worker.connect()
        await wire.reply()
        await wire.write(said)
        while not (reply := await wire.reply()).startswith(b"421 "):
            assert reply
        assert reply.startswith(b"421 4.4.2 ")
        assert await wire.is_closed()
        await worker.await_connections(0)


async def test_a_client_that_does_not_read_its_replies_is_left(open_worker: Opening) -> None:
    async with open_worker(rules={"command_timeout": 1.0}) as worker:
        wire = await worker.connect()
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await worker.await_connections(1)
        began = time.monotonic()
        with pytest.raises((ConnectionError, TimeoutError)):
            async with asyncio.timeout(5):
                while True:
                    await wire.write(b"EHLO x\r\n" * 10_000)
        await worker.await_connections(0)
        assert time.monotonic() - began < 1.8


# -- who is changed -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_reaches_a_message_that_is_being_uploaded(worker: Worker, account: Account, name: str) -> None:
    change, reply, following = CHANGES[name]
    wire = await worker.enter(account)
    assert (await wire.offer(b"Subject: first\r\n")).startswith(b"250 ")
    assert (await wire.begin()).startswith(b"354 ")
    await wire.write(b"Subject: second\r\n\r\n")
    began = time.monotonic()
    await change(worker, account)
    # The command returns only when what was let in before has been checked anew, and it does not wait for the upload.
    assert time.monotonic() - began < 1
    assert not worker.events("change_overtaken")
    await wire.write(b"hello\r\n.\r\n")
    assert (await wire.reply()).startswith(reply)
    assert (await wire.ask(b"NOOP")).startswith(following)
    assert worker.sink.intake.answered == (2 if reply.startswith(b"250") else 1)
    assert await worker.ledger.open_holds(account.name) == {}


async def test_a_change_while_the_smarthost_decides_waits_for_its_verdict(worker: Worker, account: Account) -> None:
    worker.script("dot stall=0.3")
    wire = await worker.enter(account)
    await wire.begin()
    await wire.write(b"Subject: x\r\n\r\n.\r\n")
    await asyncio.sleep(0.05)
    await worker.provisioning.edit_user(account.name, is_enabled=False)
    assert worker.sink.intake.answered == 1
    assert await worker.account_of(account) == (1, 1)
    assert (await wire.reply()).startswith(b"250 ")
    assert (await wire.begin()).startswith(b"550 5.7.13 ")


async def test_many_uploads_of_one_user_are_all_checked_anew(worker: Worker, account: Account) -> None:
    wires = [await worker.enter(account) for _ in range(5)]
    for wire in wires:
        assert (await wire.begin()).startswith(b"354 ")
    await worker.provisioning.edit_user(account.name, hourly=2)
    for wire in wires:
        await wire.write(b"Subject: x\r\n.\r\n")
    replies = [await wire.reply() for wire in wires]
    assert sorted(reply[:3] for reply in replies) == [b"250"] * 2 + [b"451"] * 3
    assert await worker.account_of(account) == (2, 2)


async def test_what_is_in_flight_stands_in_the_way_and_says_so(worker: Worker) -> None:
    account = await worker.add_user(hourly=1)
    first, second = await worker.enter(account), await worker.enter(account)
    assert (await first.begin()).startswith(b"354 ")
    assert (await second.begin()).startswith(b"451 4.7.0 Sending limit taken by messages in flight; retry-after=")
    hang_up(first)
    await worker.await_event("released")
    assert (await second.offer(b"Subject: x\r\n")).startswith(b"250 ")
    assert await worker.account_of(account) == (1, 1)


async def test_a_message_whose_lease_is_nearly_over_is_checked_again_before_it_goes_out(open_worker: Opening) -> None:
    async with open_worker(quota={"lease": 0.5}, rules={"forward_margin": 0.2}) as worker:
        account = await worker.add_user(hourly=1)
        slow, quick = await worker.enter(account), await worker.enter(account)
        assert (await slow.begin()).startswith(b"354 ")
        await asyncio.sleep(0.6)
        assert (await quick.offer(b"Subject: x\r\n")).startswith(b"250 ")
        await slow.write(b"Subject: too late\r\n.\r\n")
        assert (await slow.reply()).startswith(b"451 4.7.0 Hourly sending limit reached (1/1 messages)")
        assert await worker.account_of(account) == (1, 1)
        # Where nothing came in between, it goes out under a new lease.
        await worker.provisioning.edit_user(account.name, hourly=2)
        assert (await slow.begin()).startswith(b"354 ")
        await asyncio.sleep(0.6)
        await slow.write(b"Subject: still in time\r\n.\r\n")
        assert (await slow.reply()).startswith(b"250 ")
        assert await worker.account_of(account) == (2, 2)


# -- what is sent ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", DOORS)
async def test_a_megabyte_arrives_octet_for_octet_through_smtplib(
    worker: Worker, account: Account, trust: ssl.SSLContext, door: str
) -> None:
    body = b"".join(b"." * (i % 4) + bytes([32 + i % 95, 160 + i % 90]) * 30 + b"\r\n" for i in range(17_000))
    content = b"Date: Thu, 01 Jan 1970 00:00:00 +0000\r\nMessage-ID: <x@y.example>\r\nSubject: x\r\n\r\n" + body + b".\r\n..\r\n"

    def connect() -> smtplib.SMTP:
        if door == "implicit":
            return smtplib.SMTP_SSL("localhost", worker.ports[door], timeout=20, context=trust)
        return smtplib.SMTP("localhost", worker.ports[door], timeout=20)

    def send() -> None:
        with connect() as client:
            if door == "starttls":
                client.starttls(context=trust)
            client.login(account.name, account.password)
            for _ in range(2):
                assert client.sendmail("a@b.example", ["c@d.example", "e@f.example"], content) == {}

    await asyncio.to_thread(send)
    assert len(content) > 1 << 20
    for message in worker.sink.messages:
        assert message.content is not None
        added = len(message.content) - len(content)
        assert message.content[:added].startswith(b"Received: from ") and message.content[:added].count(b"\r\n") == 3
        assert hashlib.sha256(message.content[added:]).digest() == hashlib.sha256(content).digest()
        assert "BODY=8BITMIME" in message.mail_params
    assert await worker.account_of(account) == (2, 2)


LINES = st.sampled_from([b".", b"..", b"", b"a", b".a", b"\xff\0", b"Date: x", b"Received: y", b" folded", b"x" * 1200, b"...\t", b"QUIT"])


@given(st.lists(LINES, max_size=12), st.lists(st.integers(1, 40), max_size=10))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_what_comes_in_goes_out_behind_what_was_added(worker: Worker, account: Account, lines: list[bytes], sizes: list[int]) -> None:
    content = b"".join(line + b"\r\n" for line in lines)
    wire = await worker.enter(account)
    assert (await wire.begin()).startswith(b"354 ")
    rest = stuff(content) + b".\r\n"
    for size in sizes:
        await wire.write(rest[:size])
        rest = rest[size:]
        await asyncio.sleep(0)
    await wire.write(rest)
    assert (await wire.reply()).startswith(b"250 ")
    received = worker.sink.messages[-1].content
    assert received is not None and received.endswith(content)
    added = received[: len(received) - len(content)]
    assert added.startswith(b"Received: ") and added.endswith(b"\r\n")
    await wire.close()


async def test_8_bit_content_is_refused_where_the_smarthost_does_not_take_it(open_worker: Opening) -> None:
    async with open_worker(sink={"without": ["8BITMIME"]}) as worker:
        account = await worker.add_user()
        wire = await worker.enter(account)
        assert (await wire.offer("Subject: x\r\n\r\nh\u00e9llo\r\n".encode())).startswith(b"554 5.6.3 ")
        assert (await wire.offer(b"Subject: x\r\n\r\nhello\r\n")).startswith(b"250 ")
        assert await worker.account_of(account) == (1, 1)


async def test_what_the_smarthost_rejects_is_capped(open_worker: Opening) -> None:
    async with open_worker(quota={"rejected_minimum": 2, "rejected_factor": 1.0}) as worker:
        account = await worker.add_user(hourly=2)
        worker.script("rcpt match=bad@* reply='550 5.1.1 no'", "rcpt match=later@* reply='450 4.2.1 later'")
        wire = await worker.enter(account)
        for _ in range(3):
            assert (await wire.offer(b"Subject: x\r\n", b"later@d.example")).startswith(b"451 4.2.1 ")
        for _ in range(2):
            assert (await wire.offer(b"Subject: x\r\n", b"bad@d.example")).startswith(b"550 5.1.1 ")
        assert (await wire.begin(b"good@d.example")).startswith(
            b"451 4.7.0 Too much of your mail was rejected (2/2 messages); retry-after="
        )
        assert await worker.account_of(account) == (0, 0)


@pytest.mark.parametrize(
    ("rule", "reply", "outcome"),
    [
        ("dot drop", b"451 4.4.2 Upstream outcome unknown", "in_doubt"),
        ("dot garbage", b"451 4.4.2 Upstream outcome unknown", "in_doubt"),
        ("dot stall=forever", b"451 4.4.2 Upstream outcome unknown", "in_doubt"),
        ("data drop", b"451 4.4.2 Upstream connection failed", "deferred"),
        ("mail stall=forever", b"451 4.4.2 Upstream connection failed", "deferred"),
        ("connect drop", b"451 4.4.1 ", "deferred"),
    ],
)
async def test_a_smarthost_that_fails_costs_the_client_nothing(open_worker: Opening, rule: str, reply: bytes, outcome: str) -> None:
    async with open_worker(deadline=0.3) as worker:
        account = await worker.add_user()
        worker.script(rule)
        wire = await worker.enter(account)
        assert (await wire.offer(b"Subject: x\r\n")).startswith(reply)
        assert (await worker.await_event("rejected"))["outcome"] == outcome
        worker.script()
        assert (await wire.offer(b"Subject: x\r\n")).startswith(b"250 ")
        assert await worker.account_of(account) == (1, 1)


async def test_a_fault_of_our_own_is_an_alarm_and_says_nothing_of_itself(open_worker: Opening) -> None:
    async with open_worker(route={"username": "me", "password": "very-secret"}, sink={"credentials": {"me": "other"}}) as worker:
        account = await worker.add_user()
        wire = await worker.enter(account)
        assert await wire.offer(b"Subject: x\r\n") == b"451 4.3.5 Relay misconfigured\r\n"
        assert "login refused" in (await worker.await_event("upstream_misconfigured"))["cause"]
        assert "very-secret" not in worker.log.read_text()


async def test_a_bug_is_451_and_a_constant_text_and_releases(worker: Worker, account: Account) -> None:
    async def broken(route: Route, user: str, envelope: Envelope, message: Message, terms: Terms) -> Attempt:
        raise ZeroDivisionError("very secret")

    forward, worker.house.forward = worker.house.forward, broken
    wire = await worker.enter(account)
    assert await wire.offer(b"Subject: x\r\n") == b"451 4.3.0 Internal error, try again later\r\n"
    assert "very secret" in (await worker.await_event("bug"))["traceback"]
    worker.house.forward = forward
    assert (await wire.offer(b"Subject: x\r\n")).startswith(b"250 ")
    assert await worker.account_of(account) == (1, 1)


async def test_no_secret_reaches_the_journal(worker: Worker, account: Account) -> None:
    wire = await worker.enter(account)
    await wire.offer(b"Subject: confidential\r\n\r\nbody\r\n")
    other = await worker.connect()
    await other.reply()
    await other.ask(b"EHLO x")
    await other.ask(b"AUTH PLAIN " + account.plain[:-8] + b"AAAA")
    await other.ask(b"AUTH LOGIN")
    text = worker.log.read_text()
    for secret in (account.password, account.password[:10], account.plain.decode()[:20], "confidential"):
        assert secret not in text
