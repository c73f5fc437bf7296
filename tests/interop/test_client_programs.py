"""Real client programs send through `relay serve`: every octet arrives once and is charged once, and each refusal is understood."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Iterable
from dataclasses import replace

import pytest

from tests.interop.client import BODIES, RECIPIENTS, Front, compose
from tests.interop.programs import CLIENTS, Client, as_it_is, send_with_curl, send_with_nodemailer

pytestmark = pytest.mark.asyncio(loop_scope="module")


def each(clients: Iterable[Client]) -> pytest.MarkDecorator:
    """For each of these clients."""
    found = [pytest.param(client, id=client.name, marks=[pytest.mark.peer] if client.is_peer else []) for client in clients]
    return pytest.mark.parametrize("client", found)


over_both = pytest.mark.parametrize("tls", ["starttls", "implicit"])


@over_both
@each(CLIENTS)
async def test_every_octet_arrives_once_and_is_charged_once(front: Front, client: Client, tls: str) -> None:
    user, way = await front.relay.add_user(), front.ways[tls]
    for name, body in BODIES.items():
        mail = compose(body, recipients=RECIPIENTS if name == "plain" else RECIPIENTS[:1])
        outcome = await client.send(front, way, user, mail)
        assert not outcome.failure, outcome
        await front.check_arrived(mail, user)
    await front.check_account(user, len(BODIES))
    assert {event["mechanism"] for event in front.events(user, "authenticated")} == {way.mechanism}


@over_both
@each(client for client in CLIENTS if client.has_smtputf8)
async def test_mail_between_international_addresses_arrives_as_it_was_sent(front: Front, client: Client, tls: str) -> None:
    user = await front.relay.add_user()
    mail = compose(BODIES["utf8"], "grüße@example.com", ("用户@example.net", "josé@example.net"))
    outcome = await client.send(front, front.ways[tls], user, mail)
    assert not outcome.failure, outcome
    await front.check_arrived(mail, user)
    await front.check_account(user, 1)


@over_both
@each(CLIENTS)
async def test_a_wrong_password_is_told_and_nothing_is_sent(front: Front, client: Client, tls: str) -> None:
    user, mail = await front.relay.add_user(), compose(BODIES["plain"])
    outcome = await client.send(front, front.ways[tls], replace(user, password="not-this-one"), mail)
    assert outcome.failure == client.login_refused, outcome
    assert front.copies(mail) == []
    await front.check_account(user, 0)


@over_both
@each(CLIENTS)
async def test_the_hourly_limit_is_a_temporary_failure_and_the_total_limit_a_permanent_one(front: Front, client: Client, tls: str) -> None:
    for limits, code, failure in (({"hourly": 1}, "451", client.deferred), ({"total": 1}, "550", client.refused)):
        user = await front.relay.add_user(**limits)
        first, second = compose(BODIES["plain"]), compose(BODIES["plain"])
        assert not (await client.send(front, front.ways[tls], user, first)).failure
        outcome = await client.send(front, front.ways[tls], user, second)
        assert (outcome.failure, code in outcome.failure + outcome.text) == (failure, True), outcome
        assert front.copies(second) == []
        await front.check_arrived(first, user)
        await front.check_account(user, 1)


@over_both
@each(CLIENTS)
async def test_a_client_that_does_not_trust_the_certificate_gives_no_password_away(front: Front, client: Client, tls: str) -> None:
    user, mail = await front.relay.add_user(), compose(BODIES["plain"])
    outcome = await client.send(front, front.distrusted(tls), user, mail)
    assert outcome.failure == client.distrusts, outcome
    assert front.copies(mail) == []
    assert front.events(user, "authenticated") == []


@pytest.mark.peer
@over_both
async def test_the_pool_of_nodemailer_sends_each_message_once_over_few_connections(front: Front, tls: str) -> None:
    user = await front.relay.add_user()
    mails = [compose(BODIES["dots"], recipients=RECIPIENTS[:1]) for _ in range(24)]
    asked, options = [as_it_is(mail) for mail in mails], {"pool": True, "maxConnections": 2, "maxMessages": 8}
    outcomes = await send_with_nodemailer(front, front.ways[tls], user, asked, **options)
    assert [outcome.failure for outcome in outcomes] == [""] * len(mails)
    for mail in mails:
        await front.check_arrived(mail, user)
    await front.check_account(user, len(mails))
    assert 3 <= len(front.events(user, "authenticated")) <= 4


@pytest.mark.peer
@over_both
async def test_what_nodemailer_asks_of_delivery_reports_is_handed_on_as_it_was_written(front: Front, tls: str) -> None:
    user, mail = await front.relay.add_user(), compose(BODIES["plain"])
    dsn = {"id": "Order-4711", "return": "headers", "notify": ["failure", "delay"], "recipient": "You@Example.net"}
    [outcome] = await send_with_nodemailer(front, front.ways[tls], user, [as_it_is(mail) | {"dsn": dsn}])
    assert not outcome.failure, outcome
    await front.check_arrived(mail, user)
    [copy] = front.copies(mail)
    assert {"RET=HDRS", "ENVID=Order-4711"} <= set(copy.mail_params.split())
    for params in copy.rcpt_params:
        assert set(params.split()) == {"NOTIFY=FAILURE,DELAY", "ORCPT=rfc822;You@Example.net"}


@pytest.mark.peer
async def test_what_nodemailer_composes_reads_the_same_at_the_other_end(front: Front) -> None:
    user, text = await front.relay.add_user(), "Grüße,\n.\n..dots\n" + "lange Zeile, " * 400 + "\n"
    mail = {"from": "App <app@example.com>", "to": "you@example.net", "subject": "Grüße aus Köln", "text": text}
    [outcome] = await send_with_nodemailer(front, front.ways["starttls"], user, [mail])
    assert not outcome.failure, outcome
    [copy] = [message for message in front.sink.messages if outcome.text.split()[2].encode() in (message.content or b"")]
    read = email.message_from_bytes(copy.content or b"", policy=email.policy.default)
    assert (read["subject"], read.get_content().replace("\r\n", "\n")) == ("Grüße aus Köln", text)


@pytest.mark.peer
@over_both
async def test_curl_makes_crlf_of_the_lines_of_a_file_if_asked_to(front: Front, tls: str) -> None:
    user, mail = await front.relay.add_user(), compose(BODIES["dots"])
    outcome = await send_with_curl(front, front.ways[tls], user, mail, mail.content.replace(b"\r\n", b"\n"), "--crlf")
    assert not outcome.failure, outcome
    await front.check_arrived(mail, user)
    await front.check_account(user, 1)


@pytest.mark.peer
async def test_a_file_that_curl_sends_with_bare_line_feeds_is_refused_and_not_charged(front: Front) -> None:
    user, mail = await front.relay.add_user(), compose(BODIES["plain"])
    outcome = await send_with_curl(front, front.ways["implicit"], user, mail, mail.content.replace(b"\r\n", b"\n"))
    assert outcome.failure and "550" in outcome.text, outcome
    assert front.copies(mail) == []
    await front.check_account(user, 0)
