"""SMTPUTF8 on the way out (RFC 6531): passed on where it is offered; where it is not, who needs it hears so, and nothing is mangled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from relay.loadkit.script import Script
from relay.mail.envelope import Envelope, Recipient
from relay.mail.verdict import Deferred, Delivered, Failed, Verdict
from relay.upstream.smarthost import WITHHELD, Message
from tests.upstream.conftest import MESSAGE, ONE, TWO, Opening, verdict_of, verdicts_of

UTF8 = Recipient("用户@例え.example")
UTF8_TOO = Recipient("ü@d.example")
HEADER = Message(b"Received: from x by y; now\r\n", "Subject: Grüße\r\n\r\nhello\r\n".encode())
BODY = Message(b"Received: from x by y; now\r\n", "Subject: x\r\n\r\nGrüße\r\n".encode())
WITHOUT = {"without": ("SMTPUTF8",)}
BOTH_WAYS = pytest.mark.parametrize("without", [("SMTPUTF8",), ("SMTPUTF8", "PIPELINING", "CHUNKING")], ids=["pipelined", "stepwise"])


def asking(*recipients: Recipient, sender: str = "a@b.example", **more: Any) -> Envelope:
    """An envelope of a message for which SMTPUTF8 was asked."""
    return Envelope(sender, recipients or (ONE,), smtputf8=True, **more)


def said(verdicts: Mapping[Recipient, Verdict], *recipients: Recipient) -> list[str]:
    """Code and status of what was said of them."""
    return [str(verdicts[one].reply)[:9] for one in recipients]


@pytest.mark.parametrize("message", [MESSAGE, HEADER, BODY], ids=["ascii", "header", "body"])
async def test_it_is_passed_on_with_addresses_and_content_as_they_came(open_pool: Opening, message: Message) -> None:
    async with open_pool() as (pool, sink):
        to = (UTF8, ONE, UTF8_TOO._replace(orcpt="utf-8;ü@d.example"))
        verdicts = await verdicts_of(pool, asking(*to, sender="jürgen@bücher.example"), message)
        assert all(isinstance(verdict, Delivered) for verdict in verdicts.values())
        [received] = sink.messages
        assert received.sender == "jürgen@bücher.example" and received.recipients == tuple(one.address for one in to)
        body = () if message is MESSAGE else ("BODY=8BITMIME",)
        assert received.mail_params.split() == [f"SIZE={message.size}", *body, "SMTPUTF8"]
        assert received.rcpt_params == ("", "", "ORCPT=utf-8;ü@d.example")
        assert received.content == message.prefix + message.wire


async def test_it_is_passed_on_though_it_seems_not_needed_and_only_if_it_was_asked_for(open_pool: Opening) -> None:
    async with open_pool() as (pool, sink):
        for envelope in (asking(), Envelope("a@b.example", (ONE,))):
            assert isinstance((await verdicts_of(pool, envelope))[ONE], Delivered)
        assert [("SMTPUTF8" in received.mail_params) for received in sink.messages] == [True, False]


@pytest.mark.parametrize("message", [MESSAGE, BODY], ids=["ascii", "body"])
async def test_where_it_is_not_offered_and_not_needed_it_is_not_missed(open_pool: Opening, message: Message) -> None:
    async with open_pool(**WITHOUT) as (pool, sink):
        assert isinstance((await verdicts_of(pool, asking(), message))[ONE], Delivered)
        assert "SMTPUTF8" not in sink.messages[0].mail_params
        assert sink.messages[0].content == message.prefix + message.wire


async def test_an_8_bit_header_for_which_it_was_not_asked_goes_as_it_always_went(open_pool: Opening) -> None:
    async with open_pool(**WITHOUT) as (pool, sink):
        assert isinstance(await verdict_of(pool, ONE), Delivered)
        assert isinstance((await verdicts_of(pool, Envelope("a@b.example", (ONE,)), HEADER))[ONE], Delivered)
        assert sink.messages[1].content == HEADER.prefix + HEADER.wire


CASES = {
    "the sender": (asking(ONE, UTF8, sender="ü@b.example"), MESSAGE, ["550 5.6.7", "550 5.6.7"]),
    "the header": (asking(ONE, TWO), HEADER, ["554 5.6.9", "554 5.6.9"]),
    "the header and a recipient": (asking(ONE, UTF8), HEADER, ["554 5.6.9", "550 5.6.7"]),
    "every recipient": (asking(UTF8, UTF8_TOO), MESSAGE, ["550 5.6.7", "550 5.6.7"]),
    "a header without an end": (asking(ONE), HEADER._replace(wire="Subject: ü\r\n".encode()), ["554 5.6.9"]),
}


@pytest.mark.parametrize("is_split", [False, True])
@pytest.mark.parametrize("case", CASES)
async def test_where_it_is_needed_and_not_offered_all_hear_so_and_nothing_is_sent(open_pool: Opening, case: str, is_split: bool) -> None:
    envelope, message, expected = CASES[case]
    async with open_pool(**WITHOUT) as (pool, sink):
        verdicts = await verdicts_of(pool, envelope, message, is_split=is_split)
        assert all(isinstance(verdict, Failed) for verdict in verdicts.values())
        assert said(verdicts, *envelope.recipients) == expected
        assert sink.messages == [] and sink.replies[250] == 1  # EHLO
        assert isinstance(await verdict_of(pool), Delivered)
        assert sink.intake.connections == 1


@BOTH_WAYS
async def test_where_only_some_recipients_need_it_the_others_are_served(open_pool: Opening, without: tuple[str, ...]) -> None:
    told: list[Mapping[Recipient, Verdict]] = []

    async def note(refused: Mapping[Recipient, Verdict]) -> None:
        told.append(refused)

    async with open_pool("rcpt match=two@* reply='450 4.2.0 later'", without=without) as (pool, sink):
        verdicts = await verdicts_of(pool, asking(UTF8, ONE, TWO, UTF8_TOO), is_split=True, before_dot=note)
        assert said(verdicts, UTF8, ONE, TWO, UTF8_TOO) == ["550 5.6.7", "250 2.0.0", "451 4.2.0", "550 5.6.7"]
        assert told == [{one: verdicts[one] for one in (UTF8, UTF8_TOO, TWO)}]
        assert [received.recipients for received in sink.messages] == [(ONE.address,)]
        verdicts = await verdicts_of(pool, asking(UTF8, ONE), is_split=True)
        assert said(verdicts, UTF8, ONE) == ["550 5.6.7", "250 2.0.0"]
        assert sink.intake.connections == 1


@BOTH_WAYS
async def test_a_message_that_may_not_be_split_is_not_offered_to_the_others(open_pool: Opening, without: tuple[str, ...]) -> None:
    async with open_pool(without=without) as (pool, sink):
        verdicts = await verdicts_of(pool, asking(ONE, UTF8))
        assert isinstance(verdicts[UTF8], Failed) and verdicts[ONE] == WITHHELD
        assert sink.messages == [] and sink.replies[354] == 0
        assert isinstance(await verdict_of(pool), Delivered)


@BOTH_WAYS
@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "dot"])
@pytest.mark.parametrize(
    "deed", ["drop", "stall=forever", "reply='554 5.6.0 no'", "reply='451 4.3.0 later'", "reply='421 4.3.2 bye' close"]
)
async def test_what_was_said_of_them_stands_whatever_becomes_of_the_others(
    open_pool: Opening, without: tuple[str, ...], stage: str, deed: str
) -> None:
    async with open_pool(f"{stage} {deed}", without=without) as (pool, sink):
        verdicts = await verdicts_of(pool, asking(UTF8, ONE, TWO), deadline=0.2, is_split=True)
        assert isinstance(verdicts[UTF8], Failed) and verdicts[UTF8].reply.status == "5.6.7"
        assert verdicts[ONE] == verdicts[TWO]
        assert isinstance(verdicts[ONE], Failed if "554" in deed else Deferred)
        sink.script = Script()
        assert isinstance(await verdict_of(pool), Delivered)


async def test_552_for_too_many_recipients_is_seen_among_those_who_were_offered(open_pool: Opening) -> None:
    async with open_pool("rcpt match=two@* reply='552 5.5.3 too many'", **WITHOUT) as (pool, _):
        verdicts = await verdicts_of(pool, asking(UTF8, UTF8_TOO, ONE, TWO), is_split=True)
        assert isinstance(verdicts[ONE], Delivered) and isinstance(verdicts[TWO], Deferred)


@pytest.mark.parametrize(
    ("orcpt", "spelled"),
    [("utf-8;ü\\x{2B}x@d.example", "ORCPT=utf-8;\\x{FC}\\x{2B}x@d.example"), ("utf-8;a@b.example", "ORCPT=utf-8;a@b.example"),
     ("rfc822;a+2Bb@c.example", "ORCPT=rfc822;a+2Bb@c.example"), ("utf-8;" + "用" * 70, ""),
     ("utf-8;" + "用" * 61, "ORCPT=utf-8;" + "\\x{7528}" * 61)],
    ids=["utf-8", "ascii", "rfc822", "too long", "long"],
)  # fmt: skip
async def test_orcpt_is_spelled_in_ascii_for_who_has_no_smtputf8(open_pool: Opening, orcpt: str, spelled: str) -> None:
    async with open_pool(**WITHOUT) as (pool, sink):
        assert isinstance(await verdict_of(pool, ONE._replace(orcpt=orcpt)), Delivered)
        assert sink.messages[0].rcpt_params == (spelled,)


@pytest.mark.parametrize("message", [HEADER, BODY], ids=["header", "body"])
async def test_a_smarthost_without_8bitmime_and_smtputf8_is_missing_8bitmime_first(open_pool: Opening, message: Message) -> None:
    async with open_pool(without=("SMTPUTF8", "8BITMIME")) as (pool, _):
        verdicts = await verdicts_of(pool, asking(ONE, UTF8), message, is_split=True)
        assert said(verdicts, ONE, UTF8) == ["554 5.6.3", "554 5.6.3"]
