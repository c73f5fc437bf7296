"""A smarthost that said one reply too many: what it says from then on may be of the message before, which may be another owner's."""

from __future__ import annotations

import asyncio

import pytest

from relay.mail.verdict import Deferred, Failed, Verdict
from relay.upstream.pool import Pool
from relay.upstream.route import Target
from tests.upstream.conftest import verdict_of
from tests.upstream.opening import a_server

EHLO = b"250-smarthost.example\r\n250 PIPELINING\r\n"


@pytest.mark.parametrize(
    ("data", "rset", "kind"),
    [
        (b"503 5.5.1 MAIL first", b"250 2.0.0 Reset", Failed),
        (b"503 5.5.1 MAIL first", b"500 5.5.1 What?", Failed),
        (b"503 5.5.1 MAIL first", b"421 4.3.2 Closing", Failed),
        (b"503 5.5.1 MAIL first", b"", Failed),
        (b"250 2.1.5 Recipient OK", b"250 2.0.0 Reset", Deferred),
        (b"250 2.1.5 Recipient OK", b"354 Go ahead", Deferred),
        (b"503 5.5.1 MAIL first", b"354 Go ahead", Deferred),
        (b"503 5.5.1 MAIL first", b"221 2.0.0 Bye", Deferred),
    ],
)
async def test_a_refusal_counts_only_if_the_replies_behind_it_can_be_those_of_their_commands(
    data: bytes, rset: bytes, kind: type[Verdict]
) -> None:
    replies = {b"EHLO": EHLO, b"MAIL": b"550 5.7.1 Not you\r\n", b"RCPT": b"503 5.5.1 MAIL first\r\n", b"DATA": data + b"\r\n"}
    replies[b"RSET"] = rset and rset + b"\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smarthost.example\r\n")
        while (line := await reader.readline()) and (reply := replies[line[:4].upper()]):
            writer.write(reply)

    async with a_server(answer) as port:
        pool = Pool(Target("127.0.0.1", port, timeout=5.0, down_seconds=0.0), "relay.example")
        assert isinstance(await verdict_of(pool), kind)
        pool.close()
