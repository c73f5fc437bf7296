"""The sink as a server: correct where no script says otherwise, wrong exactly as told where one does."""

from __future__ import annotations

import asyncio
import hashlib
import smtplib
import ssl
import time
from collections.abc import Awaitable, Callable

import pytest

from relay.loadkit.caller import unverified
from relay.loadkit.script import Script
from relay.loadkit.scripted import GARBAGE
from relay.loadkit.sink import Sink
from tests.loadkit.conftest import StartSink, Talker

Talk = Callable[[Sink], Awaitable[Talker]]
MESSAGE = "Message-ID: <m1@client.example>\r\nSubject: x\r\n\r\n.one\r\n..two\r\n.\r\nlast\r\n"


async def test_smtplib_delivers_a_message_that_arrives_as_it_was(start_sink: StartSink) -> None:
    sink = await start_sink(keep=True, digest=True)

    def send() -> None:
        with smtplib.SMTP("127.0.0.1", sink.port) as client:
            client.sendmail("a@client.example", ["b@sink.example", "c@sink.example"], MESSAGE, ["BODY=8BITMIME"], ["NOTIFY=NEVER"])

    await asyncio.to_thread(send)
    [message] = sink.messages
    assert message.content == MESSAGE.encode()
    assert message.digest == hashlib.sha256(MESSAGE.encode()).digest()
    assert (message.sender, message.recipients) == ("a@client.example", ("b@sink.example", "c@sink.example"))
    assert message.mail_params.split()[-1] == "BODY=8BITMIME"
    assert message.rcpt_params == ("NOTIFY=NEVER", "NOTIFY=NEVER")
    assert message.id == "<m1@client.example>"
    assert message.answered
    assert abs(message.at - time.time()) < 5
    assert sink.replies[354] == 1


async def test_a_dot_stuffed_line_arrives_unstuffed(start_sink: StartSink, talk: Talk) -> None:
    sink = await start_sink(keep=True)
    client = await talk(sink)
    await client.hear()
    await client.begin()
    assert (await client.say_raw(b"..first\r\n.odd\r\n...\r\n\r\n.\r\n")).startswith("250 2.0.0")
    assert sink.messages[0].content == b".first\r\nodd\r\n..\r\n\r\n"


@pytest.mark.parametrize("inside", [b"\n.\n", b"\r\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\r"])
async def test_data_ends_at_no_dot_but_one_on_a_line_of_its_own(start_sink: StartSink, talk: Talk, inside: bytes) -> None:
    sink = await start_sink(keep=True)
    client = await talk(sink)
    await client.hear()
    await client.begin()
    await client.say_raw(b"a" + inside + b"MAIL FROM:<x@y.example>\r\n.\r\n")
    assert len(sink.messages) == 1
    assert b"MAIL FROM" in (sink.messages[0].content or b"")


async def test_a_message_may_come_octet_by_octet_and_may_be_empty(start_sink: StartSink, talk: Talk) -> None:
    sink = await start_sink(keep=True)
    client = await talk(sink)
    await client.hear()
    await client.begin()
    for octet in b"hi\r\n..\r\n.\r\n":
        client.writer.write(bytes([octet]))
        await client.writer.drain()
        await asyncio.sleep(0)
    assert (await client.hear()).startswith("250")
    await client.say("MAIL FROM:<>", "RCPT TO:<b@sink.example>", "DATA")
    assert (await client.say_raw(b".\r\n")).startswith("250")
    assert [message.content for message in sink.messages] == [b"hi\r\n.\r\n", b""]


async def test_a_whole_session_may_come_in_one_flight(start_sink: StartSink, talk: Talk) -> None:
    sink = await start_sink()
    client = await talk(sink)
    client.writer.write(
        b"EHLO c.example\r\nMAIL FROM:<a@c.example>\r\nRCPT TO:<b@s.example>\r\nDATA\r\nhi\r\n.\r\n"
        b"MAIL FROM:<a@c.example>\r\nRCPT TO:<b@s.example>\r\nDATA\r\nho\r\n.\r\nQUIT\r\n"
    )
    codes = [(await client.hear())[:3] for _ in range(11)]
    assert codes == ["220", "250", "250", "250", "354", "250", "250", "250", "354", "250", "221"]
    assert await client.hear() == ""
    assert sink.intake.answered == 2


async def test_commands_out_of_order_are_refused(start_sink: StartSink, talk: Talk) -> None:
    client = await talk(await start_sink())
    await client.hear()
    assert (await client.say("MAIL FROM:<a@b.example>", "FROB"))[0].startswith("503")
    await client.say("EHLO c.example")
    replies = await client.say("RCPT TO:<a@b.example>", "DATA", "MAIL FROM:<a@b.example>", "MAIL FROM:<>", "DATA", "RSET", "DATA")
    assert [reply[:3] for reply in replies] == ["503", "503", "250", "503", "503", "250", "503"]
    replies = await client.say("MAIL FROM:a", "MAIL FROM:<a@b.example> SIZE=999999999999", "MAIL FROM:<> FROB=1", "NOOP", "VRFY x")
    assert [reply[:3] for reply in replies] == ["501", "552", "555", "250", "252"]
    sizes = ["9" * 20, "9" * 21, "9" * 5000, "\u00b2", "-1", ""]
    replies = await client.say(*(f"MAIL FROM:<a@b.example> SIZE={size}" for size in sizes), "NOOP")
    assert [reply[:3] for reply in replies] == ["552", "501", "501", "501", "501", "501", "250"]


async def test_what_is_switched_off_is_neither_offered_nor_taken(start_sink: StartSink, talk: Talk) -> None:
    client = await talk(await start_sink(without=["DSN", "ENHANCEDSTATUSCODES", "size"]))
    await client.hear()
    offered = (await client.say("EHLO c.example"))[0]
    assert "PIPELINING" in offered
    assert not any(word in offered for word in ("DSN", "ENHANCED", "SIZE"))
    replies = await client.say("MAIL FROM:<a@b.example> RET=HDRS", "MAIL FROM:<a@b.example>")
    assert replies == ["555 Parameter not recognised", "250 Sender ok"]
    with pytest.raises(ValueError, match="FROB"):
        Sink(without=["FROB"])


async def test_addresses_beyond_ascii_are_taken_with_smtputf8_and_only_so(start_sink: StartSink, talk: Talk) -> None:
    sink = await start_sink()
    client = await talk(sink)
    await client.hear()
    assert "SMTPUTF8" in (await client.say("EHLO c.example"))[0]
    replies = await client.say("MAIL FROM:<ü@b.example>", "MAIL FROM:<a@b.example>", "RCPT TO:<ü@d.example>", "RSET")
    assert [reply[:9] for reply in replies] == ["553 5.6.7", "250 2.1.0", "553 5.6.7", "250 2.0.0"]
    replies = await client.say("MAIL FROM:<ü@b.example> BODY=8BITMIME smtputf8", "RCPT TO:<用户@例え.example>", "DATA")
    assert [reply[:3] for reply in replies] == ["250", "250", "354"]
    await client.say_raw(b"x\r\n.\r\n")
    assert (sink.messages[0].sender, sink.messages[0].recipients) == ("ü@b.example", ("用户@例え.example",))
    await client.say("MAIL FROM:<a@b.example> SMTPUTF8")
    assert (await client.say_raw(b"RCPT TO:<\xfc@d.example>\r\n")).startswith("501 5.1.3")
    client = await talk(await start_sink(without=["SMTPUTF8"]))
    await client.hear()
    replies = await client.say("EHLO c.example", "MAIL FROM:<a@b.example> SMTPUTF8", "MAIL FROM:<ü@b.example> SMTPUTF8")
    assert "SMTPUTF8" not in replies[0] and [reply[:3] for reply in replies[1:]] == ["555", "555"]


CHUNKS = b"BDAT 5\r\n.ab\r\nBDAT 0\r\nBDAT 3 LAST\r\n.\r\n"


@pytest.mark.parametrize("step", [1, 7, len(CHUNKS)])
async def test_a_message_may_come_in_chunks_however_they_are_cut(start_sink: StartSink, talk: Talk, step: int) -> None:
    sink = await start_sink(keep=True)
    client = await talk(sink)
    await client.hear()
    assert "CHUNKING" in (await client.say("EHLO c.example"))[0]
    for last in (CHUNKS, CHUNKS.replace(b"BDAT 3 LAST\r\n.\r\n", b"BDAT 0 LAST\r\n")):
        await client.say("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>")
        for start in range(0, len(last), step):
            client.writer.write(last[start : start + step])
            await client.writer.drain()
            await asyncio.sleep(0)
        assert [(await client.hear())[:9] for _ in range(3)] == ["250 2.0.0"] * 3
    assert [message.content for message in sink.messages] == [b".ab\r\n.\r\n", b".ab\r\n"]


async def test_a_chunk_that_is_refused_is_read_to_its_end_and_ends_the_transaction(start_sink: StartSink, talk: Talk) -> None:
    sink = await start_sink("data match=bad@* reply='452 4.3.1 full'", max_size=10)
    client = await talk(sink)
    await client.hear()
    await client.say("EHLO c.example")
    assert (await client.say_raw(b"BDAT 6 LAST\r\nQUIT\r\n")).startswith("503")
    await client.say("MAIL FROM:<a@b.example>", "RCPT TO:<bad@d.example>")
    assert (await client.say_raw(b"BDAT 6\r\nQUIT\r\n")).startswith("452")
    assert (await client.say_raw(b"BDAT 6 LAST\r\nQUIT\r\n")).startswith("503")
    for reply, line in (("250", b"BDAT 6\r\nQUIT\r\n"), ("503", b"DATA\r\n"), ("552", b"BDAT 6\r\nQUIT\r\n")):
        if reply == "250":
            await client.say("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>")
        assert (await client.say_raw(line)).startswith(reply)
    assert (await client.say("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>"))[1].startswith("250")
    assert (await client.say_raw(b"BDAT x\r\n")).startswith("501")
    assert await client.hear() == "" and sink.messages == []
    client = await talk(await start_sink(without=["CHUNKING"]))
    await client.hear()
    assert (await client.say("BDAT 0 LAST"))[0].startswith("502")


@pytest.mark.parametrize("mechanism", ["auth_plain", "auth_login"])
async def test_where_credentials_are_given_they_are_required(start_sink: StartSink, mechanism: str) -> None:
    sink = await start_sink(credentials={"u1": "secret"})

    def send() -> list[int]:
        with smtplib.SMTP("127.0.0.1", sink.port) as client:
            client.ehlo()
            codes = [client.mail("a@b.example")[0]]
            client.user, client.password = "u1", "wrong"
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.auth(mechanism[5:].upper(), getattr(client, mechanism))
            client.password = "secret"
            codes.append(client.auth(mechanism[5:].upper(), getattr(client, mechanism))[0])
            client.sendmail("a@b.example", ["c@d.example"], MESSAGE)
            return codes

    assert await asyncio.to_thread(send) == [530, 235]
    assert [message.user for message in sink.messages] == ["u1"]


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_smtplib_delivers_over_tls(start_sink: StartSink, certificate: ssl.SSLContext, tls: str) -> None:
    sink = await start_sink(tls=tls, certificate=certificate)

    def send() -> None:
        if tls == "implicit":
            client: smtplib.SMTP = smtplib.SMTP_SSL("127.0.0.1", sink.port, context=unverified())
        else:
            client = smtplib.SMTP("127.0.0.1", sink.port)
            client.starttls(context=unverified())
            client.ehlo()
            assert not client.has_extn("starttls")
        with client:
            client.sendmail("a@b.example", ["c@d.example"], MESSAGE)

    await asyncio.to_thread(send)
    assert sink.intake.answered == 1


async def test_what_was_sent_before_the_handshake_does_not_survive_it(
    start_sink: StartSink, talk: Talk, certificate: ssl.SSLContext
) -> None:
    sink = await start_sink(tls="starttls", certificate=certificate)
    client = await talk(sink)
    await client.hear()
    await client.say("EHLO c.example")
    client.writer.write(b"STARTTLS\r\nMAIL FROM:<evil@c.example>\r\n")
    assert (await client.hear()).startswith("220")
    await client.writer.start_tls(unverified())
    assert [reply[:3] for reply in await client.say("MAIL FROM:<a@c.example>", "EHLO c.example", "MAIL FROM:<a@c.example>")] == [
        "503",
        "250",
        "250",
    ]


# -- scripts -----------------------------------------------------------------------------------------------------------------


async def test_every_second_recipient_is_refused_and_is_not_in_the_envelope(start_sink: StartSink, talk: Talk) -> None:
    sink = await start_sink('rcpt every=2 reply="450 4.2.0 busy"')
    client = await talk(sink)
    await client.hear()
    await client.begin("a@s.example", "b@s.example", "c@s.example")
    await client.say_raw(b"x\r\n.\r\n")
    assert sink.messages[0].recipients == ("a@s.example", "c@s.example")
    assert sink.replies[450] == 1


async def test_a_refused_sender_leaves_no_transaction(start_sink: StartSink, talk: Talk) -> None:
    client = await talk(await start_sink('mail match=bad@* reply="550 5.7.1 no"'))
    await client.hear()
    replies = await client.say("EHLO c", "MAIL FROM:<bad@c.example>", "RCPT TO:<a@s.example>", "MAIL FROM:<good@c.example>")
    assert [reply[:3] for reply in replies] == ["250", "550", "503", "250"]


@pytest.mark.parametrize(
    ("action", "heard", "answered"),
    [
        ("drop", "", 0),
        ("drop=after", "250", 1),
        ("garbage", GARBAGE.decode("latin1")[:3], 0),
        ("stall=0.05 drop", "", 0),
        ('reply="250-2.0.0 a\\n250 2.0.0 b" close', "250", 1),
    ],
)
async def test_a_message_counts_only_where_250_was_decided(
    start_sink: StartSink, talk: Talk, action: str, heard: str, answered: int
) -> None:
    sink = await start_sink(f"dot {action}")
    client = await talk(sink)
    await client.hear()
    await client.begin()
    client.writer.write(b"X-Load-Id: l1\r\n\r\nx\r\n.\r\n")
    assert (await client.reader.read(3)).decode("latin1") == heard
    assert [message.answered for message in sink.messages] == [bool(answered)]
    assert (sink.intake.answered, sink.intake.unanswered, sink.ids["l1"]) == (answered, 1 - answered, answered)


async def test_a_refused_message_leaves_no_record(start_sink: StartSink, talk: Talk) -> None:
    sink = await start_sink('dot reply="451 4.3.0 later"')
    client = await talk(sink)
    await client.hear()
    await client.begin()
    assert await client.say_raw(b"x\r\n.\r\n") == "451 4.3.0 later"
    assert sink.messages == []


async def test_a_reply_may_come_twice(start_sink: StartSink, talk: Talk) -> None:
    client = await talk(await start_sink("rset twice"))
    await client.hear()
    assert await client.say("RSET") == ["250 2.0.0 Ok"]
    assert await client.hear() == "250 2.0.0 Ok"


async def test_a_stall_holds_back_what_was_pipelined_behind_it(start_sink: StartSink, talk: Talk) -> None:
    client = await talk(await start_sink("mail first=1 stall=0.2"))
    await client.hear()
    began = time.monotonic()
    replies = await client.say("EHLO c", "MAIL FROM:<a@c.example>", "RCPT TO:<b@s.example>")
    assert time.monotonic() - began >= 0.19
    assert [reply[:3] for reply in replies] == ["250"] * 3


async def test_a_message_under_an_endless_stall_is_recorded_unanswered_when_its_client_leaves(start_sink: StartSink, talk: Talk) -> None:
    sink = await start_sink("dot stall=forever")
    client = await talk(sink)
    await client.hear()
    await client.begin()
    client.writer.write(b"x\r\n.\r\n")
    await client.writer.drain()
    await asyncio.sleep(0.05)
    assert sink.messages == []
    client.writer.close()
    async with asyncio.timeout(5):
        while not sink.messages:
            await asyncio.sleep(0.01)
    assert not sink.messages[0].answered


async def test_stopping_cuts_what_is_open_and_frees_the_port(start_sink: StartSink, talk: Talk) -> None:
    sink = await start_sink("dot stall=forever")
    client = await talk(sink)
    await client.hear()
    await client.begin()
    client.writer.write(b"x\r\n.\r\n")
    await client.writer.drain()
    await asyncio.sleep(0.05)
    await sink.stop()
    assert await client.hear() == ""
    assert [message.answered for message in sink.messages] == [False]
    await sink.start()


async def test_a_connection_may_be_refused_at_its_greeting(start_sink: StartSink, talk: Talk) -> None:
    client = await talk(await start_sink('connect reply="421 4.3.2 full" close'))
    assert await client.hear() == "421 4.3.2 full"
    assert await client.hear() == ""


async def test_a_script_may_be_swapped_on_an_open_connection(start_sink: StartSink, talk: Talk) -> None:
    sink = await start_sink()
    client = await talk(sink)
    await client.hear()
    assert (await client.say("RSET"))[0].startswith("250")
    sink.script = Script.parse(['rset reply="451 4.0.0 no"'])
    assert (await client.say("RSET"))[0].startswith("451")
    sink.script = Script()
    assert (await client.say("QUIT"))[0].startswith("221")


# -- load messages -----------------------------------------------------------------------------------------------------------


async def test_a_damaged_body_and_a_second_copy_are_counted(start_sink: StartSink, talk: Talk) -> None:
    sink = await start_sink()
    client = await talk(sink)
    await client.hear()
    await client.say("EHLO c.example")
    digest = hashlib.sha256(b".body\r\n").hexdigest()
    for body in (b"..body\r\n", b"..body\r\n", b"body\r\n"):
        await client.say("MAIL FROM:<a@c.example>", "RCPT TO:<b@s.example>", "DATA")
        await client.say_raw(f"Received: by x\r\nX-Load-Id: l1\r\nX-Load-Sum: {digest}\r\n\r\n".encode() + body + b".\r\n")
    assert (sink.damaged, sink.duplicates, len(sink.ids)) == (1, 2, 1)
