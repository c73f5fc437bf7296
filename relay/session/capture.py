"""The message as it comes in, in chunks, kept in wire form: after 354 everything up to CRLF.CRLF, or the octets that BDAT announced.

Promises:
- After DATA only CRLF.CRLF ends it (RFC 5321 section 4.1.1.4); after BDAT only the count does (RFC 3030 section 2). What follows is
  handed back untouched.
- A message that is over the limit, or was given up, is still consumed to its end, in constant memory.
- However it was cut into pieces, the message is the same.
"""

from __future__ import annotations

from io import IncrementalNewlineDecoder
from typing import ClassVar

SMALL = 1024
"""Octets of a piece that is kept apart."""

_END = b"\r\n.\r\n"
_SEAM = (b"\n", b".", b"\r")
"""What ends across a seam between two pieces goes on with one of these."""
LONG = 8192
"""Octets of a piece from which on its end is looked for in another way."""
STRIDE = 65_536
"""Octets of a message that are looked at in one go."""


class Upload:
    """A message that is coming in, by either way."""

    __slots__ = ("_chunks", "_left", "_limit", "_tail", "is_given_up", "is_over", "octets", "wire")

    is_whole: ClassVar[bool]
    """It comes in one, not in chunks between which there are commands."""

    def __init__(self, limit: int) -> None:
        """`limit` in octets of content."""
        self._limit = limit
        self._chunks: list[bytes | bytearray] = []
        self.octets = 0
        """What has come in so far."""
        self.wire = b""
        """The message, dot-stuffed, ending in CRLF (or empty); complete at its end."""
        self.is_over = False
        """It is larger than the limit."""
        self.is_given_up = False
        """There was no room for it."""
        self._tail = b"\r\n"
        """The last octets before those to come; at first a line end, so that a lone dot in the first line ends an empty message."""
        self._left = 0
        """Octets of the chunk that are still to come."""

    def give_up(self) -> None:
        """Keep nothing of it from now on."""
        self.is_given_up = True
        self.wire = b""  # it may be whole by now
        self._chunks.clear()

    def feed(self, data: bytes) -> bytes | None:
        """Add what was read; returns what follows the message or the chunk once it is complete, else None."""
        raise NotImplementedError

    def _keep(self, data: bytes, most: int) -> None:
        self.octets += len(data)
        if self.octets > most:
            self.is_over = True
            self._chunks.clear()
        elif not self.is_given_up:
            # Small pieces are put together: a list of them would take many times the memory of what they hold.
            if len(data) >= SMALL:
                self._chunks.append(data)
            elif self._chunks and isinstance(last := self._chunks[-1], bytearray):
                last += data
            else:
                self._chunks.append(bytearray(data))


class Capture(Upload):
    """Collects one message after DATA."""

    __slots__ = ()

    is_whole = True

    @property
    def _most(self) -> int:
        """Octets after which it is given up: stuffed dots may add half of the limit."""
        return self._limit + self._limit // 2 + 4096

    def feed(self, data: bytes) -> bytes | None:
        """Look for the end, in the seam between the pieces first."""
        if data.startswith(_SEAM) and (seam := (self._tail + data[:4]).find(_END)) >= 0:
            end = seam - len(self._tail)
        elif (end := data.find(_END) if len(data) < LONG else find_end(data)) < 0:
            self._tail = data[-4:] if len(data) >= 4 else (self._tail + data)[-4:]
            self._keep(data, self._most)
            return None
        elif not self.octets and end + 5 <= self._limit and not self.is_given_up:  # it came in one piece, as most do
            self.octets, self.wire = end + 5, data[: end + 2]
            return data[end + 5 :]
        self._finish(data, end + 2)
        return data[end + 5 :]

    def _finish(self, data: bytes, stop: int) -> None:
        """The message ends at that octet of the last piece, or, counted from its beginning, in those before."""
        if stop > 0:
            self._keep(data[:stop], self._most)
        self.octets += 3 + min(stop, 0)
        if self._chunks:
            self.wire = b"".join(self._chunks) if len(self._chunks) > 1 else bytes(self._chunks[0])
            if stop < 0:
                self.wire = self.wire[:stop]
            self._chunks.clear()
            self.is_over = len(self.wire) > self._limit and content_size(self.wire) > self._limit


class Chunks(Upload):
    """Collects one message of BDAT commands."""

    __slots__ = ()

    is_whole = False

    def begin(self, size: int) -> None:
        """The next `size` octets are a chunk."""
        self._left = size

    def feed(self, data: bytes) -> bytes | None:
        """Count what is the chunk's."""
        left = self._left
        if len(data) < left:
            self._left -= len(data)
            self._keep(data, self._limit)
            return None
        self._left = 0
        if left:
            self._keep(data[:left], self._limit)
        return data[left:]

    def end(self) -> None:
        """The last chunk is there: put the message into the form it would have after DATA (RFC 5321 section 4.5.2)."""
        if self.is_over or self.is_given_up:
            return
        content = b"".join(self._chunks)
        self._chunks.clear()
        if content and not content.endswith(b"\r\n"):
            content += b"\r\n"  # DATA, by which it may leave, knows no other end
        content = content.replace(b"\r\n.", b"\r\n..")
        self.wire = b"." + content if content.startswith(b".") else content


def find_end(data: bytes) -> int:
    """Where CRLF.CRLF begins in what may be long; negative: nowhere."""
    # To look for one octet takes a tenth of the time, and what is long has few dots, as base64 has none: from dot to dot, then, as long
    # as there is one for each two KB at most.
    dot = 1
    for _ in range(len(data) >> 11):
        dot = data.find(46, dot + 1)
        if dot < 0 or (data[dot - 1] == 10 and data.startswith(_END, dot - 2)):
            return dot - 2
    return data.find(_END, dot - 1)


def content_size(wire: bytes) -> int:
    """Octets of the message without its stuffed dots."""
    return len(wire) - wire.count(b"\r\n.") - wire.startswith(b".")


_ends = IncrementalNewlineDecoder(None, translate=False)


def has_bare_newline(wire: bytes) -> bool:
    """Whether a CR or LF stands alone: different servers see different line ends there, which is how mail is smuggled."""
    # What Python reads text files with notes every kind of line end that it meets, in one pass; counting takes four times as long.
    _ends.reset()
    if len(wire) <= STRIDE:
        _ends.decode(str(wire, "latin-1"), final=True)  # a CR that is the last octet counts too
    else:
        view = memoryview(wire)
        for start in range(0, len(view), STRIDE):
            _ends.decode(str(view[start : start + STRIDE], "latin-1"))
        _ends.decode("", final=True)
    return _ends.newlines not in (None, "\r\n")
