"""TLS to the smarthost: as the route says, or not at all; what fails there is ours, temporary, and never sends in clear."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path
from typing import Any, Literal

import pytest
import trustme

from relay.mail.verdict import Deferred, Delivered
from relay.upstream.smarthost import Message
from tests.upstream.conftest import ONE, Opening, envelope, verdict_of, verdicts_of

Security = Literal["starttls", "tls"]
TLS: dict[Security, str] = {"starttls": "starttls", "tls": "implicit"}


@pytest.mark.parametrize("security", TLS)
async def test_a_message_goes_through_tls_octet_for_octet(
    open_pool: Opening, certificate: ssl.SSLContext, ca_file: Path, security: Security
) -> None:
    route = {"security": security, "ca_file": ca_file, "username": "me", "password": "right"}
    wire = b"Subject: x\r\n\r\n" + b"..\xff line\r\n" * 100_000
    async with open_pool(route=route, tls=TLS[security], certificate=certificate, credentials={"me": "right"}) as (pool, sink):
        for _ in range(2):
            assert isinstance((await verdicts_of(pool, envelope(), Message(b"", wire)))[ONE], Delivered)
        assert sink.intake.connections == 1
        assert sink.messages[1].content is not None
        assert hashlib.sha256(sink.messages[1].content).digest() == hashlib.sha256(wire.replace(b"\r\n..", b"\r\n.")).digest()


@pytest.mark.parametrize("security", TLS)
async def test_a_certificate_nobody_we_trust_has_signed_is_ours_and_temporary(
    open_pool: Opening, certificate: ssl.SSLContext, security: Security
) -> None:
    async with open_pool(route={"security": security}, tls=TLS[security], certificate=certificate) as (pool, sink):
        verdict = await verdict_of(pool)
        assert isinstance(verdict, Deferred) and verdict.ours and not verdict.in_doubt
        assert verdict.reply.status == "4.7.5"
        assert sink.messages == [] and sink.replies[354] == 0


@pytest.mark.parametrize("security", TLS)
async def test_a_certificate_for_another_name_is_ours(open_pool: Opening, authority: trustme.CA, ca_file: Path, security: Security) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.example").configure_cert(context)
    async with open_pool(route={"security": security, "ca_file": ca_file}, tls=TLS[security], certificate=context) as (pool, _):
        verdict = await verdict_of(pool)
        assert isinstance(verdict, Deferred) and verdict.ours and verdict.reply.status == "4.7.5"


@pytest.mark.parametrize("security", TLS)
async def test_it_is_not_verified_where_the_operator_said_so(open_pool: Opening, certificate: ssl.SSLContext, security: Security) -> None:
    route = {"security": security, "verify": False}
    async with open_pool(route=route, tls=TLS[security], certificate=certificate) as (pool, _):
        assert isinstance(await verdict_of(pool), Delivered)


async def test_starttls_that_is_not_offered_is_ours_and_nothing_is_sent_in_clear(open_pool: Opening) -> None:
    route: dict[str, Any] = {"security": "starttls", "username": "me", "password": "right"}
    async with open_pool(route=route, credentials={"me": "right"}) as (pool, sink):
        verdict = await verdict_of(pool)
        assert isinstance(verdict, Deferred) and verdict.ours
        assert sink.replies[235] == 0 and sink.messages == []


@pytest.mark.parametrize("deed", ["reply='454 4.7.0 no TLS now'", "reply='501 5.5.4 what'", "garbage", "drop"])
async def test_starttls_that_is_refused_is_temporary_and_nothing_is_sent_in_clear(
    open_pool: Opening, certificate: ssl.SSLContext, deed: str
) -> None:
    rule = f"starttls {deed}"
    async with open_pool(rule, route={"security": "starttls"}, tls="starttls", certificate=certificate) as (pool, sink):
        verdict = await verdict_of(pool)
        assert isinstance(verdict, Deferred) and not verdict.in_doubt
        assert sink.messages == []


async def test_tls_spoken_to_who_speaks_none_is_temporary(open_pool: Opening) -> None:
    async with open_pool(route={"security": "tls", "timeout": 1.0}) as (pool, sink):
        verdict = await verdict_of(pool)
        assert isinstance(verdict, Deferred) and not verdict.in_doubt
        assert sink.messages == []
