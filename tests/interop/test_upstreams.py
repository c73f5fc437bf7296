"""Real smarthosts that want TLS and AUTH: Postfix, Exim and OpenSMTPD have what they were given octet for octet, by either way in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from relay.mail.envelope import Envelope, Recipient
from relay.mail.verdict import Deferred, Delivered, Failed
from relay.upstream.pool import Pool
from relay.upstream.route import Target
from relay.upstream.smarthost import Message
from relay.upstream.terms import Attempt, Terms
from tests.interop.client import BODIES, Mail, compose
from tests.interop.exim import running_exim_upstream
from tests.interop.opensmtpd import running_opensmtpd
from tests.interop.postfix import running_postfix_upstream
from tests.interop.upstream import PASSWORD, USER, Upstream

pytestmark = [
    pytest.mark.peer,
    pytest.mark.parametrize("start", [running_postfix_upstream, running_exim_upstream, running_opensmtpd],
                            ids=["postfix", "exim", "opensmtpd"]),
    pytest.mark.parametrize("security", ["starttls", "tls"]),
]  # fmt: skip

Start = Callable[[Path], AbstractContextManager[Upstream]]
Security = Literal["starttls", "tls"]

PREFIX = b"Received: from client.example ([192.0.2.1])\r\n\tby relay.example with ESMTPSA id 1;\r\n\tSat, 21 Nov 2026 10:00:00 +0000\r\n"
REFUSED = Recipient("them@elsewhere.example")
TOGETHER, SPLIT = Terms(30.0), Terms(30.0, is_split=True)


@asynccontextmanager
async def opened(start: Start, place: Path, security: Security, **changes: Any) -> AsyncIterator[tuple[Pool, Upstream]]:
    """A smarthost, and a pool of sessions with it whose target has these changes."""
    with start(place / "smarthost") as upstream:
        usual: dict[str, Any] = {"ca_file": upstream.authority, "username": USER, "password": PASSWORD, "max_connections": 1}
        pool = Pool(Target("localhost", upstream.ports[security], security, **(usual | changes)), "relay.example")
        try:
            yield pool, upstream
        finally:
            pool.close()
            await asyncio.sleep(0.1)  # TLS takes its leave in turns


async def send(pool: Pool, mail: Mail, terms: Terms = TOGETHER, *more: Recipient, with_8bit: bool = True) -> Attempt:
    """Offer a message to its recipients and to more."""
    stuffed = b"." + mail.content if mail.content.startswith(b".") else mail.content
    message = Message(PREFIX, stuffed.replace(b"\r\n.", b"\r\n.."))
    recipients = (*map(Recipient, mail.recipients), *more)
    return await pool.forward(Envelope(mail.sender, recipients, "8BITMIME" if with_8bit else ""), message, terms)


async def check_arrived(upstream: Upstream, mail: Mail) -> None:
    """See that it ends with the very octets that were sent, behind what the smarthost put before them."""
    found = await asyncio.to_thread(upstream.await_copy, mail.mark)
    sent = (PREFIX + mail.content).replace(b"\r\n", b"\n")
    assert found[-len(sent) :] == sent or found[-len(sent) - 1 :] == sent + b"\n"


async def test_every_octet_arrives(start: Start, security: Security, place: Path) -> None:
    async with opened(start, place, security) as (pool, upstream):
        for body in BODIES.values():
            for recipients in (("you@example.net",), ("you@example.net", "them@example.net")):
                for terms in (TOGETHER, SPLIT):
                    mail = compose(body, recipients=recipients)
                    attempt = await send(pool, mail, terms)
                    assert [type(verdict) for verdict in attempt.verdicts.values()] == [Delivered] * len(recipients)
                    await check_arrived(upstream, mail)


async def test_a_refused_recipient_costs_the_others_nothing_where_the_message_may_be_split(
    start: Start, security: Security, place: Path
) -> None:
    async with opened(start, place, security) as (pool, upstream):
        for body in (BODIES["plain"], BODIES["dots"]):
            mail = compose(body)
            verdicts = dict((await send(pool, mail, SPLIT, REFUSED)).verdicts)
            assert isinstance(verdicts.pop(REFUSED), Failed)
            assert [type(verdict) for verdict in verdicts.values()] == [Delivered, Delivered]
            await check_arrived(upstream, mail)


async def test_a_refused_recipient_keeps_the_message_from_all_where_it_may_not(start: Start, security: Security, place: Path) -> None:
    async with opened(start, place, security) as (pool, upstream):
        refused, alone, next_one = (compose(BODIES["plain"]) for _ in range(3))
        verdicts = dict((await send(pool, refused, TOGETHER, REFUSED)).verdicts)
        assert isinstance(verdicts.pop(REFUSED), Failed)
        assert all(isinstance(verdict, Deferred) and verdict.withheld for verdict in verdicts.values())
        assert isinstance((await send(pool, replace(alone, recipients=()), SPLIT, REFUSED)).verdicts[REFUSED], Failed)
        assert set(map(type, (await send(pool, next_one)).verdicts.values())) == {Delivered}
        await check_arrived(upstream, next_one)
        assert upstream.copies(refused.mark) == upstream.copies(alone.mark) == []


async def test_a_wrong_password_and_a_stranger_s_certificate_are_the_relay_s_own_fault(
    start: Start, security: Security, place: Path
) -> None:
    async with opened(start, place, security, password="wrong", down_seconds=0.0) as (pool, upstream):
        [verdict] = set((await send(pool, compose(BODIES["plain"]))).verdicts.values())
        assert isinstance(verdict, Deferred) and verdict.ours and verdict.unreached and "login" in verdict.reply.text
        stranger = Pool(Target("localhost", upstream.ports[security], security, username=USER, password=PASSWORD), "relay.example")
        [verdict] = set((await send(stranger, compose(BODIES["plain"]))).verdicts.values())
        assert isinstance(verdict, Deferred) and verdict.ours and verdict.reply.status == "4.7.5"
