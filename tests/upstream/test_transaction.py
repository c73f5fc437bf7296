"""What is sent in one flight, and when a message goes as a chunk: no more round trips than the promises need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from relay.loadkit.script import Script
from relay.mail.envelope import Recipient
from relay.mail.verdict import Deferred, Delivered, Failed
from relay.upstream.smarthost import WITHHELD, Message
from tests.upstream.conftest import MESSAGE, ONE, TWO, Opening, envelope, opened, verdict_of, verdicts_of

STUFFED = Message(MESSAGE.prefix, b"Subject: x\r\n\r\n..dot\r\n...\r\n")
NO_CHUNKS = ("CHUNKING",)
NEITHER = ("PIPELINING", "CHUNKING")


class Slow:
    """A server that answers only when nothing more comes: what it read by then was sent without waiting for a reply."""

    def __init__(self, features: Sequence[str]) -> None:
        self.features = features
        self.flights: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        writer.write(b"220 slow\r\n")
        is_content = False
        with suppress(ConnectionError):
            while flight := await self._read(reader):
                self.flights.append(flight)
                if is_content:
                    writer.write(b"250 taken\r\n")
                    is_content = False
                    continue
                for line in flight.partition(b" LAST\r\n")[0].splitlines():
                    if line[:4] == b"EHLO":
                        writer.write(b"250-slow\r\n" + b"".join(b"250-%s\r\n" % name.encode() for name in self.features) + b"250 HELP\r\n")
                        continue
                    is_content = line == b"DATA"
                    writer.write(b"354 go on\r\n" if is_content else b"250 ok\r\n")
        writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        read = await reader.read(1 << 20)
        with suppress(TimeoutError):
            while read:
                async with asyncio.timeout(0.05):
                    more = await reader.read(1 << 20)
                if not more:
                    break
                read += more
        return read


@asynccontextmanager
async def slow(*features: str) -> AsyncIterator[tuple[Slow, int]]:
    """Such a server, and its port."""
    server = Slow(features)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    yield server, listener.sockets[0].getsockname()[1]
    listener.close()
    await asyncio.sleep(0.01)


def verbs(flights: Sequence[bytes]) -> list[str]:
    """The commands of each flight, its content as a dot."""
    return [" ".join(line[:4].decode() if line[:4].isupper() else "." for line in flight.splitlines()[:4]) for flight in flights]


ENVELOPE = "MAIL RCPT RCPT"


@pytest.mark.parametrize(
    ("features", "recipients", "is_split", "expected"),
    [
        (("PIPELINING",), (ONE,), False, ["MAIL RCPT DATA", "."]),
        (("PIPELINING",), (ONE, TWO), True, [f"{ENVELOPE} DATA", "."]),
        (("PIPELINING",), (ONE, TWO), False, [ENVELOPE, "DATA", "."]),
        (("PIPELINING", "CHUNKING"), (ONE,), False, ["MAIL RCPT DATA", "."]),
        (("PIPELINING", "CHUNKING"), (ONE, TWO), True, [f"{ENVELOPE} DATA", "."]),
        (("PIPELINING", "CHUNKING"), (ONE, TWO), False, [ENVELOPE, "BDAT"]),
        (("CHUNKING",), (ONE,), False, ["MAIL", "RCPT", "BDAT"]),
        ((), (ONE,), False, ["MAIL", "RCPT", "DATA", "."]),
    ],
)
async def test_nothing_waits_for_a_reply_that_decides_nothing(
    features: tuple[str, ...], recipients: tuple[Recipient, ...], is_split: bool, expected: list[str]
) -> None:
    async with slow(*features) as (server, port), opened(route={"port": port}) as (pool, _):
        assert isinstance(await verdict_of(pool, *recipients, is_split=is_split), Delivered)
        found = verbs(server.flights[1:])
        assert [flight.split()[0] if flight.startswith("BDAT") else "." if "." in flight else flight for flight in found] == expected
        assert server.flights[-1].endswith(MESSAGE.prefix + MESSAGE.wire + (b"" if expected[-1] == "BDAT" else b".\r\n"))


@pytest.mark.parametrize("message", [MESSAGE, STUFFED, Message(b"", b".\r\n"), Message(b"", b"..\r\n"), Message(b"", b"")])
@pytest.mark.parametrize("without", [(), ("PIPELINING",), NO_CHUNKS, NEITHER])
async def test_what_arrives_is_the_same_whichever_way_it_goes(open_pool: Opening, message: Message, without: tuple[str, ...]) -> None:
    message = message._replace(wire=b"." + message.wire) if message.wire == b".\r\n" else message
    async with open_pool(without=without) as (pool, sink):
        for recipients in ((ONE,), (ONE, TWO)):
            verdicts = await verdicts_of(pool, envelope(*recipients), message)
            assert set(map(type, verdicts.values())) == {Delivered}
        unstuffed = (b"\r\n" + message.wire).replace(b"\r\n.", b"\r\n")[2:]
        assert [received.content for received in sink.messages] == [message.prefix + unstuffed] * 2
        assert sink.intake.connections == 1


async def test_a_message_with_stuffed_dots_never_goes_as_a_chunk(open_pool: Opening) -> None:
    async with open_pool() as (pool, sink):
        assert set(map(type, (await verdicts_of(pool, envelope(ONE, TWO), STUFFED)).values())) == {Delivered}
        assert sink.replies[354] == 1
        assert isinstance(await verdict_of(pool, ONE, TWO), Delivered)
        assert sink.replies[354] == 1


async def test_no_chunk_is_written_where_a_recipient_is_refused(open_pool: Opening) -> None:
    async with open_pool("rcpt match=two@* first=1 reply='550 5.1.1 no'") as (pool, sink):
        verdicts = await verdicts_of(pool, envelope(ONE, TWO))
        assert isinstance(verdicts[TWO], Failed)
        assert verdicts[ONE] == WITHHELD
        assert sink.replies[503] == 0 and sink.messages == []
        assert isinstance(await verdict_of(pool, ONE, TWO), Delivered)
        assert sink.intake.connections == 1


@pytest.mark.parametrize(("reply", "kind"), [("554 5.7.1 no", Failed), ("451 4.3.0 later", Deferred), ("421 4.3.2 bye", Deferred)])
async def test_a_chunk_that_is_refused_ends_the_session_and_is_in_no_doubt(open_pool: Opening, reply: str, kind: type) -> None:
    async with open_pool(f"dot first=1 reply='{reply}'") as (pool, sink):
        verdict = await verdict_of(pool, ONE, TWO)
        assert isinstance(verdict, kind)
        assert not (isinstance(verdict, Deferred) and verdict.in_doubt)
        assert isinstance(await verdict_of(pool, ONE, TWO), Delivered)
        assert sink.intake.connections == 2 and len([one for one in sink.messages if one.answered]) == 1


@pytest.mark.parametrize("deed", ["drop", "garbage", "stall=forever"])
async def test_a_chunk_without_an_answer_is_in_doubt(open_pool: Opening, deed: str) -> None:
    async with open_pool(f"dot first=1 {deed}") as (pool, sink):
        verdict = await verdict_of(pool, ONE, TWO, deadline=0.3)
        assert isinstance(verdict, Deferred) and verdict.in_doubt
        sink.script = Script()
        assert isinstance(await verdict_of(pool, ONE, TWO), Delivered)
        assert sink.intake.connections == 2


@pytest.mark.parametrize(("limit", "declared"), [(1 << 20, 2000), (2000, 2000), (1999, 1500), (1500, 1500), (0, 2000)])
async def test_the_size_that_is_declared_is_never_too_low_and_never_a_reason_to_refuse(limit: int, declared: int) -> None:
    dots = Message(b"", b"..\r\n" * 500)  # 1500 octets without the stuffed dots
    async with slow("PIPELINING", f"SIZE {limit}") as (server, port), opened(route={"port": port}) as (pool, _):
        assert isinstance((await verdicts_of(pool, envelope(), dots))[ONE], Delivered)
        assert server.flights[1].startswith(b"MAIL FROM:<a@b.example> SIZE=%d\r\n" % declared)
