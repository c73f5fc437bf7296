"""The message as it comes in, in chunks, kept in wire form: after 354 everything up to CRLF.CRLF, or the octets that BDAT announced.

Promises:
- After DATA only CRLF.CRLF ends it (RFC 5321 section 4.1.1.4); after BDAT only the count does (RFC 3030 section 2). What follows is
  handed back untouched.
- A message that is over the limit, or was given up, is still consumed to its end, in constant memory.
- However it was cut into pieces, the message is the same.
"""

from __future__ import annotations

from io import IncrementalNewlineDecoder

SMALL = 1024
"""Octets of a piece that is kept apart."""

_END = b"\r\n.\r\n"
_SEAM = (b"\n", b".", b"\r", b"")
STRIDE = 65_536
"""Octets of a message that are looked at in one go."""


class Upload:
    """A message that is coming in, by either way."""

    __slots__ = ("_chunks", "_left", "_limit", "_tail", "is_given_up", "is_over", "is_whole", "octets", "wire")

    def __init__(self, limit: int, is_whole: bool) -> None:
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
        self.is_whole = is_whole
        """It comes in one, not in chunks between which there are commands."""

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

    def __init__(self, limit: int) -> None:
        super().__init__(limit, is_whole=True)
        self._tail = b"\r\n"  # the last octets before those to come; so that a lone dot in the first line ends an empty message

    @property
    def _most(self) -> int:
        """Octets after which it is given up: stuffed dots may add half of the limit."""
        return self._limit + self._limit // 2 + 4096

    def feed(self, data: bytes) -> bytes | None:
        """Look for the end, in the seam between the pieces first."""
        if not self.octets and not self.is_given_up and (end := data.find(_END)) >= 0 and data[:3] != _END[2:]:
            self._take_whole(data[: end + 2])
            return data[end + 5 :] if end + 5 < len(data) else b""
        tail = self._tail
        # What ends across a seam goes on with one of these.
        end = (tail + data[:4]).find(_END) - len(tail) if data[:1] in _SEAM else -9
        if end < -len(tail):
            end = data.find(_END)
            if end < 0:
                self._tail = data[-4:] if len(data) >= 4 else (tail + data)[-4:]
                self._keep(data, self._most)
                return None
        self._finish(data, end + 2)
        return data[end + 5 :]

    def _take_whole(self, wire: bytes) -> None:
        """The message came in one piece, as most do."""
        self.octets = len(wire) + 3
        self.wire = wire
        if self.octets > self._limit:
            self.is_over = len(wire) > self._most or content_size(wire) > self._limit
            if len(wire) > self._most:
                self.wire = b""

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

    def __init__(self, limit: int) -> None:
        super().__init__(limit, is_whole=False)
        self._left = 0

    def begin(self, size: int) -> None:
        """The next `size` octets are a chunk."""
        self._left = size

    @property
    def is_complete(self) -> bool:
        """Whether all of the chunk is there."""
        return self._left == 0

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
