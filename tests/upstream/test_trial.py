"""The trial of a smarthost: a real message, and for everything that can go wrong a sentence that says what to change."""

from __future__ import annotations

import asyncio
import email
import email.policy
import socket
import ssl
import time
from dataclasses import replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from relay.loadkit.sink import Sink
from relay.upstream.guard import HOST, PORT, Guard
from relay.upstream.route import Target
from relay.upstream.trial import Trial, try_out
from tests.upstream.forbidden import SPELLINGS
from tests.upstream.opening import PASSWORD, TLS, a_sink

SENDER, SINK = "app@example.com", "sink@test.example"


async def tried(target: Target, guard: Guard | None = None, sender: str = SENDER, recipient: str = SINK, budget: float = 3.0) -> Trial:
    """What a trial says; never a secret, and on time."""
    began = time.monotonic()
    trial = await try_out(target, guard or Guard(), "relay.example", sender, recipient, budget)
    assert time.monotonic() - began < budget + 1.5
    assert PASSWORD not in repr(trial) and "\n" not in trial.text and "\r" not in trial.text
    assert trial.is_success == (trial.stage == "done") == (trial.code == "")
    return trial


def at(sink: Sink, **fields: Any) -> Target:
    return replace(Target("127.0.0.1", sink.port), **fields)


# -- where all is well ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("security", ["none", *TLS])
async def test_a_smarthost_that_works_takes_a_message_as_rfc_5322_has_it(certificate: ssl.SSLContext, ca_file: Path, security: Any) -> None:
    manners: dict[str, Any] = {} if security == "none" else {"tls": TLS[security], "certificate": certificate}
    async with a_sink(credentials={"me": PASSWORD}, keep=True, **manners) as sink:
        trial = await tried(at(sink, security=security, ca_file=ca_file, username="me", password=PASSWORD))
        assert trial.stage == "done" and trial.reply.startswith("250 2.0.0") and SINK in trial.text
        (received,) = sink.messages
        assert (received.sender, list(received.recipients)) == (SENDER, [SINK])
        assert received.content is not None
        message = email.message_from_bytes(received.content, policy=email.policy.default)
        assert (message["From"], message["To"], message["Message-ID"]) == (SENDER, SINK, trial.message_id)
        assert abs(parsedate_to_datetime(message["Date"]).timestamp() - time.time()) < 60
        assert message["Subject"] and message["Auto-Submitted"] == "auto-generated" and message.get_content().strip()
        await asyncio.sleep(0.02)
        assert not sink.conversations and sink.replies[221] == 1


async def test_addresses_beyond_ascii_go_where_they_are_taken(sink: Sink) -> None:
    assert (await tried(at(sink), sender="b\u00fccher@b\u00fccher.example")).is_success
    async with a_sink(without={"SMTPUTF8"}) as narrow:
        trial = await tried(at(narrow), sender="b\u00fccher@b\u00fccher.example")
        assert trial.stage == "sender" and trial.code == "EENVELOPE" and "ASCII addresses only" in trial.text
        trial = await tried(at(narrow), recipient="b\u00fccher@b\u00fccher.example")
        assert trial.stage == "recipient" and trial.code == "EENVELOPE" and not narrow.messages


# -- what is refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "stage", "code", "words"),
    [
        ("mail reply='550 5.7.1 not yours'", "sender", "EENVELOPE", f"it refuses the sender {SENDER} (550 5.7.1 not yours)"),
        ("mail reply='421 4.7.0 too many' close", "sender", "EENVELOPE", "(421 4.7.0 too many)"),
        ("rcpt reply='550 5.1.1 who'", "recipient", "EENVELOPE", f"it refuses the recipient {SINK} (550 5.1.1 who)"),
        ("data reply='554 5.7.0 no'", "content", "EMESSAGE", "it refuses the message (554 5.7.0 no)"),
        ("dot reply='554 5.6.0 spam\\n554 5.6.0 twice'", "content", "EMESSAGE", "it refuses the message (554 5.6.0 spam twice)"),
        ("mail drop", "sender", "ECONNECTION", "it closed the connection"),
        ("rcpt drop", "recipient", "ECONNECTION", "it closed the connection"),
        ("dot drop", "content", "ECONNECTION", "it closed the connection"),
        ("rcpt garbage", "recipient", "ECONNECTION", "no mail server"),
    ],
)
async def test_what_the_smarthost_refuses_is_told_by_what_it_refused(rule: str, stage: str, code: str, words: str) -> None:
    async with a_sink(rule) as sink:
        trial = await tried(at(sink))
        assert (trial.stage, trial.code) == (stage, code) and words in trial.text
        assert trial.reply == "" or trial.reply in trial.text
        await asyncio.sleep(0.02)
        assert not sink.conversations


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("connect", "did not greet in time"), ("ehlo", "did not greet in time"), ("auth", "did not answer the login in time"),
        ("mail", "did not answer the sender's address"), ("rcpt", "did not answer the recipient's address"),
        ("data", "did not answer the message"), ("dot", "did not answer the message"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("timeout", [0.2, 15.0])
async def test_a_smarthost_that_falls_silent_costs_no_more_than_the_budget_and_is_told_by_where(
    stage: str, words: str, timeout: float
) -> None:
    async with a_sink(f"{stage} stall=forever", credentials={"me": PASSWORD}) as sink:
        target = at(sink, username="me", password=PASSWORD, timeout=timeout, greeting_timeout=timeout)
        trial = await tried(target, budget=0.5)
        assert (trial.stage, trial.code) == ("time", "ETIMEDOUT") and words in trial.text


async def test_a_success_is_one_though_the_farewell_is_never_answered() -> None:
    async with a_sink("quit stall=forever") as sink:
        assert (await tried(at(sink), budget=1.0)).is_success


async def test_what_keeps_a_session_from_being_had_is_told(authority: trustme.CA, ca_file: Path) -> None:
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("mail.example.com").configure_cert(other)
    async with a_sink(tls="implicit", certificate=other) as sink:
        trial = await tried(at(sink, security="tls", ca_file=ca_file))
        assert (trial.stage, trial.code) == ("tls", "ETLS") and "for another name than 127.0.0.1" in trial.text
        trial = await tried(at(sink, security="tls", identity="no PEM"))
        assert (trial.stage, trial.code) == ("tls", "ETLS") and "cannot be read" in trial.text
        port = sink.port
    trial = await tried(Target("127.0.0.1", port))
    assert (trial.stage, trial.code) == ("connect", "ECONNECTION") and "refuses the connection" in trial.text
    async with a_sink(credentials={"me": "right"}) as sink:
        trial = await tried(at(sink, username="me", password=PASSWORD))
        assert (trial.stage, trial.code) == ("login", "EAUTH") and "refuses the user name or the password (535" in trial.text
        trial = await tried(at(sink))
        assert (trial.stage, trial.code) == ("sender", "EENVELOPE") and "(530 5.7.0 Authentication required)" in trial.text


async def test_a_name_that_does_not_exist_is_told_from_one_that_is_not_resolved_in_time() -> None:
    async def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "no")

    async def endless(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return []

    target = Target("mail.example.com", 587, is_guarded=True)
    trial = await tried(target, Guard(lookup=unknown))
    assert (trial.stage, trial.code) == ("dns", "EDNS") and "no host of that name" in trial.text
    trial = await tried(target, Guard(lookup=endless), budget=0.2)
    assert (trial.stage, trial.code) == ("time", "ETIMEDOUT") and "not resolved in time" in trial.text


# -- what is never sent --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", SPELLINGS)
async def test_what_the_guard_forbids_is_said_in_one_sentence_for_all(host: str, sink: Sink) -> None:
    trial = await tried(Target(host, 587, "opportunistic", is_guarded=True), Guard(lookup=_never))
    assert trial == Trial(False, "guard", HOST, "ECONNECTION")


async def test_a_name_that_leads_inside_is_answered_as_one_that_leads_nowhere(sink: Sink) -> None:
    async def nowhere(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "no such host")

    async def look_up(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    target = Target("mail.example.com", sink.port, is_guarded=True)
    inside = await tried(target, Guard(allow_ports=[sink.port], lookup=look_up))
    assert inside == await tried(target, Guard(allow_ports=[sink.port], lookup=nowhere))
    assert (inside.stage, inside.code) == ("dns", "EDNS")
    assert await tried(target, Guard(lookup=look_up)) == Trial(False, "guard", PORT, "ECONNECTION")
    assert sink.intake.connections == 0


async def _never(host: str, port: int) -> list[str]:
    raise AssertionError("asked the resolver")


@pytest.mark.parametrize(
    "address", ["", "app", "a@b.example\r\nRCPT TO:<x@y.example>", "a@b.example>", "a@b.example\0", "<a@b.example>", "a b@c.example"]
)
async def test_an_address_that_is_none_is_never_sent(address: str, sink: Sink) -> None:
    trial = await tried(at(sink), sender=address)
    assert (trial.stage, trial.code) == ("sender", "EENVELOPE") and "no mail address" in trial.text
    trial = await tried(at(sink), recipient=address)
    assert (trial.stage, trial.code) == ("recipient", "EENVELOPE") and "no mail address" in trial.text
    assert sink.intake.connections == 0
