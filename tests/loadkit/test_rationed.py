"""A sink with limits, beside its script, TLS and logins: what holds room, and what gives it back."""

from __future__ import annotations

import asyncio
import base64
import smtplib
from collections.abc import Awaitable, Callable
from contextlib import closing

import pytest

from relay.loadkit.allowance import Allowance
from relay.loadkit.caller import unverified
from relay.loadkit.received import MOST_IDS, Intake, Received
from relay.loadkit.sink import Sink
from tests.loadkit.conftest import StartSink, Talker

Talk = Callable[[Sink], Awaitable[Talker]]
ONE = Allowance(1, 100)
ENVELOPE = ("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>")
FULL = "451 4.7.0 Hourly sending limit reached (1/1 messages); retry-after="


async def logged_in(talk: Talk, sink: Sink, user: str = "app") -> Talker:
    client = await talk(sink)
    await client.hear()
    claim = base64.b64encode(f"\0{user}\0pw".encode()).decode()
    assert (await client.say("EHLO c.example", f"AUTH PLAIN {claim}"))[1] == "235 2.7.0 Authentication successful"
    return client


async def offer(client: Talker, body: str = "x") -> str:
    """One message; what is said to DATA if not 354, else to the dot."""
    reply = (await client.say(*ENVELOPE, "DATA"))[-1]
    return await client.say_raw(f"{body}\r\n.\r\n".encode()) if reply.startswith("354") else reply


async def test_each_user_has_a_window_of_its_own(start_sink: StartSink, talk: Talk) -> None:
    sink = await start_sink(allowance=ONE)
    one, other = await logged_in(talk, sink, "one"), await logged_in(talk, sink, "other")
    assert (await offer(one)).startswith("250 2.0.0 s1.1 Ok: queued as 1")
    assert (await offer(one)).startswith(FULL)
    assert (await offer(other)).startswith("250")
    assert [message.user for message in sink.messages] == ["one", "other"]


@pytest.mark.parametrize(
    "rule", ['data first=1 reply="451 4.3.0 no"', 'dot first=1 reply="452 4.3.1 no"', 'dot first=1 reply="554 5.6.0 no" stall=0.01']
)
async def test_what_the_script_refuses_is_given_back(start_sink: StartSink, talk: Talk, rule: str) -> None:
    sink = await start_sink(rule, allowance=ONE)
    client = await logged_in(talk, sink)
    assert (await offer(client)).endswith("no")
    assert (await offer(client)).startswith("250")
    assert (await offer(client)).startswith(FULL)
    assert sink.books is not None and sink.books.by_user["app"].rejected.total == ("554" in rule)


@pytest.mark.parametrize("end", ["before the dot", "drop", "garbage", "stall=forever"])
async def test_a_message_that_is_broken_off_or_not_answered_is_given_back(start_sink: StartSink, talk: Talk, end: str) -> None:
    sink = await start_sink(*([] if end == "before the dot" else [f"dot first=1 {end}"]), allowance=ONE)
    client = await logged_in(talk, sink)
    assert (await client.say(*ENVELOPE, "DATA"))[-1].startswith("354")
    other = await logged_in(talk, sink)
    assert (await offer(other)).startswith("451 4.7.0 Sending limit taken by messages in flight; retry-after=420 at=")
    client.writer.write(b"x" if end == "before the dot" else b"x\r\n.\r\n")
    await client.writer.drain()
    await asyncio.sleep(0.05)
    client.writer.close()
    async with asyncio.timeout(5):
        while len(sink.conversations) > 1:
            await asyncio.sleep(0.01)
    assert (await offer(other)).startswith("250")


async def test_a_reply_that_is_lost_on_its_way_is_charged(start_sink: StartSink, talk: Talk) -> None:
    sink = await start_sink("dot first=1 drop=after", allowance=ONE)
    await offer(await logged_in(talk, sink))
    assert (await offer(await logged_in(talk, sink))).startswith(FULL)


async def test_a_message_in_chunks_holds_room_from_its_first_to_its_last(start_sink: StartSink, talk: Talk) -> None:
    sink = await start_sink(allowance=ONE)
    client, other = await logged_in(talk, sink), await logged_in(talk, sink)
    await client.say(*ENVELOPE)
    assert (await client.say_raw(b"BDAT 3\r\nabc")).startswith("250 2.0.0 3 octets")
    assert "in flight" in await offer(other)
    assert (await client.say("RSET"))[0].startswith("250")
    await client.say(*ENVELOPE)
    assert (await client.say_raw(b"BDAT 3\r\nabc")).startswith("250")
    assert (await client.say_raw(b"BDAT 0 LAST\r\n")).startswith("250")
    await client.say(*ENVELOPE)
    assert (await client.say_raw(b"BDAT 3 LAST\r\nabc")).startswith(FULL)
    assert (await client.say("NOOP"))[0] == "250 2.0.0 OK"


async def test_recipients_count_where_they_are_the_unit_and_twice_named_ones_once(start_sink: StartSink, talk: Talk) -> None:
    sink = await start_sink(allowance=Allowance(3, 100, unit="recipients"))
    client = await logged_in(talk, sink)
    await client.say(*ENVELOPE, "RCPT TO:<c@D.example>", "RCPT TO:<e@d.example>", "DATA")
    await client.say_raw(b"x\r\n.\r\n")
    assert sink.messages[0].recipients == ("c@d.example", "e@d.example")
    replies = await client.say(*ENVELOPE, "RCPT TO:<e@d.example>", "DATA")
    assert replies[-1].startswith("451 4.7.0 Hourly sending limit reached (2/3 recipients)")


async def test_limits_met_again_and_again_close_the_connection(start_sink: StartSink, talk: Talk) -> None:
    sink = await start_sink(allowance=ONE)
    client = await logged_in(talk, sink)
    replies = [await offer(client) for _ in range(101)]
    assert {reply[:3] for reply in replies[1:100]} == {"451"}
    assert replies[100].startswith("421 4.7.0 Hourly sending limit reached (1/1 messages); retry-after=")
    assert await client.hear() == ""
    sink = await start_sink(allowance=Allowance(None, 1))
    client = await logged_in(talk, sink)
    replies = [await offer(client) for _ in range(101)]
    assert set(replies[1:]) == {"550 5.7.1 Total sending limit reached (1/1 messages)"}
    assert await client.say("NOOP") == ["421 4.7.0 Too many refused messages, closing"]
    assert await client.hear() == ""


async def test_a_message_sent_without_waiting_for_354_is_not_taken_for_commands(start_sink: StartSink, talk: Talk) -> None:
    sink = await start_sink(allowance=ONE)
    client = await logged_in(talk, sink)
    await offer(client)
    client.writer.write("".join(f"{line}\r\n" for line in (*ENVELOPE, "DATA", "Subject: x", "", "x", ".")).encode())
    assert [(await client.hear())[:3] for _ in range(5)] == ["250", "250", "451", "421", ""]


async def test_where_users_are_named_only_they_come_in(start_sink: StartSink) -> None:
    sink = await start_sink(allowance=ONE, credentials={"app": "right"})

    def log_in(password: str) -> int:
        with closing(smtplib.SMTP("127.0.0.1", sink.port)) as client:
            try:
                return client.login("app", password)[0]
            except smtplib.SMTPAuthenticationError as error:
                assert error.smtp_error == b"5.7.8 Authentication credentials invalid"
                return error.smtp_code

    assert [await asyncio.to_thread(log_in, password) for password in ("wrong", "right")] == [535, 235]


async def test_a_password_is_taken_over_tls_only_where_there_is_tls(start_sink: StartSink) -> None:
    sink = await start_sink(allowance=ONE, tls="starttls")

    def send() -> None:
        with closing(smtplib.SMTP("127.0.0.1", sink.port)) as client:
            client.ehlo("c.example")
            assert not client.has_extn("auth")
            assert client.mail("a@b.example") == (530, b"5.7.0 Must issue a STARTTLS command first")
            assert client.docmd("AUTH", "PLAIN AGEAYg==") == (538, b"5.7.11 Encryption required for authentication")
            client.starttls(context=unverified())
            client.login("app", "pw")
            client.sendmail("a@b.example", ["c@d.example"], "x")

    await asyncio.to_thread(send)
    assert sink.intake.answered == 1


async def test_what_is_counted_only_is_not_kept(start_sink: StartSink, talk: Talk) -> None:
    sink = await start_sink("dot first=1 drop", allowance=Allowance(10), is_record=False)
    await offer(await logged_in(talk, sink))
    client = await logged_in(talk, sink)
    for id in ("a", "b", "a"):
        assert (await offer(client, f"X-Load-Id: {id}\r\n\r\nx")).startswith("250")
    intake = sink.intake
    assert (intake.answered, intake.unanswered, intake.distinct, intake.duplicates, intake.messages) == (3, 1, 2, 1, [])


def test_ids_that_are_counted_only_are_forgotten_after_very_many_others() -> None:
    intake = Intake(is_record=False)
    for number in [*range(MOST_IDS + 10), MOST_IDS]:
        intake.add(Received("", (), "", (), 1, str(number), True, "", 0.0), answered=True)
    assert (len(intake.ids), intake.distinct, intake.duplicates) == (MOST_IDS, MOST_IDS + 10, 1)


async def test_a_message_with_a_bare_newline_is_refused_and_costs_nothing(start_sink: StartSink, talk: Talk) -> None:
    sink = await start_sink(allowance=ONE)
    client = await logged_in(talk, sink)
    for _ in range(2):
        assert (await offer(client, "Subject: x\r\n\r\nhi\nthere")).startswith("550 5.6.11 Bare CR or LF")
    assert (await offer(client)).startswith("250")
    assert len(sink.messages) == 1


async def test_an_exchange_of_auth_that_is_cancelled_leaves_a_connection_that_takes_commands(start_sink: StartSink, talk: Talk) -> None:
    client = await talk(await start_sink(allowance=ONE))
    await client.hear()
    await client.say("EHLO c.example", "AUTH LOGIN")
    assert await client.say("*", "NOOP") == ["501 5.7.0 Authentication cancelled", "250 2.0.0 OK"]
    foreign = base64.b64encode(b"x\0app\0pw").decode()
    assert await client.say(f"AUTH PLAIN {foreign}") == ["535 5.7.8 Authentication credentials invalid"]
