"""A message that may be split: who was accepted is served, who was refused hears so, and what the caller does before the dot is done
before the smarthost has any of the content."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import pytest

from relay.loadkit.script import Script
from relay.mail.envelope import Recipient
from relay.mail.verdict import Deferred, Delivered, Failed, Verdict
from relay.upstream.terms import Terms
from tests.upstream.conftest import MESSAGE, ONE, TWO, Opening, envelope, verdict_of, verdicts_of

THREE = Recipient("three@d.example")
ALL = (ONE, TWO, THREE)
REFUSE_TWO, DEFER_THREE = "rcpt match=two@* reply='550 5.1.1 no'", "rcpt match=three@* reply='450 4.2.0 later'"
STEPWISE = ("PIPELINING", "CHUNKING")
BOTH_WAYS = pytest.mark.parametrize("without", [(), STEPWISE], ids=["pipelined", "stepwise"])
ALL_WAYS = pytest.mark.parametrize("without", [(), STEPWISE, ("PIPELINING",)], ids=["pipelined", "stepwise", "chunk"])

Step = Callable[[Mapping[Recipient, Verdict]], Awaitable[None]]


class Notes:
    """A step before the dot that keeps what it was told, and does one thing."""

    def __init__(self, deed: Callable[[], Awaitable[None]] | None = None) -> None:
        self.told: list[Mapping[Recipient, Verdict]] = []
        self._deed = deed

    async def __call__(self, refused: Mapping[Recipient, Verdict]) -> None:
        self.told.append(refused)
        if self._deed is not None:
            await self._deed()


@ALL_WAYS
@pytest.mark.parametrize(("said", "kind"), [("552 5.5.3 too many recipients", Deferred), ("552 5.2.2 mailbox full", Failed)])
async def test_too_many_recipients_as_rfc_821_said_it_is_no_refusal_for_good(
    open_pool: Opening, without: tuple[str, ...], said: str, kind: type[Verdict]
) -> None:
    async with open_pool(f"rcpt match=three@* reply='{said}'", without=without) as (pool, _):
        verdicts = await verdicts_of(pool, envelope(*ALL), is_split=True)
        assert isinstance(verdicts[ONE], Delivered)
        assert isinstance(verdicts[THREE], kind)


@ALL_WAYS
async def test_who_was_accepted_is_served_and_who_was_refused_hears_so(open_pool: Opening, without: tuple[str, ...]) -> None:
    async with open_pool(REFUSE_TWO, DEFER_THREE, without=without) as (pool, sink):
        notes = Notes()
        verdicts = await verdicts_of(pool, envelope(*ALL), is_split=True, before_dot=notes)
        assert isinstance(verdicts[ONE], Delivered)
        assert isinstance(verdicts[TWO], Failed) and str(verdicts[TWO].reply) == "550 5.1.1 upstream said: no"
        assert isinstance(verdicts[THREE], Deferred) and str(verdicts[THREE].reply) == "451 4.2.0 upstream said: later"
        assert verdicts[THREE] == Deferred(verdicts[THREE].reply)
        assert notes.told == [{TWO: verdicts[TWO], THREE: verdicts[THREE]}]
        assert [message.recipients for message in sink.messages] == [("one@d.example",)]
        assert isinstance(await verdict_of(pool), Delivered)
        assert sink.intake.connections == 1


@ALL_WAYS
@pytest.mark.parametrize("recipients", [(TWO,), (TWO, THREE)], ids=["one", "two"])
async def test_if_nobody_is_accepted_nothing_is_offered(
    open_pool: Opening, without: tuple[str, ...], recipients: tuple[Recipient, ...]
) -> None:
    async with open_pool(REFUSE_TWO, DEFER_THREE, without=without) as (pool, sink):
        notes = Notes()
        verdicts = await verdicts_of(pool, envelope(*recipients), is_split=True, before_dot=notes)
        assert [type(verdicts[recipient]) for recipient in recipients] == [Failed, Deferred][: len(recipients)]
        assert notes.told == [] and sink.messages == [] and sink.replies[354] == 0
        assert isinstance(await verdict_of(pool), Delivered)
        assert sink.intake.connections == 1


@ALL_WAYS
@pytest.mark.parametrize("is_split", [False, True])
@pytest.mark.parametrize("recipients", [(ONE,), ALL], ids=["one", "three"])
async def test_the_step_before_the_dot_is_taken_once_where_all_are_accepted(
    open_pool: Opening, without: tuple[str, ...], is_split: bool, recipients: tuple[Recipient, ...]
) -> None:
    async with open_pool(without=without) as (pool, sink):
        notes = Notes()
        for count in (1, 2):
            assert isinstance(await verdict_of(pool, *recipients, is_split=is_split, before_dot=notes), Delivered)
            assert notes.told == [{}] * count and sink.intake.answered == count
        assert sink.intake.connections == 1


@pytest.mark.parametrize("recipients", [(ONE,), ALL], ids=["one", "three"])
async def test_no_octet_of_content_is_written_before_that_step_is_done(open_pool: Opening, recipients: tuple[Recipient, ...]) -> None:
    heard = b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        writer.write(b"220 keen\r\n")
        with suppress(ConnectionError):
            while line := await reader.readline():
                heard += line
                writer.write({b"EHLO": b"250-keen\r\n250 PIPELINING\r\n", b"DATA": b"354 go\r\n"}.get(line[:4], b"250 ok\r\n"))
                while line == b"DATA\r\n" and not heard.endswith(b"\r\n.\r\n"):
                    heard += await reader.read(65536)
                    writer.write(b"250 ok\r\n" * heard.endswith(b"\r\n.\r\n"))
        writer.close()

    async def look() -> None:
        await asyncio.sleep(0.05)
        assert heard.endswith(b"DATA\r\n")

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with open_pool(route={"port": server.sockets[0].getsockname()[1]}) as (pool, _):
        assert isinstance(await verdict_of(pool, *recipients, before_dot=Notes(look)), Delivered)
    server.close()
    assert b"DATA\r\n" + MESSAGE.prefix + MESSAGE.wire + b".\r\n" in heard


@ALL_WAYS
@pytest.mark.parametrize("error", [TimeoutError, OSError, RuntimeError, asyncio.CancelledError])
async def test_if_that_step_fails_nothing_was_offered_and_the_caller_hears_why(
    open_pool: Opening, without: tuple[str, ...], error: type[BaseException]
) -> None:
    raised = error("the disk is full")

    async def fail() -> None:
        raise raised

    async with open_pool(REFUSE_TWO, without=without) as (pool, sink):
        assert isinstance(await verdict_of(pool), Delivered)
        notes = Notes(fail)
        with pytest.raises(error) as caught:
            await pool.forward(envelope(*ALL), MESSAGE, Terms(5.0, is_split=True, before_dot=notes))
        assert caught.value is raised and len(notes.told) == 1
        while sink.conversations:
            await asyncio.sleep(0.01)
        assert sink.intake.answered == len(sink.messages) == 1 and sink.replies[221] == 0
        assert isinstance(await verdict_of(pool), Delivered)
        assert sink.intake.connections == 2


async def test_a_connection_that_dies_during_that_step_is_not_replaced(open_pool: Opening) -> None:
    async with open_pool(REFUSE_TWO) as (pool, sink):
        assert isinstance(await verdict_of(pool), Delivered)

        async def cut() -> None:
            for conversation in tuple(sink.conversations):
                conversation.abort()
            await asyncio.sleep(0.02)

        notes = Notes(cut)
        verdicts = await verdicts_of(pool, envelope(ONE, TWO), is_split=True, before_dot=notes)
        assert verdicts[ONE] == Deferred(verdicts[ONE].reply) and isinstance(verdicts[TWO], Failed)
        assert len(notes.told) == 1 and sink.intake.connections == 1


async def test_a_deadline_that_strikes_during_that_step_lets_it_end_and_sends_nothing(open_pool: Opening) -> None:
    done = asyncio.Event()

    async def dawdle() -> None:
        await asyncio.sleep(0.2)
        done.set()

    async with open_pool(REFUSE_TWO) as (pool, sink):
        verdicts = await verdicts_of(pool, envelope(ONE, TWO), deadline=0.1, is_split=True, patience=5.0, before_dot=Notes(dawdle))
        assert done.is_set()
        assert verdicts[ONE] == Deferred(verdicts[ONE].reply) and isinstance(verdicts[TWO], Failed)
        while sink.conversations:
            await asyncio.sleep(0.01)
        assert sink.messages == []


@pytest.mark.parametrize("stage", ["data", "dot"])
@pytest.mark.parametrize("deed", ["drop", "stall=forever", "reply='554 5.6.0 no'", "reply='451 4.3.0 later'", "reply='421 4.3.2 bye'"])
async def test_a_refused_recipient_keeps_its_verdict_whatever_becomes_of_the_others(open_pool: Opening, stage: str, deed: str) -> None:
    async with open_pool(REFUSE_TWO, f"{stage} {deed}") as (pool, sink):
        verdicts = await verdicts_of(pool, envelope(*ALL), deadline=0.2, is_split=True)
        assert isinstance(verdicts[TWO], Failed) and verdicts[TWO].reply.status == "5.1.1"
        assert verdicts[ONE] == verdicts[THREE]
        assert isinstance(verdicts[ONE], Failed if "554" in deed else Deferred) and verdicts[ONE].reply.code in (451, 554)
        others = verdicts[ONE]
        assert (isinstance(others, Deferred) and others.in_doubt) == (stage == "dot" and "reply" not in deed)
        sink.script = Script()
        assert isinstance(await verdict_of(pool), Delivered)


@ALL_WAYS
async def test_421_among_the_recipients_defers_who_was_not_refused(open_pool: Opening, without: tuple[str, ...]) -> None:
    rules = ("rcpt match=one@* reply='550 5.1.1 no'", "rcpt match=three@* reply='421 4.3.2 bye' close")
    four = Recipient("four@d.example")
    async with open_pool(*rules, without=without) as (pool, sink):
        verdicts = await verdicts_of(pool, envelope(*ALL, four), is_split=True)
        assert isinstance(verdicts[ONE], Failed)
        for recipient in (TWO, THREE, four):
            assert str(verdicts[recipient].reply) == "451 4.3.2 upstream said: bye"
            assert verdicts[recipient] == Deferred(verdicts[recipient].reply)
        assert sink.messages == [] and sink.replies[354] == 0
        sink.script = Script()
        assert isinstance(await verdict_of(pool), Delivered)


@BOTH_WAYS
@pytest.mark.parametrize("stage", ["connect", "ehlo", "mail", "rcpt", "data", "dot"])
async def test_421_at_any_stage_defers_all_without_a_doubt(open_pool: Opening, stage: str, without: tuple[str, ...]) -> None:
    async with open_pool(f"{stage} reply='421 4.3.2 bye' close", without=without) as (pool, sink):
        verdict = await verdict_of(pool, *ALL, is_split=True, patience=5.0)
        assert verdict == Deferred(verdict.reply, unreached=stage in ("connect", "ehlo", "mail"))
        sink.script = Script()
        assert isinstance(await verdict_of(pool, *ALL, is_split=True), Delivered)
        assert sink.intake.answered == 1 and sink.intake.connections == 2


@pytest.mark.parametrize("has_dsn", [False, True])
async def test_who_sends_the_reports_is_told(open_pool: Opening, has_dsn: bool) -> None:
    async with open_pool(without=() if has_dsn else ("DSN",)) as (pool, _):
        verdict = await verdict_of(pool)
        assert isinstance(verdict, Delivered) and verdict.reports == has_dsn
