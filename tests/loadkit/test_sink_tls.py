"""What a sink does to handshakes: its own certificates, the flawed ones, and what comes in a handshake's place."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from collections.abc import Awaitable, Callable
from contextlib import closing

import pytest

from relay.loadkit.authority import Authority
from relay.loadkit.script import Script
from relay.loadkit.scripted import GARBAGE
from relay.loadkit.sink import Sink
from tests.loadkit.conftest import StartSink, Talker

Talk = Callable[[Sink], Awaitable[Talker]]
MESSAGE = "Subject: x\r\n\r\nx\r\n"


def trusting(sink: Sink) -> ssl.SSLContext:
    """A client that trusts the sink's authority and nobody else."""
    return ssl.create_default_context(cadata=sink.authority.pem.decode())


def send(sink: Sink, host: str = "localhost") -> None:
    is_first = sink.manners.tls == "implicit"
    with closing(smtplib.SMTP_SSL(host, sink.port, context=trusting(sink)) if is_first else smtplib.SMTP(host, sink.port)) as client:
        if not is_first:
            client.starttls(context=trusting(sink))
        client.sendmail("a@b.example", ["c@d.example"], MESSAGE)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_certificate_of_its_own_is_good_to_who_trusts_its_authority(start_sink: StartSink, tls: str, host: str) -> None:
    sink = await start_sink(tls=tls)
    await asyncio.to_thread(send, sink, host)
    assert sink.intake.answered == 1


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize(("flaw", "told"), [("expired", "expired"), ("wrong-name", "mismatch")])
async def test_a_flawed_certificate_is_refused_for_its_flaw_alone(start_sink: StartSink, tls: str, flaw: str, told: str) -> None:
    sink = await start_sink(f"tls first=1 certificate={flaw}", tls=tls)
    with pytest.raises(ssl.SSLCertVerificationError, match=told):
        await asyncio.to_thread(send, sink)
    await asyncio.to_thread(send, sink)  # the rule was for the first handshake only
    assert sink.intake.answered == 1


async def test_a_flawed_certificate_stands_beside_one_that_was_given(start_sink: StartSink, certificate: ssl.SSLContext) -> None:
    sink = await start_sink("tls certificate=expired", tls="implicit", certificate=certificate)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        await asyncio.to_thread(send, sink)
    sink.script = Script()
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        await asyncio.to_thread(send, sink)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize("action", ["drop", "garbage", "stall=0.01..0.02 drop", "stall=0.01 garbage drop"])
async def test_a_handshake_may_never_come(start_sink: StartSink, tls: str, action: str) -> None:
    sink = await start_sink(f"tls first=1 {action}", tls=tls)
    with pytest.raises((ssl.SSLError, OSError, smtplib.SMTPException)):
        await asyncio.to_thread(send, sink)
    await asyncio.to_thread(send, sink)
    assert sink.intake.answered == 1
    async with asyncio.timeout(5):
        while sink.conversations:
            await asyncio.sleep(0.01)


async def test_octets_that_are_no_handshake_follow_the_220(start_sink: StartSink, talk: Talk) -> None:
    client = await talk(await start_sink("tls garbage", tls="starttls"))
    await client.hear()
    await client.say("EHLO c.example")
    assert (await client.say("STARTTLS"))[0].startswith("220")
    async with asyncio.timeout(5):
        assert await client.reader.read() == GARBAGE


async def test_starttls_may_be_refused(start_sink: StartSink) -> None:
    sink = await start_sink('starttls reply="454 4.7.0 TLS not available now"', tls="starttls")

    with pytest.raises(smtplib.SMTPResponseException) as refused:
        await asyncio.to_thread(send, sink)
    assert (refused.value.smtp_code, refused.value.smtp_error) == (454, b"4.7.0 TLS not available now")


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_a_handshake_that_never_goes_on_is_cut_by_its_client_or_by_the_end(start_sink: StartSink, talk: Talk, tls: str) -> None:
    sink = await start_sink("tls stall=forever", tls=tls)
    for _ in range(2):
        client = await talk(sink)
        if tls == "starttls":
            await client.hear()
            await client.say("EHLO c.example", "STARTTLS")
    client.writer.close()
    async with asyncio.timeout(5):
        while len(sink.conversations) > 1:
            await asyncio.sleep(0.01)
    await sink.stop()
    assert not sink.conversations


async def test_a_pause_before_the_handshake_ends_with_the_sink(start_sink: StartSink, talk: Talk) -> None:
    sink = await start_sink("tls stall=0.2", tls="implicit")
    await talk(sink)
    async with asyncio.timeout(5):
        while not sink.conversations:
            await asyncio.sleep(0.01)
    await sink.stop()
    await asyncio.sleep(0.3)  # the pause is over: nothing may come of it
    assert not sink.conversations


def test_each_authority_is_its_own() -> None:
    assert Authority(["a.example"]).pem != Authority(["a.example"]).pem
