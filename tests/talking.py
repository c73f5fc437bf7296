"""Short SMTP dialogs with a relay under test, for tests that look at the reply to one step."""

from __future__ import annotations

import asyncio
import base64
import smtplib
import time

from relay.quota.ledger import key
from relay.store.client import Store
from tests.running import Relay, User


def logged_in(relay: Relay, user: User) -> smtplib.SMTP:
    client = smtplib.SMTP("127.0.0.1", relay.smtp, timeout=30)
    client.login(user.name, user.password)
    return client


def offer(client: smtplib.SMTP) -> tuple[int, bytes]:
    client.mail("app@example.com")
    client.rcpt("to@example.net")
    client.putcmd("DATA")
    code, text = client.getreply()
    if code == 354:
        client.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
        code, text = client.getreply()
    else:
        client.rset()
    return code, text


def try_login(relay: Relay, user: User) -> tuple[int, bytes]:
    with smtplib.SMTP("127.0.0.1", relay.smtp, timeout=30) as client:
        client.ehlo()
        claim = base64.b64encode(f"\0{user.name}\0{user.password}".encode()).decode()
        return client.docmd("AUTH", f"PLAIN {claim}")


async def until_reply(relay: Relay, user: User, timeout: float = 10) -> str:
    """The reply to one message, as soon as anybody listens again."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        try:
            return (await asyncio.to_thread(relay.send, user))[0]
        except (OSError, smtplib.SMTPException):
            await asyncio.sleep(0.1)
    raise AssertionError("nobody listens")


async def generation_of(store: Store, name: str) -> int:
    """A user's credential generation, under which a test may reserve in its name."""
    return int(await store.command("HGET", key(name), "gen"))
