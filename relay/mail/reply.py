"""SMTP replies as values (RFC 5321 section 4.2) with their enhanced status codes (RFC 3463, RFC 2034).

Promises: a reply's enhanced class is always that of its code, and its text never breaks out of its line,
which is never longer than a client must be able to read.
"""

from __future__ import annotations

import re
from typing import NamedTuple

LONGEST_LINE = 512
"""Octets of a reply line with its CRLF (RFC 5321 section 4.5.3.1.5)."""

_UNPRINTABLE = re.compile(r"[^\x20-\x7e]+")
_ENHANCED = re.compile(r"([245])\.([0-9]{1,3}\.[0-9]{1,3})(?:\s+|$)")


class Reply(NamedTuple):
    """One reply; `detail` is the enhanced code without its class ("7.1"), "" for replies that carry none (3yz, 220 greeting)."""

    code: int
    detail: str
    text: str

    @property
    def status(self) -> str:
        """The full enhanced status code, "5.7.1", or "" where there is none."""
        return f"{self.code // 100}.{self.detail}" if self.detail else ""

    def __str__(self) -> str:
        code, detail, text = self
        return f"{code} {code // 100}.{detail} {text}" if detail else f"{code} {text}"

    def __bytes__(self) -> bytes:
        return line_of(str(self))


def line_of(said: str) -> bytes:
    """A reply that is written out, as it is sent."""
    return said.encode("ascii", "replace")[: LONGEST_LINE - 2] + b"\r\n"


LONGEST_TEXT = 400
"""Octets of foreign text in a reply."""


def sanitise(text: str, limit: int = LONGEST_TEXT) -> str:
    """Make foreign text safe inside one reply line: printable ASCII, one line, at most `limit` octets."""
    return _UNPRINTABLE.sub(" ", text).strip()[:limit]


def from_upstream(code: int, text: str) -> Reply:
    """Turn a smarthost's reply into a value: its code, its enhanced code where the class agrees, its text made safe."""
    if text.isascii() and text.isprintable():  # one line, and safe: as nearly all are, so that this costs every message less
        if code == 250 and text.startswith("2.0.0 "):  # what it says of a message that it takes
            return Reply(250, "0.0", text[6:].strip()[:LONGEST_TEXT] or "no text")
        found = _ENHANCED.match(text)
        detail = found[2] if found and int(found[1]) == code // 100 else "0.0"
        return Reply(code, detail, (text[found.end() :] if found else text).strip()[:LONGEST_TEXT] or "no text")
    first = text.replace("\r", "\n").split("\n")
    found = _ENHANCED.match(first[0])
    detail = "0.0"
    if found:
        if int(found[1]) == code // 100:
            detail = found[2]
        first = [line[m.end() :] if (m := _ENHANCED.match(line)) else line for line in first]
    return Reply(code, detail, sanitise(" ".join(first)) or "no text")
