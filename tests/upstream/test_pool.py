"""One attempt to forward, against a smarthost that misbehaves at each stage: what is said of the message is true, and what comes after
it is not harmed."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import pytest

from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from relay.mail.envelope import Envelope, Recipient
from relay.mail.verdict import Deferred, Delivered, Failed
from relay.upstream.pool import Pool
from relay.upstream.smarthost import Message
from tests.upstream.conftest import MESSAGE, ONE, TWO, Opening, envelope, verdict_of, verdicts_of

STAGES = ("mail", "rcpt", "data", "dot")
BEFORE = ("connect", "ehlo")
SHORT = 0.2
"""A deadline that strikes before any time-out."""


async def is_sound(pool: Pool, sink: Sink) -> None:
    """The next messages over this pool are delivered, each once, and said to be."""
    sink.script = Script()
    before = sink.intake.answered
    for count in (1, 2):
        assert isinstance(await verdict_of(pool, deadline=5.0), Delivered)
        assert sink.intake.answered == before + count


# -- one message after the other ----------------------------------------------------------------------------------------------------


async def test_messages_share_a_session(open_pool: Opening) -> None:
    async with open_pool() as (pool, sink):
        for count in range(1, 4):
            verdict = await verdict_of(pool, ONE, TWO)
            assert isinstance(verdict, Delivered) and verdict.reply.text == f"Ok: queued as {count}"
        assert (sink.intake.connections, sink.intake.answered) == (1, 3)
        assert sink.messages[0].content == MESSAGE.prefix + MESSAGE.wire


@pytest.mark.parametrize("feature", [(), ("PIPELINING",), ("PIPELINING", "8BITMIME", "SIZE", "DSN", "ENHANCEDSTATUSCODES")])
async def test_it_gets_along_with_a_smarthost_that_offers_little(open_pool: Opening, feature: tuple[str, ...]) -> None:
    async with open_pool("rcpt match=two@* first=1 reply='550 5.1.1 no'", without=feature) as (pool, sink):
        refused = await verdicts_of(pool, envelope(ONE, TWO))
        assert isinstance(refused[TWO], Failed) and refused[ONE] == Deferred(refused[ONE].reply, withheld=True)
        assert isinstance(await verdict_of(pool, ONE, TWO), Delivered)
        assert (sink.intake.connections, sink.intake.answered) == (1, 1)


async def test_who_waits_for_a_session_too_long_is_deferred_and_nothing_was_sent(open_pool: Opening) -> None:
    async with open_pool("dot stall=forever", route={"max_connections": 1}) as (pool, sink):
        # The second's comes well before the first's, whose slot it would be given else.
        first, second = await asyncio.gather(verdict_of(pool, deadline=1.0), verdict_of(pool, deadline=0.2))
        assert isinstance(first, Deferred) and first.in_doubt
        assert isinstance(second, Deferred) and not second.in_doubt
        assert sink.intake.connections == 1


# -- sessions that die while idle ---------------------------------------------------------------------------------------------------


async def test_an_idle_session_that_died_is_replaced_without_a_word(open_pool: Opening) -> None:
    async with open_pool() as (pool, sink):
        assert isinstance(await verdict_of(pool), Delivered)
        for conversation in tuple(sink.conversations):
            conversation.abort()
        # At once: its end may not have been heard yet.
        assert isinstance(await verdict_of(pool), Delivered)
        for conversation in tuple(sink.conversations):
            conversation.abort()
        await asyncio.sleep(0.05)
        assert isinstance(await verdict_of(pool), Delivered)
        assert (sink.intake.connections, sink.intake.answered) == (3, 3)


@pytest.mark.parametrize("rule", ["mail first=1 drop", "rcpt first=1 drop", "data first=1 drop", "mail first=1 garbage"])
async def test_a_used_session_that_breaks_before_the_content_is_replaced(open_pool: Opening, rule: str) -> None:
    async with open_pool() as (pool, sink):
        assert isinstance(await verdict_of(pool), Delivered)
        sink.script = Script.parse([rule])
        assert isinstance(await verdict_of(pool), Delivered)
        assert (sink.intake.connections, sink.intake.answered) == (2, 2)


async def test_a_used_session_that_says_421_at_mail_is_replaced(open_pool: Opening) -> None:
    async with open_pool() as (pool, sink):
        assert isinstance(await verdict_of(pool), Delivered)
        sink.script = Script.parse(["mail first=1 reply='421 4.4.2 idle too long' close"])
        assert isinstance(await verdict_of(pool), Delivered)
        assert (sink.intake.connections, sink.intake.answered) == (2, 2)


async def test_421_at_mail_on_a_fresh_session_is_told(open_pool: Opening) -> None:
    async with open_pool("mail reply='421 4.3.2 not now' close") as (pool, sink):
        verdict = await verdict_of(pool)
        assert isinstance(verdict, Deferred) and str(verdict.reply) == "451 4.3.2 upstream said: not now"
        await is_sound(pool, sink)


# -- misbehaviour at each stage -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [*BEFORE, *STAGES])
@pytest.mark.parametrize("deed", ["drop", "garbage", "stall=forever", "drop=after", "close", "twice"])
@pytest.mark.parametrize("without", [(), ("PIPELINING",)], ids=["pipelined", "stepwise"])
async def test_a_broken_attempt_is_temporary_and_in_doubt_only_after_the_dot(
    open_pool: Opening, stage: str, deed: str, without: tuple[str, ...]
) -> None:
    async with open_pool(f"{stage} {deed}", without=without) as (pool, sink):
        verdict = await verdict_of(pool, ONE, TWO, deadline=SHORT)
        answered = sink.intake.answered
        match verdict:
            case Delivered():
                assert answered == 1
            case Deferred(reply, in_doubt):
                assert reply.code // 100 == 4 and not verdict.withheld
                assert in_doubt or answered == 0
                # A smarthost that leaves right after its 354 may have been written to before that was seen.
                assert not in_doubt or stage == "dot" or (stage, deed) in (("data", "drop=after"), ("data", "close"))
            case Failed():
                raise AssertionError(verdict)
        await is_sound(pool, sink)


@pytest.mark.parametrize("stage", [*STAGES, "rset"])
@pytest.mark.parametrize("recipients", [(ONE,), (ONE, TWO)], ids=["one", "two"])
async def test_a_surplus_reply_never_answers_another_command(open_pool: Opening, stage: str, recipients: tuple[Recipient, ...]) -> None:
    async with open_pool("mail first=1 reply='451 4.3.0 later'", f"{stage} twice") as (pool, sink):
        for _ in range(4):
            before = sink.intake.answered
            verdict = await verdict_of(pool, *recipients)
            assert isinstance(verdict, Delivered) == (sink.intake.answered > before)
            assert not isinstance(verdict, Failed)
        await is_sound(pool, sink)


@pytest.mark.parametrize("reply", ["250 2.0.0 ok", "220 hello", "334 go on"])
@pytest.mark.parametrize("recipients", [(ONE,), (ONE, TWO)], ids=["one", "two"])
async def test_a_smarthost_that_answers_data_with_anything_positive_but_354_has_taken_nothing(
    open_pool: Opening, reply: str, recipients: tuple[Recipient, ...]
) -> None:
    async with open_pool(f"data reply='{reply}'", without=["CHUNKING"]) as (pool, sink):
        verdict = await verdict_of(pool, *recipients)
        assert isinstance(verdict, Deferred) and not verdict.in_doubt
        assert sink.messages == []
        await is_sound(pool, sink)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("code", [450, 451, 550, 554, 421])
async def test_what_it_refuses_is_told_and_the_session_is_fit_for_the_next(open_pool: Opening, stage: str, code: int) -> None:
    async with open_pool(f"{stage} reply='{code} {code // 100}.7.1 because'") as (pool, sink):
        verdict = await verdict_of(pool)
        assert isinstance(verdict, Failed if code >= 500 else Deferred)
        assert verdict.reply.text == "upstream said: because"
        assert verdict.reply.code == (code if code >= 500 else 451)
        await is_sound(pool, sink)
        assert sink.intake.connections == (2 if code == 421 else 1)


@pytest.mark.parametrize("stage", ["mail", "rcpt"])
async def test_a_verdict_stands_though_the_session_cannot_be_wound_up(open_pool: Opening, stage: str) -> None:
    rules = (f"{stage} match=one@* reply='550 5.1.1 no'", f"{stage} match=a@* reply='550 5.1.1 no'", "rset stall=forever")
    async with open_pool(*rules) as (pool, sink):
        began = time.monotonic()
        verdict = await verdict_of(pool)
        assert isinstance(verdict, Failed) and time.monotonic() - began < 4
        await is_sound(pool, sink)


async def test_a_354_where_nobody_was_accepted_is_no_invitation(open_pool: Opening) -> None:
    """Such a server might take the dot that ends it for a message."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 odd\r\n")
        with suppress(ConnectionError):
            while line := await reader.readline():
                heard.append(line)
                verb = line[:4].upper()
                writer.write(replies.get(verb, b"250 ok\r\n"))
        writer.close()
        gone.set()

    replies = {b"EHLO": b"250-odd\r\n250 PIPELINING\r\n", b"RCPT": b"550 no\r\n", b"DATA": b"354 go\r\n"}
    gone = asyncio.Event()
    heard: list[bytes] = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with open_pool(route={"port": server.sockets[0].getsockname()[1]}) as (pool, _):
        assert isinstance(await verdict_of(pool), Failed)
        await gone.wait()
    server.close()
    assert [line[:4] for line in heard] == [b"EHLO", b"MAIL", b"RCPT", b"DATA"]


# -- giving up ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["connect", "ehlo", *STAGES, "rset"])
async def test_an_attempt_that_is_cancelled_never_returns_its_session(open_pool: Opening, stage: str) -> None:
    rules = [f"{stage} stall=0.2"] + ["rcpt reply='450 4.2.0 later'"] * (stage == "rset")
    async with open_pool() as (pool, sink):
        if stage not in ("connect", "ehlo"):
            assert isinstance(await verdict_of(pool), Delivered)
        sink.script = Script.parse(rules)
        attempt = asyncio.create_task(verdict_of(pool))
        await asyncio.sleep(0.1)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        while sink.conversations:
            await asyncio.sleep(0.01)
        await is_sound(pool, sink)


@pytest.mark.parametrize("stage", [*BEFORE, *STAGES])
async def test_an_attempt_ends_at_its_deadline(open_pool: Opening, stage: str) -> None:
    async with open_pool(f"{stage} stall=forever") as (pool, sink):
        began = time.monotonic()
        verdict = await verdict_of(pool, deadline=SHORT)
        assert 0.15 < time.monotonic() - began < 1
        assert isinstance(verdict, Deferred) and verdict.in_doubt == (stage == "dot")
        await is_sound(pool, sink)


@pytest.mark.parametrize("stage", BEFORE)
async def test_a_smarthost_that_does_not_greet_is_given_up_after_the_timeout(open_pool: Opening, stage: str) -> None:
    async with open_pool(f"{stage} stall=forever", route={"timeout": 0.2}) as (pool, _):
        began = time.monotonic()
        verdict = await verdict_of(pool)
        assert 0.15 < time.monotonic() - began < 1
        assert isinstance(verdict, Deferred) and not verdict.in_doubt and verdict.reply.status == "4.4.1"


async def test_an_answer_that_came_together_with_the_end_of_the_connection_counts(open_pool: Opening) -> None:
    async with open_pool("dot close") as (pool, sink):
        assert isinstance(await verdict_of(pool), Delivered)
        assert sink.intake.answered == 1
        await is_sound(pool, sink)


# -- what is not the message's fault ------------------------------------------------------------------------------------------------


async def test_a_refused_login_is_ours_and_temporary(open_pool: Opening) -> None:
    route = {"username": "me", "password": "wrong"}
    async with open_pool(route=route, credentials={"me": "right"}) as (pool, sink):
        verdict = await verdict_of(pool)
        assert isinstance(verdict, Deferred) and verdict.ours and verdict.reply.status == "4.3.5"
        assert "wrong" not in str(verdict)
        assert sink.replies[535] == 1  # one attempt, not one with each mechanism


@pytest.mark.parametrize("reply", ["535 5.7.8 no", "454 4.7.0 later", "421 4.7.0 bye", "530 5.7.0 TLS first"])
async def test_whatever_is_said_to_our_login_is_never_permanent(open_pool: Opening, reply: str) -> None:
    route = {"username": "me", "password": "right"}
    async with open_pool(f"auth reply='{reply}'", route=route, credentials={"me": "right"}) as (pool, sink):
        assert isinstance(await verdict_of(pool), Deferred)
        await is_sound(pool, sink)


async def test_a_smarthost_that_offers_no_login_is_ours(open_pool: Opening) -> None:
    async with open_pool(route={"username": "me", "password": "right"}) as (pool, _):
        verdict = await verdict_of(pool)
        assert isinstance(verdict, Deferred) and verdict.ours


async def test_a_smarthost_that_asks_for_a_login_we_do_not_have_is_ours(open_pool: Opening) -> None:
    async with open_pool(credentials={"me": "right"}) as (pool, _):
        verdict = await verdict_of(pool)
        assert isinstance(verdict, Deferred) and verdict.ours


async def test_a_login_that_is_right_sends(open_pool: Opening) -> None:
    async with open_pool(route={"username": "me", "password": "right"}, credentials={"me": "right"}) as (pool, sink):
        assert isinstance(await verdict_of(pool), Delivered)
        assert sink.messages[0].user == "me"


@pytest.mark.parametrize("code", [500, 502, 503, 504, 530, 534, 535, 538])
@pytest.mark.parametrize("stage", STAGES)
async def test_replies_that_speak_of_our_login_or_order_are_never_passed_on(open_pool: Opening, stage: str, code: int) -> None:
    async with open_pool(f"{stage} reply='{code} 5.5.1 you are wrong'") as (pool, sink):
        verdict = await verdict_of(pool)
        assert isinstance(verdict, Deferred) and verdict.ours and not verdict.in_doubt
        await is_sound(pool, sink)


@pytest.mark.parametrize("rule", ["connect reply='554 5.3.2 no'", "connect reply='421 4.3.2 busy'", "ehlo reply='550 5.7.1 no'"])
async def test_who_will_not_speak_with_us_is_only_unreachable(open_pool: Opening, rule: str) -> None:
    async with open_pool(rule) as (pool, sink):
        verdict = await verdict_of(pool)
        assert isinstance(verdict, Deferred) and not verdict.in_doubt
        await is_sound(pool, sink)


@pytest.mark.parametrize("route", [{"port": 1}, {"host": "nowhere.invalid"}])
async def test_nobody_there_is_only_unreachable(open_pool: Opening, route: dict[str, Any]) -> None:
    async with open_pool(route=route) as (pool, _):
        verdict = await verdict_of(pool)
        assert isinstance(verdict, Deferred) and verdict.reply.status == "4.4.1"


# -- what does not fit --------------------------------------------------------------------------------------------------------------


async def test_8_bit_content_is_not_sent_to_who_does_not_offer_to_take_it(open_pool: Opening) -> None:
    message = Message(MESSAGE.prefix, "Subject: x\r\n\r\nhéllo\r\n".encode())
    async with open_pool(without=["8BITMIME"]) as (pool, sink):
        verdict = (await verdicts_of(pool, envelope(), message))[ONE]
        assert isinstance(verdict, Failed) and verdict.reply.status == "5.6.3"
        await is_sound(pool, sink)
        assert sink.intake.connections == 1


async def test_a_message_beyond_its_limit_is_not_sent(open_pool: Opening) -> None:
    async with open_pool(max_size=2000) as (pool, sink):
        fits = Message(b"", b"..\r\n" * 500)  # 1500 octets without the stuffed dots
        over = Message(b"", b"..\r\n" * 667)
        assert isinstance((await verdicts_of(pool, envelope(), fits))[ONE], Delivered)
        verdict = (await verdicts_of(pool, envelope(), over))[ONE]
        assert isinstance(verdict, Failed) and verdict.reply.status == "5.3.4"
        assert sink.messages[0].mail_params == "SIZE=2000" and sink.messages[0].size == 1500  # an estimate, and no refusal by it
        await is_sound(pool, sink)


async def test_a_pool_that_was_closed_keeps_no_session(open_pool: Opening) -> None:
    async with open_pool("dot stall=0.1") as (pool, sink):
        attempt = asyncio.create_task(verdict_of(pool))
        await asyncio.sleep(0.05)
        pool.close()
        assert isinstance(await attempt, Delivered)
        while sink.conversations:
            await asyncio.sleep(0.01)
        assert sink.replies[221] == 1


async def test_the_envelope_reaches_it_octet_for_octet(open_pool: Opening) -> None:
    sender = '"a, b"@b.example'
    odd = Recipient("!#$%&'*+-/=?^_`{|}~@d.example")
    people = (Recipient('"x\\"y z"@d.example', "NEVER", "rfc822;a+2Bb"), odd, Recipient("u@[192.0.2.1]"))
    async with open_pool() as (pool, sink):
        await verdicts_of(pool, Envelope(sender, people, "8BITMIME", "HDRS", "id+2B1"))
        message = sink.messages[0]
        assert (message.sender, message.recipients) == (sender, tuple(one.address for one in people))
        assert message.mail_params == f"SIZE={MESSAGE.size} BODY=8BITMIME RET=HDRS ENVID=id+2B1"
        assert message.rcpt_params == ("NOTIFY=NEVER ORCPT=rfc822;a+2Bb", "", "")
