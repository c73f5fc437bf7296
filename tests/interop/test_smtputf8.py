"""Mail with addresses beyond ASCII goes through `relay serve` to a real Postfix as it was sent; where Postfix has no SMTPUTF8, its sender
is told so in a report that Postfix takes (RFC 6531, RFC 6533)."""

from __future__ import annotations

import secrets
import smtplib
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.postfix import Postfix, running_postfix
from tests.running import Relay, User, running

pytestmark = pytest.mark.peer

SENDER = "jürgen@bücher.example"


@dataclass(frozen=True, slots=True)
class House:
    """A relay between its clients and Postfix."""

    relay: Relay
    user: User
    postfix: Postfix
    conf: Path

    def configure(self, setting: str) -> None:
        """Change one setting of Postfix."""
        subprocess.run(["postconf", "-c", self.conf, "-e", setting], check=True)
        subprocess.run(["postfix", "-c", self.conf, "reload"], check=True, capture_output=True)

    def send(self, sender: str, recipients: list[str], subject: str = "Grüße") -> tuple[bytes, tuple[int, bytes]]:
        """Send a message; its mark, and the reply to its final dot."""
        mark = secrets.token_hex(12)
        content = f"From: {sender}\r\nTo: {recipients[0]}\r\nSubject: {subject} {mark}\r\n\r\nschön\r\n".encode()
        with smtplib.SMTP("127.0.0.1", self.relay.smtp, timeout=30) as client:
            client.command_encoding = "utf-8"
            client.login(self.user.name, self.user.password)
            assert client.has_extn("smtputf8") and client.has_extn("8bitmime")
            assert client.mail(sender, ["SMTPUTF8", "BODY=8BITMIME"])[0] == 250
            assert [client.rcpt(one)[0] for one in recipients] == [250] * len(recipients)
            return mark.encode(), client.data(content)


@pytest.fixture
async def house(place: Path) -> AsyncIterator[House]:
    with running_postfix(place / "postfix") as postfix:
        async with running(place / "relay", postfix.port) as relay:
            yield House(relay, await relay.add_user(), postfix, place / "postfix" / "conf")


async def test_postfix_takes_what_the_relay_took(house: House) -> None:
    house.configure("smtputf8_enable=yes")
    mark, (code, _) = house.send(SENDER, ["用户@example.net"])
    assert code == 250
    content = house.postfix.await_message(mark)
    assert f"Return-Path: <{SENDER}>\n".encode() in content
    assert b" with UTF8SMTPA id " in content
    assert "\n\tfor <用户@example.net>;\n".encode() in content
    assert f"From: {SENDER}\nTo: 用户@example.net\nSubject: Grüße {mark.decode()}\n\nschön\n".encode() in content


async def test_a_postfix_without_smtputf8_is_sent_nothing_that_needs_it(house: House) -> None:
    house.configure("smtputf8_enable=no")
    assert house.send(SENDER, ["you@example.net"])[1][0] == 550
    assert house.send("app@example.net", ["用户@example.net"])[1][0] == 550
    code, text = house.send("app@example.net", ["you@example.net"])[1]
    assert (code, text[:5]) == (554, b"5.6.9")
    mark, (code, _) = house.send("app@example.net", ["you@example.net", "用户@example.net"], subject="plain")
    assert code == 250
    assert b"To: you@example.net\n" in house.postfix.await_message(mark)
    report = house.postfix.await_message(b"Final-Recipient: utf-8; \\x{7528}\\x{6237}@example.net\n")
    assert b"\nStatus: 5.6.7\n" in report and b"\nTo: <app@example.net>\n" in report
    assert house.postfix.taken() == 2


async def test_a_report_to_an_address_beyond_ascii_is_taken(house: House) -> None:
    house.configure("smtputf8_enable=yes")
    house.configure("smtpd_recipient_restrictions=check_recipient_access inline:{refused@example.net=REJECT}")
    mark, (code, _) = house.send("jürgen@example.net", ["you@example.net", "refused@example.net"])
    assert code == 250
    house.postfix.await_message(mark)
    report = house.postfix.await_message(b"multipart/report; report-type=delivery-status;")
    assert "\nTo: <jürgen@example.net>\n".encode() in report
    assert b"\nFinal-Recipient: rfc822; refused@example.net\n" in report
    assert b"\nContent-Type: message/global-headers\n" in report
