"""TestSmtpServer on smarthosts that do not work: each failure is told apart, in a sentence an admin can act on."""

from __future__ import annotations

import ssl

import httpx
import pytest
import trustme

from relay.accounts.setting import fold
from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from relay.upstream.route import Choice, Target
from tests.api.conftest import House, Tenant
from tests.api.test_superoffice import asked, outcome


async def failure(http: httpx.AsyncClient, tenant: Tenant, body: object) -> str:
    is_success, text = await outcome(http, tenant, body)
    assert not is_success and text
    return text


async def trusted(house: House, tenant: Tenant, sink: Sink, authority: trustme.CA, server_name: str = "") -> None:
    """Store the account, with the authority that its certificate is trusted by."""
    ca = authority.cert_pem.bytes().decode()
    target = Target("127.0.0.1", sink.port, "tls", ca=ca, username="me", password="right", server_name=server_name)
    await house.rooms.arranging.put_setting(tenant.owner_id, fold("b.example"), [Choice(target)])


async def test_a_name_that_does_not_exist(http: httpx.AsyncClient, tenant: Tenant) -> None:
    text = await failure(http, tenant, {"SmtpUri": "smtp://nowhere.invalid:2525", "From": "a@b.example"})
    assert "nowhere.invalid" in text


async def test_a_port_nobody_listens_at(http: httpx.AsyncClient, tenant: Tenant, sink: Sink) -> None:
    body = asked(sink)
    await sink.stop()
    assert "refuses the connection" in await failure(http, tenant, body)


async def test_a_host_of_the_operators_own_network(http: httpx.AsyncClient, tenant: Tenant) -> None:
    text = await failure(http, tenant, {"SmtpUri": "smtp://10.1.2.3:2525", "From": "a@b.example"})
    assert "does not connect" in text and "10.1.2.3" not in text


async def test_a_certificate_for_another_name_and_one_nobody_trusts_are_told_apart(
    http: httpx.AsyncClient, house: House, tenant: Tenant, authority: trustme.CA
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.example").configure_cert(context)
    sink = Sink(tls="implicit", certificate=context, credentials={"me": "right"})
    await sink.start()
    body = asked(sink, "me:right@") | {"SmtpUri": f"smtps://me:right@127.0.0.1:{sink.port}"}
    untrusted = await failure(http, tenant, body)
    await trusted(house, tenant, sink, authority)
    stored = body | {"SmtpUri": f"smtps://me@127.0.0.1:{sink.port}", "UseStoredPassword": True}
    mismatch = await failure(http, tenant, stored)
    assert "certificate" in untrusted.lower() and "certificate" in mismatch.lower() and untrusted != mismatch
    await trusted(house, tenant, sink, authority, server_name="other.example")
    assert await outcome(http, tenant, stored) == (True, "")
    await sink.stop()


async def test_credentials_that_are_refused(http: httpx.AsyncClient, house: House, tenant: Tenant, authority: trustme.CA) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    sink = Sink(tls="implicit", certificate=context, credentials={"me": "another"})
    await sink.start()
    await trusted(house, tenant, sink, authority)
    body = asked(sink) | {"SmtpUri": f"smtps://me@127.0.0.1:{sink.port}", "UseStoredPassword": True}
    text = await failure(http, tenant, body)
    assert "login" in text.lower() or "password" in text.lower() or "credential" in text.lower()
    assert "right" not in text
    await sink.stop()


async def test_credentials_are_never_sent_in_clear(http: httpx.AsyncClient, tenant: Tenant) -> None:
    sink = Sink(credentials={"me": "right"})
    await sink.start()
    text = await failure(http, tenant, asked(sink, "me:right@"))
    assert "TLS" in text and sink.replies[235] == 0
    await sink.stop()


async def test_a_user_without_a_password(http: httpx.AsyncClient, tenant: Tenant, sink: Sink) -> None:
    assert "no password" in await failure(http, tenant, asked(sink, "me@"))
    assert sink.intake.connections == 0


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ('mail reply="550 5.7.1 not from there"', "not from there"),
        ('rcpt reply="550 5.1.1 nobody here"', "nobody here"),
        ('dot reply="554 5.7.1 looks like spam"', "looks like spam"),
        ('connect reply="554 5.7.1 go away"', "go away"),
    ],
)
async def test_what_the_server_refuses_is_told_in_its_words(
    http: httpx.AsyncClient, tenant: Tenant, sink: Sink, rule: str, said: str
) -> None:
    sink.script = Script.parse([rule])
    assert said in await failure(http, tenant, asked(sink))


async def test_every_failure_has_a_sentence_of_its_own(http: httpx.AsyncClient, tenant: Tenant, sink: Sink) -> None:
    seen = set()
    for rule in ('mail reply="550 5.7.1 no"', 'rcpt reply="550 5.7.1 no"', 'dot reply="550 5.7.1 no"', 'connect reply="554 5.7.1 no"'):
        sink.script = Script.parse([rule])
        seen.add(await failure(http, tenant, asked(sink)))
    assert len(seen) == 4
