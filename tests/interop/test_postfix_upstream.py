"""Real clients send real mail through `relay serve` to a real Postfix, and the octets arrive as they were sent."""

from __future__ import annotations

import asyncio
import secrets
import smtplib
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
import trustme

from tests.interop.postfix import Postfix, running_postfix
from tests.peer import need
from tests.running import Relay, User, free_port, running

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.peer]

BODIES = {
    "plain": b"Hello,\r\nworld.\r\n",
    "dots": b".\r\n..\r\n.leading\r\n\r\n.\r\n. \r\nend.\r\n.",
    "utf8": "Grüße aus Köln, 你好, 🙂\r\n".encode() * 50,
    "one megabyte": b"".join(b"%06d " % number + b"x" * 69 + b"\r\n" for number in range(13_500)),
    "long lines": b"y" * 900 + b"\r\n" + b"z" * 990 + b"\r\n",
}


@dataclass(frozen=True, slots=True)
class House:
    """A relay between its clients and Postfix."""

    relay: Relay
    postfix: Postfix
    trust: ssl.SSLContext
    starttls: int
    implicit: int


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house() -> AsyncIterator[House]:
    """One for all the tests of this file."""
    with tempfile.TemporaryDirectory(prefix="relay-", ignore_cleanup_errors=True) as folder:
        place = Path(folder)
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        certificate.private_key_pem.write_to_path(place / "tls.key")
        for number, blob in enumerate(certificate.cert_chain_pems):
            blob.write_to_path(place / "tls.crt", append=number > 0)
        trust = ssl.create_default_context()
        authority.configure_trust(trust)
        starttls, implicit = free_port(), free_port()
        doors = (
            f"[smtp.tls]\ncertificate = '{place / 'tls.crt'}'\nkey = '{place / 'tls.key'}'\n"
            f"[[smtp.listen]]\nport = {starttls}\ntls = 'starttls'\n[[smtp.listen]]\nport = {implicit}\ntls = 'implicit'\n"
        )
        with running_postfix(place / "postfix") as postfix:
            async with running(place / "relay", postfix.port, doors) as relay:
                yield House(relay, postfix, trust, starttls, implicit)


@pytest_asyncio.fixture(loop_scope="module")
async def user(house: House) -> User:
    """Who has sent nothing yet."""
    return await house.relay.add_user()


def _message(body: bytes) -> tuple[bytes, bytes]:
    mark = secrets.token_hex(12).encode()
    header = b"From: app@example.com\r\nTo: you@example.net\r\nSubject: " + mark + b"\r\nMIME-Version: 1.0\r\n"
    header += b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
    return mark, header + b"\r\n" + body


def _send(house: House, user: User, tls: str, message: bytes) -> None:
    if tls == "implicit":
        client: smtplib.SMTP = smtplib.SMTP_SSL("localhost", house.implicit, timeout=30, context=house.trust)
    else:
        client = smtplib.SMTP("localhost", house.starttls, timeout=30)
        client.starttls(context=house.trust)
    with client:
        client.login(user.name, user.password)
        assert client.sendmail("app@example.com", ["you@example.net"], message, ["BODY=8BITMIME"]) == {}


def _arrived(house: House, mark: bytes) -> bytes:
    """What Postfix has, from our own first field on: what relay and Postfix put before it is cut off."""
    content = house.postfix.await_message(mark)
    assert content.count(b"\nReceived: ") >= 2 or content.startswith(b"Received: ")
    assert b"with ESMTPSA id " in content
    assert b"\nMessage-ID: <" in content and b"\nDate: " in content
    return content[content.index(b"From: app@example.com\n") :]


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_smtplib_sends_through_the_relay_to_postfix_and_every_octet_arrives(house: House, user: User, tls: str) -> None:
    for name, body in BODIES.items():
        mark, message = _message(body)
        await asyncio.to_thread(_send, house, user, tls, message)
        found = await asyncio.to_thread(_arrived, house, mark)
        expected = message.replace(b"\r\n", b"\n")
        assert found == expected + (b"" if expected.endswith(b"\n") else b"\n"), name
    usage = await house.relay.usage(user)
    assert (usage["sent_total"], usage["in_flight"]) == (len(BODIES), 0)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_swaks_sends_through_the_relay_to_postfix_and_every_octet_arrives(house: House, user: User, place: Path, tls: str) -> None:
    swaks = need("swaks")
    mark, message = _message(BODIES["plain"] + b".dot\r\n")
    (place / "message").write_bytes(message.replace(b"\r\n", b"\n"))
    port = ["--port", str(house.implicit), "--tls-on-connect"] if tls == "implicit" else ["--port", str(house.starttls), "--tls"]
    command = [
        swaks, "--server", "127.0.0.1", *port, "--auth", "PLAIN", "--auth-user", user.name, "--auth-password", user.password,
        "--from", "app@example.com", "--to", "you@example.net", "--data", f"@{place / 'message'}", "--no-strip-from", "--suppress-data",
    ]  # fmt: skip
    run = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    if "Net::SSLeay" in run.stderr:
        need("Net::SSLeay (Debian: libnet-ssleay-perl)")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "235 2.7.0" in run.stdout and "250 2.0.0 " in run.stdout
    found = await asyncio.to_thread(_arrived, house, mark)
    assert found.rstrip(b"\n") == message.replace(b"\r\n", b"\n").rstrip(b"\n")
