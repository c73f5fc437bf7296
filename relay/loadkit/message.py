"""Messages that can be told apart and checked: written by the load, read by the sink.

A load message carries `X-Load-Id`, and in `X-Load-Sum` the SHA-256 of its body as it was before dot-stuffing. The id stands in the
body too, so that a body that reaches another message's header is found out.
"""

from __future__ import annotations

import hashlib
import re

_FIELD = re.compile(rb"^(x-load-id|x-load-sum|message-id)[ \t]*:[ \t]*(\S+)", re.IGNORECASE | re.MULTILINE)
# Lines that begin with dots are what dot-stuffing gets wrong.
_LINES = (b".a line that begins with a dot", b"..and one with two", b"." * 70, b"the quick brown fox " * 3, b"0123456789" * 7)


class Template:
    """Writes messages whose bodies have `size` octets (at least one line) before dot-stuffing."""

    def __init__(self, size: int, id_length: int) -> None:
        body = _fill(max(0, size - id_length - 2))
        self._sum = hashlib.sha256(body)
        self._stuffed = stuff(body)

    def write(self, load_id: str, sender: str, recipient: str) -> bytes:
        """The wire form of one message, with its final dot."""
        tail = load_id.encode("ascii") + b"\r\n"
        digest = self._sum.copy()
        digest.update(tail)
        head = (
            f"X-Load-Id: {load_id}\r\nX-Load-Sum: {digest.hexdigest()}\r\nMessage-ID: <{load_id}@load.example>\r\n"
            f"From: <{sender}>\r\nTo: <{recipient}>\r\nSubject: load {load_id}\r\n\r\n"
        )
        return b"".join((head.encode("utf-8"), self._stuffed, tail, b".\r\n"))


def _fill(size: int) -> bytes:
    lines: list[bytes] = []
    left = size
    while left > 0:
        line = _LINES[len(lines) % len(_LINES)] + b"\r\n"
        # Never leave a rest too short to be a line of its own.
        if left < len(line) + 3:
            line = b"x" * (left - 2) + b"\r\n" if left > 2 else b"\r\n"
        lines.append(line)
        left -= len(line)
    return b"".join(lines)


def stuff(content: bytes) -> bytes:
    """Double the dot at the front of every line (RFC 5321 section 4.5.2)."""
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    return b"." + stuffed if stuffed.startswith(b".") else stuffed


def unstuff(wire: bytes) -> bytes:
    """Take the first dot off every line that begins with one."""
    plain = wire.replace(b"\r\n.", b"\r\n") if b"\r\n." in wire else wire
    return plain[1:] if plain.startswith(b".") else plain


def identify(content: bytes) -> tuple[str, bool]:
    """The id of a message ("" without one), and whether its body is still what its sum says; one without a sum is intact."""
    end = content.find(b"\r\n\r\n")
    head = content if end < 0 else content[: end + 2]
    fields: dict[bytes, bytes] = {}
    for name, value in _FIELD.findall(head):
        fields.setdefault(name.lower(), value)
    id = (fields.get(b"x-load-id") or fields.get(b"message-id", b"")).decode("ascii", "replace")
    expected = fields.get(b"x-load-sum")
    if expected is None:
        return id, True
    body = b"" if end < 0 else content[end + 4 :]
    return id, hashlib.sha256(body).hexdigest().encode("ascii") == expected
