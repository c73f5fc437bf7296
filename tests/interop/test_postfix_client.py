"""Postfix with the relay as its relayhost (SASL, verified TLS): every octet arrives once, and it waits out a limit as it is told."""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.interop.client import BODIES, RECIPIENTS, Front, compose, running_front
from tests.interop.postfix import PostfixClient, running_postfix_client
from tests.running import User
from tests.surroundings import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.peer]

over_both = pytest.mark.parametrize("tls", ["starttls", "implicit"])

TOGETHER = tuple(sorted(RECIPIENTS))
"""In the order in which Postfix names the recipients of a domain."""

WINDOW = 6
"""Seconds of the limits' window where a test waits for its end."""


@pytest.fixture(scope="module")
def postfix() -> Iterator[PostfixClient]:
    """One for all the tests of this file."""
    with tempfile.TemporaryDirectory(prefix="relay-") as folder, running_postfix_client(Path(folder) / "postfix") as started:
        yield started


async def use(postfix: PostfixClient, front: Front, tls: str, user: User) -> None:
    """Let it send to the relay, that way, as that user."""
    await asyncio.to_thread(postfix.use, front.ways[tls], user)


async def until_sent(postfix: PostfixClient) -> None:
    """Wait until its queue is empty."""
    await until(lambda: not postfix.queue(), 20, "an empty queue of Postfix")


async def until_deferred(postfix: PostfixClient) -> str:
    """Wait until what it has was tried in vain; why."""
    await until(lambda: bool(postfix.reasons()), 20, "a deferral")
    [reason] = set(postfix.reasons())
    return reason


@over_both
async def test_every_octet_arrives_once_and_is_charged_once(front: Front, postfix: PostfixClient, tls: str) -> None:
    user = await front.relay.add_user()
    await use(postfix, front, tls, user)
    mails = [compose(body, recipients=TOGETHER if name == "plain" else RECIPIENTS[:1]) for name, body in BODIES.items()]
    for mail in mails:
        await asyncio.to_thread(postfix.send, mail)
    await until_sent(postfix)
    for mail in mails:
        await front.check_arrived(mail, user)
    await front.check_account(user, len(BODIES))
    assert {event["mechanism"] for event in front.events(user, "authenticated")} == {front.ways[tls].mechanism}


@over_both
async def test_mail_between_international_addresses_arrives_as_it_was_sent(front: Front, postfix: PostfixClient, tls: str) -> None:
    user = await front.relay.add_user()
    await use(postfix, front, tls, user)
    mail = compose(BODIES["utf8"], "grüße@example.com", ("josé@example.net", "用户@example.net"))
    await asyncio.to_thread(postfix.send, mail)
    await until_sent(postfix)
    await front.check_arrived(mail, user)
    await front.check_account(user, 1)


async def test_what_the_sender_wants_to_be_told_is_passed_on(front: Front, postfix: PostfixClient) -> None:
    user, mail = await front.relay.add_user(), compose(BODIES["plain"], recipients=("Some+One@example.net",))
    await use(postfix, front, "starttls", user)
    await asyncio.to_thread(postfix.send, mail, "-N", "success,delay", "-R", "hdrs", "-V", "Id+1=x")
    await until_sent(postfix)
    [copy] = front.copies(mail)
    assert {"RET=HDRS", "ENVID=Id+2B1+3Dx"} <= set(copy.mail_params.split())
    [given] = copy.rcpt_params
    asked = dict(word.split("=", 1) for word in given.split())
    assert set(asked["NOTIFY"].split(",")) == {"SUCCESS", "DELAY"}
    assert asked["ORCPT"] == "rfc822;Some+2BOne@example.net"


@over_both
async def test_a_relay_whose_certificate_it_does_not_trust_gets_neither_password_nor_mail(
    front: Front, postfix: PostfixClient, tls: str
) -> None:
    user, mail = await front.relay.add_user(), compose(BODIES["plain"], recipients=TOGETHER)
    await asyncio.to_thread(postfix.use, front.distrusted(tls), user)
    await asyncio.to_thread(postfix.send, mail)
    assert (await until_deferred(postfix)).startswith("Server certificate not ")
    assert front.copies(mail) == [] and front.events(user, "authenticated") == []
    await use(postfix, front, tls, user)
    postfix.flush()
    await until_sent(postfix)
    await front.check_arrived(mail, user)


async def test_a_wrong_password_keeps_the_mail_in_its_queue(front: Front, postfix: PostfixClient) -> None:
    user, mail = await front.relay.add_user(), compose(BODIES["plain"], recipients=RECIPIENTS[:1])
    await use(postfix, front, "starttls", replace(user, password="not-this-one"))
    await asyncio.to_thread(postfix.send, mail)
    assert "535 5.7.8" in await until_deferred(postfix)
    assert front.copies(mail) == []
    await use(postfix, front, "starttls", user)
    postfix.flush()
    await until_sent(postfix)
    await front.check_arrived(mail, user)
    await front.check_account(user, 1)


async def test_mail_over_the_hourly_limit_stays_in_its_queue_until_the_second_it_was_told(postfix: PostfixClient, place: Path) -> None:
    async with running_front(place, f"[quota]\nwindow_seconds = {WINDOW}\n") as front:
        user = await front.relay.add_user(hourly=1)
        await use(postfix, front, "starttls", user)
        first, second = (compose(BODIES["dots"], recipients=RECIPIENTS[:1]) for _ in range(2))
        await asyncio.to_thread(postfix.send, first)
        await until_sent(postfix)
        await asyncio.to_thread(postfix.send, second)
        reason, told = await until_deferred(postfix), time.monotonic()
        found = re.search(
            r"said: 451 4\.7\.0 Hourly sending limit reached \(1/1 messages\); retry-after=(\d+) at=\S+ .*DATA command", reason
        )
        assert found is not None and 0 < int(found[1]) <= WINDOW + 1, reason
        assert front.copies(second) == []
        await asyncio.sleep(max(0.0, told + int(found[1]) - time.monotonic()))
        postfix.flush()
        await until_sent(postfix)
        for mail in (first, second):
            await front.check_arrived(mail, user)
        await front.check_account(user, 2)


async def test_mail_over_the_total_limit_is_returned_to_its_sender(front: Front, postfix: PostfixClient) -> None:
    user = await front.relay.add_user(total=1)
    await use(postfix, front, "starttls", user)
    first, second = (compose(BODIES["plain"], recipients=RECIPIENTS[:1]) for _ in range(2))
    await asyncio.to_thread(postfix.send, first)
    await until_sent(postfix)
    await asyncio.to_thread(postfix.send, second)
    await until(lambda: "status=bounced" in postfix.log.read_text(), 20, "a bounce")
    assert "said: 550 5.7.1 Total sending limit reached (1/1 messages)" in postfix.log.read_text()
    assert front.copies(second) == []
    await front.check_arrived(first, user)
    await front.check_account(user, 1)
