"""Exim with the relay as its smarthost (AUTH, verified TLS, CHUNKING): every octet arrives once, and it keeps what is over a limit."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.interop.client import BODIES, RECIPIENTS, Front, Mail, compose, running_front
from tests.interop.exim import EximClient, exim_client

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.peer]

over_both = pytest.mark.parametrize("tls", ["starttls", "implicit"])

WINDOW = 6
"""Seconds of the limits' window where a test waits for its end."""


async def send(exim: EximClient, mail: Mail, **options: str) -> str:
    """Give it a message; its id."""
    return await asyncio.to_thread(exim.send, mail, **options)


def confirmed(exim: EximClient, id: str, mail: Mail, by: str) -> str:
    """See that it has handed a message over to the relay for all of its recipients, over verified TLS, logged in; the relay's reply."""
    told = [re.fullmatch(r'[-=]> (\S+) .* X=TLS1\.\d:\S+ CV=yes A=only( K)? C="(.*)"', line) for line in exim.lines(id)]
    found = [line for line in told if line]
    assert [line[1] for line in found] == list(mail.recipients), exim.lines(id)
    assert {"BDAT" if line[2] else "DATA" for line in found} == {by}
    assert exim.instance.waiting() == []
    [reply] = {line[3] for line in found}
    return reply


@over_both
@pytest.mark.parametrize("by", ["BDAT", "DATA"])
async def test_every_octet_arrives_once_and_is_charged_once(front: Front, place: Path, tls: str, by: str) -> None:
    user = await front.relay.add_user()
    exim = exim_client(place / "exim", front.ways[tls], user, chunking=by == "BDAT")
    for name, body in BODIES.items():
        mail = compose(body, recipients=RECIPIENTS if name == "plain" else RECIPIENTS[:1])
        id = await send(exim, mail)
        assert confirmed(exim, id, mail, by).startswith("250 2.0.0 ")
        await front.check_arrived(mail, user)
    await front.check_account(user, len(BODIES))
    assert {event["mechanism"] for event in front.events(user, "authenticated")} == {front.ways[tls].mechanism}


@over_both
async def test_mail_between_international_addresses_arrives_as_it_was_sent(front: Front, place: Path, tls: str) -> None:
    user = await front.relay.add_user()
    exim = exim_client(place / "exim", front.ways[tls], user)
    mail = compose(BODIES["utf8"], "grüße@example.com", ("用户@example.net", "josé@example.net"))
    id = await send(exim, mail)
    confirmed(exim, id, mail, "BDAT")
    await front.check_arrived(mail, user)
    await front.check_account(user, 1)


async def test_what_the_sender_wants_to_be_told_is_passed_on(front: Front, place: Path) -> None:
    user, mail = await front.relay.add_user(), compose(BODIES["plain"], recipients=("some+one@example.net",))
    exim = exim_client(place / "exim", front.ways["starttls"], user)
    wishes = {"mail_options": " RET=HDRS ENVID=Id+2B1+3Dx", "rcpt_options": " NOTIFY=SUCCESS,DELAY ORCPT=rfc822;some+2Bone@example.net"}
    confirmed(exim, await send(exim, mail, **wishes), mail, "BDAT")
    [copy] = front.copies(mail)
    assert {"RET=HDRS", "ENVID=Id+2B1+3Dx"} <= set(copy.mail_params.split())
    [given] = copy.rcpt_params
    assert set(given.split()) == {"NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;some+2Bone@example.net"}


@over_both
async def test_a_relay_whose_certificate_it_does_not_trust_gets_neither_password_nor_mail(front: Front, place: Path, tls: str) -> None:
    user, mail = await front.relay.add_user(), compose(BODIES["plain"])
    exim = exim_client(place / "exim", front.distrusted(tls), user)
    id = await send(exim, mail)
    assert all("certificate" in line for line in exim.deferrals(id)) and len(exim.deferrals(id)) == len(RECIPIENTS)
    assert front.copies(mail) == [] and front.events(user, "authenticated") == []


async def test_a_wrong_password_keeps_the_mail_in_its_queue(front: Front, place: Path) -> None:
    user, mail = await front.relay.add_user(), compose(BODIES["plain"], recipients=RECIPIENTS[:1])
    exim = exim_client(place / "exim", front.ways["starttls"], replace(user, password="not-this-one"))
    id = await send(exim, mail)
    assert any("535 5.7.8" in line for line in exim.lines(id)), exim.lines(id)
    assert len(exim.instance.waiting()) == 1 and front.copies(mail) == []
    await front.check_account(user, 0)


@pytest.mark.parametrize("by", ["BDAT", "DATA"])
async def test_mail_over_the_hourly_limit_stays_in_its_queue_until_the_second_it_was_told(place: Path, by: str) -> None:
    async with running_front(place, f"[quota]\nwindow_seconds = {WINDOW}\n") as front:
        user = await front.relay.add_user(hourly=1)
        exim = exim_client(place / "exim", front.ways["starttls"], user, chunking=by == "BDAT")
        first, second = (compose(BODIES["dots"], recipients=RECIPIENTS[:1]) for _ in range(2))
        confirmed(exim, await send(exim, first), first, by)
        id = await send(exim, second)
        [reason], told = exim.deferrals(id), time.monotonic()
        found = re.search(r": 451 4\.7\.0 Hourly sending limit reached \(1/1 messages\); retry-after=(\d+) at=", reason)
        assert found is not None and 0 < int(found[1]) <= WINDOW + 1, reason
        assert front.copies(second) == []
        await asyncio.sleep(max(0.0, told + int(found[1]) - time.monotonic()))
        await asyncio.to_thread(exim.retry)
        confirmed(exim, id, second, by)
        for mail in (first, second):
            await front.check_arrived(mail, user)
        await front.check_account(user, 2)


@pytest.mark.parametrize("by", ["BDAT", "DATA"])
async def test_mail_over_the_total_limit_is_given_up_at_once(front: Front, place: Path, by: str) -> None:
    user = await front.relay.add_user(total=1)
    exim = exim_client(place / "exim", front.ways["implicit"], user, chunking=by == "BDAT")
    first, second = (compose(BODIES["plain"], recipients=RECIPIENTS[:1]) for _ in range(2))
    confirmed(exim, await send(exim, first), first, by)
    id = await send(exim, second)
    [line] = [line for line in exim.lines(id) if line.startswith("** ")]
    assert ": 550 5.7.1 Total sending limit reached (1/1 messages)" in line
    assert front.copies(second) == []
    await front.check_arrived(first, user)
