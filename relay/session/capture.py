"""The message as it comes in after 354: everything up to CRLF.CRLF, in chunks, kept in wire form.

Promises: only CRLF.CRLF ends it (RFC 5321 section 4.1.1.4); what follows is handed back untouched; a message over the limit is
still consumed to its end, in constant memory.
"""

from __future__ import annotations

_END = b"\r\n.\r\n"


class Capture:
    """Collects one message."""

    def __init__(self, limit: int) -> None:
        """`limit` in octets of content; stuffed dots may add a third before the message is given up."""
        self._buffer = bytearray(b"\r\n")  # so that a lone dot in the first line ends an empty message
        self._most = limit + limit // 2 + 4096
        self._limit = limit
        self.wire = b""
        """The message, dot-stuffed, ending in CRLF (or empty); complete once feed() returned octets."""
        self.is_over = False

    def feed(self, data: bytes) -> bytes | None:
        """Add what was read; returns what follows the message once it is complete, else None."""
        buffer = self._buffer
        start = max(0, len(buffer) - 4)
        buffer += data
        end = buffer.find(_END, start)
        if end < 0:
            if len(buffer) > self._most:
                self.is_over = True
                del buffer[:-4]
            return None
        rest = bytes(buffer[end + 5 :])
        if not self.is_over:
            self.wire = bytes(memoryview(buffer)[2 : end + 2])
            self.is_over = len(self.wire) > self._limit and content_size(self.wire) > self._limit
        self._buffer = bytearray()
        return rest


def content_size(wire: bytes) -> int:
    """Octets of the message without its stuffed dots."""
    return len(wire) - wire.count(b"\r\n.") - wire.startswith(b".")


def has_bare_newline(wire: bytes) -> bool:
    """Whether a CR or LF stands alone: different servers see different line ends there, which is how mail is smuggled."""
    pairs = wire.count(b"\r\n")
    return wire.count(b"\n") != pairs or wire.count(b"\r") != pairs
