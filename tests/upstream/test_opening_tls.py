"""TLS while a session is opened: whom we believe, whom we show a certificate, what is taken up again, and what never goes in clear."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop

from relay.upstream.guard import Guard
from relay.upstream.opening import NoSession, Opening, connect
from relay.upstream.resumption import LONGEST, ResumingContext
from relay.upstream.route import Security, Target, tls_context
from tests.upstream.opening import PASSWORD, TLS, a_server, a_sink, leading, opened, refused

LOGIN = {"me": PASSWORD}


def servers(authority: trustme.CA, *names: str, **options: Any) -> ssl.SSLContext:
    """A smarthost's certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **options).configure_cert(context)
    return context


# -- whom we believe -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("security", TLS)
async def test_the_address_that_was_looked_at_is_dialled_under_the_name_that_was_given(
    authority: trustme.CA, ca_file: Path, security: Security
) -> None:
    certificate = servers(authority, "mail.example.com")
    asked: list[str | None] = []
    certificate.sni_callback = lambda _, name, __: asked.append(name)
    async with a_sink(tls=TLS[security], certificate=certificate) as sink:
        target = Target("mail.example.com", sink.port, security, ca_file=ca_file, is_guarded=True)
        (await opened(target, leading("127.0.0.1"))).close()
    assert asked == ["mail.example.com"]


@pytest.mark.parametrize("security", TLS)
async def test_the_certificate_may_bear_another_name_if_that_is_named(authority: trustme.CA, ca_file: Path, security: Security) -> None:
    async with a_sink(tls=TLS[security], certificate=servers(authority, "mail.example.com")) as sink:
        (await opened(Target("127.0.0.1", sink.port, security, ca_file=ca_file, server_name="mail.example.com"))).close()
        none = await refused(Target("127.0.0.1", sink.port, security, ca_file=ca_file, server_name="other.example"))
        assert "its certificate is for another name than other.example" in none.text
        assert none.stage == "tls" and none.code == "ETLS" and none.verdict.ours and none.verdict.reply.status == "4.7.5"


@pytest.mark.parametrize("security", TLS)
async def test_what_is_wrong_with_a_certificate_is_told_apart(authority: trustme.CA, ca_file: Path, security: Security) -> None:
    gone = datetime.now(UTC) - timedelta(days=1)
    for certificate, words in (
        (servers(authority, "127.0.0.1", not_after=gone), "its certificate has expired"),
        (servers(authority, "mail.example.com"), "its certificate is for another name than 127.0.0.1"),
        (servers(trustme.CA(), "127.0.0.1"), "its certificate is by an unknown authority"),
    ):
        async with a_sink(tls=TLS[security], certificate=certificate, credentials=LOGIN) as sink:
            target = Target("127.0.0.1", sink.port, security, ca_file=ca_file, username="me", password=PASSWORD)
            none = await refused(target)
            assert words in none.text and none.stage == "tls" and none.code == "ETLS" and none.verdict.ours
            assert sink.replies[235] == 0


async def test_an_authority_may_be_given_as_text_beside_those_of_the_file(authority: trustme.CA, ca_file: Path) -> None:
    other = trustme.CA()
    pem = other.cert_pem.bytes().decode()
    for issuer in (authority, other):
        async with a_sink(tls="implicit", certificate=servers(issuer, "127.0.0.1")) as sink:
            (await opened(Target("127.0.0.1", sink.port, "tls", ca_file=ca_file, ca=pem))).close()
    async with a_sink(tls="implicit", certificate=servers(other, "127.0.0.1")) as sink:
        (await opened(Target("127.0.0.1", sink.port, "tls", ca=pem))).close()
        await refused(Target("127.0.0.1", sink.port, "tls"))


@pytest.mark.parametrize("field", ["ca", "identity"])
@pytest.mark.parametrize("text", ["no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "\u00fc", "\0"])
def test_authorities_and_certificates_that_cannot_be_read_are_an_os_error(field: str, text: str) -> None:
    with pytest.raises(OSError, match=r"\[|PEM|no start line") as caught:
        tls_context(Target("127.0.0.1", 25, "tls", **{field: text}))  # type: ignore[arg-type]
    assert "AAAA" not in str(caught.value)


async def test_nothing_older_than_tls_1_2_is_spoken(authority: trustme.CA, ca_file: Path) -> None:
    context = tls_context(Target("127.0.0.1", 25, "tls", ca_file=ca_file))
    assert context is not None and context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert tls_context(Target("127.0.0.1", 25)) is None


# -- whom we show a certificate ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("security", TLS)
async def test_a_smarthost_that_asks_for_a_certificate_gets_ours(authority: trustme.CA, ca_file: Path, security: Security) -> None:
    certificate = servers(authority, "127.0.0.1")
    certificate.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(certificate)
    ours = trustme.CA().issue_cert("relay.example"), authority.issue_cert("relay.example")
    stranger, known = (leaf.private_key_and_cert_chain_pem.bytes().decode() for leaf in ours)
    async with a_sink(tls=TLS[security], certificate=certificate) as sink:
        target = Target("127.0.0.1", sink.port, security, ca_file=ca_file, identity=known, timeout=2.0)
        (await opened(target)).close()
        assert "BEGIN" not in repr(target)
        for identity in ("", stranger):
            none = await refused(Target("127.0.0.1", sink.port, security, ca_file=ca_file, identity=identity, timeout=2.0))
            assert "BEGIN" not in f"{none.text} {none!r}"
            assert none.code in ("ETLS", "ECONNECTION")  # with TLS 1.3 it may say why only after its handshake


def test_the_certificates_file_is_gone_once_it_was_read(authority: trustme.CA) -> None:
    identity = authority.issue_cert("relay.example").private_key_and_cert_chain_pem.bytes().decode()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        tls_context(Target("127.0.0.1", 25, "tls", verify=False, identity=identity))
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2


# -- what never goes in clear --------------------------------------------------------------------------------------------------


async def test_where_no_tls_is_offered_mail_goes_in_clear_if_that_was_left_open_and_a_login_never() -> None:
    async with a_sink(credentials=LOGIN) as sink:
        (await opened(Target("127.0.0.1", sink.port, "opportunistic"))).close()
        none = await refused(Target("127.0.0.1", sink.port, "opportunistic", username="me", password=PASSWORD))
        assert none.stage == "login" and none.code == "EAUTH" and none.verdict.ours
        assert "the login would travel in clear" in none.text and "ignoreTLS" not in none.text
        none = await refused(Target("127.0.0.1", sink.port, "starttls", username="me", password=PASSWORD))
        assert none.stage == "tls" and none.code == "ETLS" and none.verdict.ours and "does not offer STARTTLS" in none.text
        assert sink.replies[235] == sink.replies[535] == 0


async def test_starttls_is_left_alone_where_tls_was_renounced(certificate: ssl.SSLContext) -> None:
    async with a_sink(tls="starttls", certificate=certificate, credentials=LOGIN) as sink:
        (await opened(Target("127.0.0.1", sink.port, "none", username="me", password=PASSWORD))).close()
        assert sink.replies[235] == 1 and sink.replies[220] == 1


@pytest.mark.parametrize("security", ["opportunistic", "starttls"])
@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("starttls reply='454 4.7.0 not now'", "it cannot do TLS for now (454 4.7.0 not now)"),
        ("starttls reply='501 5.5.4 what'", "(501 5.5.4 what)"),
        ("starttls drop", "broke off"),
        ("starttls drop=after", "broke off"),
        ("starttls garbage", "no mail server"),
        ("starttls stall=forever", "handshake did not end in time"),
    ],
)
async def test_starttls_that_fails_is_never_given_up_for_a_session_in_clear(
    certificate: ssl.SSLContext, ca_file: Path, security: Security, rule: str, words: str
) -> None:
    async with a_sink(rule, tls="starttls", certificate=certificate) as sink:
        none = await refused(Target("127.0.0.1", sink.port, security, ca_file=ca_file, timeout=0.4))
        assert none.stage == "tls" and words in none.text and none.code == ("ETIMEDOUT" if "stall" in rule else "ETLS")
        assert sink.intake.connections == 1


@pytest.mark.parametrize("security", TLS)
async def test_a_handshake_that_never_ends_is_waited_for_no_longer_than_is_said(ca_file: Path, security: Security) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if security != "tls":
            for reply in (b"220 x\r\n", b"250-x\r\n250 STARTTLS\r\n", b"220 go\r\n"):
                writer.write(reply)
                await reader.readuntil(b"\r\n")
        await asyncio.sleep(2)

    async with a_server(answer) as port:
        began = time.monotonic()
        none = await refused(Target("127.0.0.1", port, security, ca_file=ca_file, timeout=0.3, greeting_timeout=0.3))
        assert time.monotonic() - began < 1.5
        assert none.stage == "tls" and none.code == "ETIMEDOUT" and "handshake did not end in time" in none.text


async def test_who_confuses_the_two_kinds_of_tls_is_told_which_it_is(certificate: ssl.SSLContext, ca_file: Path) -> None:
    async with a_sink() as sink:
        none = await refused(Target("127.0.0.1", sink.port, "tls", ca_file=ca_file))
        assert none.stage == "tls" and none.code == "ETLS" and "does not speak TLS from the first byte" in none.text
    async with a_sink(tls="implicit", certificate=certificate) as sink:
        none = await refused(Target("127.0.0.1", sink.port, "opportunistic", ca_file=ca_file, greeting_timeout=0.3))
        assert none.stage == "greeting" and none.code == "ETIMEDOUT" and "if it expects TLS from the first byte" in none.text


# -- what is taken up again ----------------------------------------------------------------------------------------------------

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


async def reuse(target: Target, context: ssl.SSLContext, times: int) -> list[bool]:
    """Whether each of so many sessions, one after the other, was taken up again from the one before."""
    reused = []
    for _ in range(times):
        client = await Opening(target, context, "relay.example", Guard()).open()
        reused.append(client.get_transport_info("ssl_object").session_reused)
        client.close()
    return reused


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("security", TLS)
def test_a_tls_session_is_taken_up_again(
    certificate: ssl.SSLContext, ca_file: Path, security: Security, version: ssl.TLSVersion, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    certificate.maximum_version = version

    async def run() -> None:
        async with a_sink(tls=TLS[security], certificate=certificate, credentials=LOGIN) as sink:
            target = Target("127.0.0.1", sink.port, security, ca_file=ca_file, username="me", password=PASSWORD)
            context = tls_context(target)
            assert context is not None
            assert await reuse(target, context, 3) == [False, True, True]

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


async def test_a_session_of_another_smarthost_is_not_offered(certificate: ssl.SSLContext, ca_file: Path) -> None:
    async with a_sink(tls="implicit", certificate=certificate) as sink:
        target = Target("127.0.0.1", sink.port, "tls", ca_file=ca_file)
        first, second = tls_context(target), tls_context(target)
        assert first is not None and second is not None
        assert await reuse(target, first, 2) == [False, True]
        assert await reuse(target, second, 1) == [False]
        renamed = Target("127.0.0.1", sink.port, "tls", ca_file=ca_file, server_name="other.example")
        none = await refused_with(renamed, first)
        assert "another name" in none


async def refused_with(target: Target, context: ssl.SSLContext) -> str:
    """What is said where an opening fails within a context of before."""
    with pytest.raises(NoSession) as caught:
        await connect(target, context, "relay.example")
    return caught.value.text


async def test_a_handshake_that_fails_over_the_session_it_offers_is_tried_once_more_without_one(
    certificate: ssl.SSLContext, ca_file: Path
) -> None:
    bad: set[int] = set()
    seen: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(len(seen))
        if seen[-1] not in bad:
            await writer.start_tls(certificate)
            writer.write(b"220 x\r\n")
            while await reader.readuntil(b"\r\n"):
                writer.write(b"250 x\r\n")

    async with a_server(answer) as port:
        target = Target("127.0.0.1", port, "tls", ca_file=ca_file)
        context = tls_context(target)
        assert context is not None
        bad.add(2)
        assert await reuse(target, context, 3) == [False, True, False] and len(seen) == 4
        bad |= {4, 5}
        assert "TLS handshake" in await refused_with(target, context) and len(seen) == 6
        bad |= {6}
        assert "TLS handshake" in await refused_with(target, context) and len(seen) == 7  # there was none to offer


async def test_a_session_is_not_taken_up_for_ever(certificate: ssl.SSLContext, ca_file: Path) -> None:
    async with a_sink(tls="implicit", certificate=certificate) as sink:
        target = Target("127.0.0.1", sink.port, "tls", ca_file=ca_file)
        context = tls_context(target)
        assert isinstance(context, ResumingContext)
        await reuse(target, context, 1)
        kept = context._kept
        assert kept is not None and kept[2] <= time.monotonic() + LONGEST
        await reuse(target, context, 1)
        assert context._kept is not None and context._kept[2] == kept[2]  # taken up again, and no longer for it
        context._kept = (kept[0], kept[1], time.monotonic())
        assert await reuse(target, context, 2) == [False, True]
        assert context.forget() and not context.forget()
        assert await reuse(target, context, 1) == [False]
