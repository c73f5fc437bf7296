"""Trace fields and submission fix-ups: Received (RFC 5321 section 4.4), Date and Message-ID (RFC 6409 section 8), loop counting.

Promise: the message's own octets are never changed. What is added goes in front of them, so the wire form that came in
(still dot-stuffed) goes out untouched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")
_SEEN = re.compile(rb"^(received|date|message-id)[ \t]*:", re.IGNORECASE | re.MULTILINE)

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


def read_header(wire: bytes, hostname: bytes) -> Header:
    """Read the header section at the front of a message in wire form."""
    end = 0 if wire.startswith(b"\r\n") else wire.find(b"\r\n\r\n")
    head = wire[: min(end + 2, MAX_HEADER)] if end >= 0 else wire[:MAX_HEADER]
    starts = not head or head.startswith(b"\r\n") or _FIELD.match(head) is not None
    if not starts:
        return Header(0, 0, False, False, False)
    names = [name.lower() for name in _SEEN.findall(head)]
    received = names.count(b"received")
    ours = len(_by(hostname).findall(head)) if received else 0
    return Header(received, ours, b"date" in names, b"message-id" in names, True)


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
    """The transmission type of RFC 3848: ESMTPA, ESMTPSA."""


def prefix(header: Header, hop: Hop, id: str, date: str, recipient: str = "") -> bytes:
    """The fields to put before the message: Received always, Date and Message-ID where missing.

    `date` is RFC 5322 section 3.3; `recipient` is named only when it is the only one (RFC 5321 section 7.2).
    """
    literal = f"IPv6:{hop.address}" if ":" in hop.address else hop.address
    whom = f"\r\n\tfor <{recipient}>" if recipient else ""
    lines = f"Received: from {hop.helo} ([{literal}])\r\n\tby {hop.hostname} with {hop.protocol} id {id}{whom};\r\n\t{date}\r\n"
    if not header.has_date:
        lines += f"Date: {date}\r\n"
    if not header.has_message_id:
        lines += f"Message-ID: <{id}@{hop.hostname}>\r\n"
    if not header.starts_with_field:
        lines += "\r\n"
    return lines.encode("ascii", "replace")
