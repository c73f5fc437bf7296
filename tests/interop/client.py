"""A relay between real client programs and a sink: the mail they are given, the two ways in, and what must be true of what arrives."""

from __future__ import annotations

import re
import secrets
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import trustme

from relay.loadkit.received import Received
from relay.loadkit.sink import Sink
from tests.running import Relay, User, free_port, running

SENDER, RECIPIENTS = "app@example.com", ("you@example.net", "them@example.net")
HELO = "client.example"

BODIES = {
    "plain": b"Hello,\r\n\r\nworld.\r\n",
    "utf8": "Grüße aus Köln, 你好, 🙂 \u0085\r\n".encode() * 50,
    "one megabyte": b"".join(b"%06d " % number + b"x" * 69 + b"\r\n" for number in range(13_500)),
    "dots": b".\r\n..\r\n...\r\n.leading\r\n\r\n.\r\n. \r\n" + b"." * 500 + b"\r\n.QUIT\r\nend.\r\n.\r\n\r\n.\r\n",
}
"""What every client sends: ASCII, 8 bits, a megabyte, and lines that want their dots stuffed up to the very last one."""

_TRACE = re.compile(
    rb"Received: from \S+ \(\[127\.0\.0\.1\]\)\r\n\tby relay\.example with (?P<protocol>\S+) id (?P<id>\S+?)"
    rb"(?:\r\n\tfor <(?P<recipient>[^>\r\n]+)>)?;\r\n\t[^\r\n]+\r\n"
)
"""All that may stand before what the client sent: RFC 5321 section 4.4."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way in: a listener with TLS, the SASL mechanism to use there, and whose certificates the client trusts."""

    tls: Literal["starttls", "implicit"]
    port: int
    mechanism: Literal["PLAIN", "LOGIN"]
    authority: Path
    """PEM file."""

    @property
    def is_implicit(self) -> bool:
        """Whether TLS comes before the greeting."""
        return self.tls == "implicit"

    @property
    def trust(self) -> ssl.SSLContext:
        """For clients in Python."""
        return ssl.create_default_context(cafile=str(self.authority))


@dataclass(frozen=True, slots=True)
class Mail:
    """One message as its client means it, in CRLF lines."""

    mark: str
    content: bytes
    sender: str = SENDER
    recipients: tuple[str, ...] = RECIPIENTS

    @property
    def is_international(self) -> bool:
        """Whether it takes SMTPUTF8 (RFC 6531)."""
        return not "".join((self.sender, *self.recipients)).isascii()


def compose(body: bytes, sender: str = SENDER, recipients: tuple[str, ...] = RECIPIENTS) -> Mail:
    """A message that lacks nothing, so that no program has cause to add to it."""
    mark = secrets.token_hex(12)
    header = (
        f"From: <{sender}>\r\nTo: {', '.join(f'<{recipient}>' for recipient in recipients)}\r\nSubject: {mark}\r\n"
        f"Date: Sat, 21 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{mark}@example.com>\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    )
    return Mail(mark, header.encode() + body, sender, recipients)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a client says became of a message."""

    failure: str
    """Its exit status, or the name of its error; empty where it is content."""
    text: str
    """All that it said."""


@dataclass(slots=True)
class Front:
    """The relay, its two ways in, and the sink behind it."""

    relay: Relay
    sink: Sink
    folder: Path
    ways: dict[str, Way]
    stranger: Path
    """The certificate of an authority that has nothing to do with the relay, PEM."""

    def distrusted(self, tls: str) -> Way:
        """A way in for a client that trusts somebody else."""
        return replace(self.ways[tls], authority=self.stranger)

    def copies(self, mail: Mail) -> list[Received]:
        """What the sink has of a message."""
        return [message for message in self.sink.messages if mail.mark.encode() in (message.content or b"")]

    def events(self, user: User, name: str) -> list[dict[str, object]]:
        """The mail log's lines of an event about a user."""
        return [event for event in self.relay.events(name) if event["user"] == user.name]

    async def check_arrived(self, mail: Mail, user: User) -> None:
        """See that there is one copy, for all its recipients, of the very octets; and that it says how it came, and by what id."""
        [copy] = self.copies(mail)
        assert copy.answered
        assert (copy.sender, copy.recipients) == (mail.sender, mail.recipients)
        assert copy.content is not None
        trace = _TRACE.match(copy.content)
        assert trace is not None, copy.content[:500]
        assert copy.content[trace.end() :] == mail.content
        assert trace["protocol"] == (b"UTF8SMTPSA" if mail.is_international else b"ESMTPSA")
        [event] = [event for event in self.events(user, "taken") if event["id"] == trace["id"].decode()]
        assert event["sender"] == mail.sender
        assert "spooled" not in event, "a second copy may come yet"

    async def check_account(self, user: User, taken: int) -> None:
        """See that so many messages were taken, that each has its line in the mail log, and that each was charged once."""
        usage = await self.relay.usage(user)
        assert (usage["sent_total"], usage["in_flight"]) == (taken, 0)
        assert len(self.events(user, "taken")) == taken


def _issue(folder: Path) -> tuple[Path, str]:
    """Certificates for the relay: the file of who issued them, and the relay's own settings."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(folder / "tls.key")
    for number, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(folder / "tls.crt", append=number > 0)
    authority.cert_pem.write_to_path(folder / "authority.crt")
    return folder / "authority.crt", f"[smtp.tls]\ncertificate = '{folder / 'tls.crt'}'\nkey = '{folder / 'tls.key'}'\n"


@asynccontextmanager
async def running_front(folder: Path, more: str = "") -> AsyncIterator[Front]:
    """A relay with both kinds of TLS, and a sink that keeps what it is sent; `more` are settings."""
    authority, settings = _issue(folder)
    stranger = folder / "stranger.crt"
    trustme.CA().cert_pem.write_to_path(stranger)
    starttls = Way("starttls", free_port(), "PLAIN", authority)
    implicit = Way("implicit", free_port(), "LOGIN", authority)
    for way in (starttls, implicit):
        settings += f"[[smtp.listen]]\nport = {way.port}\ntls = '{way.tls}'\n"
    # Many a client with a wrong password comes from the one address of this test.
    settings += f"[throttle]\nfailures_per_address = 1000\n{more}"
    sink = Sink(keep=True)
    await sink.start()
    try:
        async with running(folder / "relay", sink.port, settings) as relay:
            yield Front(relay, sink, folder, {way.tls: way for way in (starttls, implicit)}, stranger)
    finally:
        await sink.stop()
