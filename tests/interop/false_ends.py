"""What a smarthost, or the relay, might take for the end of a message, with a whole transaction behind it; and the ways to send it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

SENDER, RECIPIENT, VICTIM = "app@example.net", "you@example.net", "victim@example.net"

_ENVELOPE = f"MAIL FROM:<evil@example.net>\r\nRCPT TO:<{VICTIM}>\r\n".encode()
_MESSAGE = f"From: <evil@example.net>\r\nTo: <{VICTIM}>\r\nSubject: hidden\r\n\r\nThis was never sent.\r\n".encode()
HIDDEN = _ENVELOPE + b"BDAT %d LAST\r\n" % len(_MESSAGE) + _MESSAGE + _ENVELOPE + b"DATA\r\n" + _MESSAGE
"""Two transactions, for servers that want to be asked before a message and for those that do not mind; but for the dot at its end: the
real end of the message around it, or one more of those it pretends."""

_FALSE_ENDS = (b"\n.\n", b"\r\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\r", b"\r.\r\n")


def _with_nul(end: bytes) -> Iterator[bytes]:
    for place in range(1, len(end)):
        yield end[:place] + b"\0" + end[place:]


ENDS = (
    *_FALSE_ENDS, *(spoilt for end in _FALSE_ENDS for spoilt in _with_nul(end)), *_with_nul(b"\r\n.\r\n"),
    b"\n\n.\r\n", b"\r\r\n.\r\r\n", b"\r\n.\r\r\n", b"\r\n\r.\r\n", b"\r\n..\r\n", b"\r\n. \r\n", b"\r\n \r\n . \r\n", b"\r\n.\t\r\n",
    b"\x0b.\x0b", b"\x0c.\x0c", b"\x85.\x85", b"\xc2\x85.\xc2\x85", "\u2028.\u2028".encode(), "\u010a.\u010a".encode(), b"\r\n.\x1a\r\n",
)  # fmt: skip
"""What is no end of a message, and was, or might be, taken for one."""
TRUE_END = b"\r\n.\r\n"
"""Which in a chunk ends nothing."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One message, and how it is sent."""

    by: Literal["DATA", "BDAT"]
    body: bytes
    """What follows the header, without its real end."""
    end: bytes
    segments: tuple[int, ...] = ()
    """Where in the end, and beyond it, another segment begins."""
    chunk: int | None = None
    """Where in the end another chunk begins."""
    is_dripping: bool = False
    """Every octet of the end, of what follows it, and of the real end has a segment of its own."""

    def content(self, mark: str) -> bytes:
        """The message as it is written on the wire after DATA, or in chunks."""
        return self.header(mark) + self.body

    def header(self, mark: str) -> bytes:
        """What stands before the pretended end."""
        return f"From: <{SENDER}>\r\nTo: <{RECIPIENT}>\r\nSubject: {mark}\r\n\r\nhello".encode()

    @property
    def is_refused(self) -> bool:
        """Whether it has a CR or an LF alone, so that nobody knows where its lines end."""
        rest = self.body.replace(b"\r\n", b"")
        return b"\r" in rest or b"\n" in rest

    def stored(self) -> bytes:
        """The body as a smarthost stores it: lines that end in LF, without the dots that DATA asked for."""
        body = b"hello" + self.body
        if self.by == "DATA":
            body = body.replace(b"\r\n.", b"\r\n")
        return (body if body.endswith(b"\r\n") else body + b"\r\n").replace(b"\r\n", b"\n")

    def pieces(self, mark: str) -> list[bytes]:
        """What to write, a segment each, once the message is asked for."""
        content, start = self.content(mark), len(self.header(mark))
        wire = content + b".\r\n"
        if self.chunk is not None:
            at = start + self.chunk
            first = b"BDAT %d\r\n" % at + content[:at]
            return [first, b"BDAT %d LAST\r\n" % (len(content) - at) + content[at:]]
        if self.by == "BDAT":
            head = b"BDAT %d LAST\r\n" % len(content)
            wire, start = head + content, len(head) + start
        cuts = [start + cut for cut in self.segments]
        if self.is_dripping:
            cuts = [*range(start, start + len(self.end) + 12), *range(len(wire) - 8, len(wire))]
        return [wire[one:other] for one, other in pairwise((0, *cuts, len(wire)))]


def attempts_by_data() -> Iterator[Attempt]:
    """Every pretended end after DATA, cut at every octet, and dripping."""
    for end in ENDS:
        body = end + HIDDEN
        yield from (Attempt("DATA", body, end, (cut,)) for cut in range(len(end) + 1))
        yield Attempt("DATA", body, end, is_dripping=True)


def attempts_by_bdat() -> Iterator[Attempt]:
    """Every pretended end, and the true one, in a chunk: cut at every octet, over segments and over chunks, and dripping."""
    for end in (*ENDS, TRUE_END):
        body = end + HIDDEN + b".\r\n" + HIDDEN
        yield from (Attempt("BDAT", body, end, (cut,)) for cut in range(len(end) + 1))
        yield from (Attempt("BDAT", body, end, chunk=cut) for cut in range(len(end) + 1))
        yield Attempt("BDAT", body, end, is_dripping=True)
    # The end of the chunk might become half of an end that DATA knows.
    for tail in (b"\r\n.", b"\r\n..", b"\r\n.\r\n", b"\r\n.\r\n.\r\n"):
        yield Attempt("BDAT", b"\r\n" + HIDDEN + tail, tail)
        yield Attempt("BDAT", tail, tail)
