"""Trace fields and submission fix-ups: Received (RFC 5321 section 4.4), Date and Message-ID (RFC 6409 section 8), loop counting.

Promise: the message's own octets are never changed. What is added goes in front of them, so the wire form that came in
(still dot-stuffed) goes out untouched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from relay.mail.field import header_end

_FIELD = re.compile(rb"\.?+[!-9;-~]++[ \t]*+:")
"""How a field begins in wire form; the dot before a line is no part of it (RFC 5321 section 4.5.2)."""
_SEEN = re.compile(rb"\n(received|date|message-id)[ \t]*:")
"""In a header section in small letters, with a line end before it; a name may be apart from its colon (RFC 5322 section 4.5)."""

MAX_HEADER = 1 << 18
"""Octets of a header section that are looked at: trace fields stand at its top, and reading must not hold up other sessions."""
MAX_RECEIVED = 100
"""RFC 5321 section 6.3 asks for a threshold of at least 100."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a submission's own header section says."""

    received: int
    ours: int
    """How many of the Received fields name this relay."""
    has_date: bool
    has_message_id: bool
    starts_with_field: bool
    """False for a message that has no header section: one is put before it, with the empty line that ends it."""


_USUAL = Header(0, 0, True, True, True)
"""What nearly every submission's says: it comes from where it was written, with its date and its name."""


def is_header_ascii(wire: bytes) -> bool:
    """Whether the header section has no 8-bit octet, however long it is. What begins with no field has none."""
    if wire.isascii() or not _FIELD.match(wire):
        return True
    end = header_end(wire)
    return end >= 0 and wire[:end].isascii()


def read_header(wire: bytes, hostname: bytes) -> Header:
    """Read the header section at the front of a message in wire form."""
    if not _FIELD.match(wire, 0, MAX_HEADER):
        return Header(0, 0, False, False, not wire or wire.startswith(b"\r\n"))
    end = wire.find(b"\r\n\r\n", 0, MAX_HEADER)
    head = wire[: end + 2] if end >= 0 else wire[:MAX_HEADER]
    small = b"\n" + head.lower()
    # Not `in`: it first tries to take what it is given as a number, and fails, which takes longer than the search.
    if small.find(b"\nreceived") < 0 and small.find(b"\ndate:") >= 0 and small.find(b"\nmessage-id:") >= 0:
        return _USUAL
    seen = _SEEN.findall(small)
    received = seen.count(b"received")
    ours = len(_by(hostname).findall(head)) if received and small.find(hostname.lower()) >= 0 else 0
    return Header(received, ours, b"date" in seen, b"message-id" in seen, True)


@lru_cache(8)
def _by(hostname: bytes) -> re.Pattern[bytes]:
    """A Received field that says `by` this host; a client may have called itself `by`, so any one counts."""
    field = rb"^received[ \t]*:(?:[^\r\n]|\r\n(?=[ \t]))*?[ \t]by(?:[ \t]|\r\n(?=[ \t]))+"
    return re.compile(field + re.escape(hostname) + rb"(?=[\s;]|\Z)", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Hop:
    """How a message came to this relay: what a Received field tells."""

    helo: str
    address: str
    """The client's IP address."""
    hostname: str
    """This relay."""
    protocol: str
    """The transmission type of RFC 3848, ESMTPA or ESMTPSA, or of RFC 6531 section 4.3, UTF8SMTPA or UTF8SMTPSA."""
    beginning: str = field(init=False, repr=False, compare=False)
    """Of the field, what is the same for all messages of a connection."""

    def __post_init__(self) -> None:
        literal = f"IPv6:{self.address}" if ":" in self.address else self.address
        beginning = f"Received: from {self.helo} ([{literal}])\r\n\tby {self.hostname} with {self.protocol} id "
        object.__setattr__(self, "beginning", beginning)


def prefix(header: Header, hop: Hop, id: str, date: str, recipient: str = "") -> bytes:
    """The fields to put before the message: Received always, Date and Message-ID where missing.

    `date` is RFC 5322 section 3.3; `recipient` is named only when it is the only one (RFC 5321 section 7.2), and one that is not ASCII
    only in a message that came with SMTPUTF8: nothing else here is ever anything but ASCII.
    """
    if not recipient.isascii() and not hop.protocol.startswith("UTF8"):
        recipient = ""
    whom = f"\r\n\tfor <{recipient}>" if recipient else ""
    lines = f"{hop.beginning}{id}{whom};\r\n\t{date}\r\n"
    if header is _USUAL:
        return lines.encode("utf-8", "replace")
    if not header.has_date:
        lines += f"Date: {date}\r\n"
    if not header.has_message_id:
        lines += f"Message-ID: <{id}@{hop.hostname}>\r\n"
    if not header.starts_with_field:
        lines += "\r\n"
    return lines.encode("utf-8", "replace")
