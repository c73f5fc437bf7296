"""Fields of a message's header section, as whoever gets the message will see them (RFC 5322 section 2.2).

Promise: what stands in the wire form is read without its stuffed dots (RFC 5321 section 4.5.2), so that no field hides behind one.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

_NAME = rb"[!-9;-~]++"
_VALUE = rb"[^\r\n]*+(?:\r\n[ \t][^\r\n]*+)*+"
_FIELD = re.compile(rb"^(%b)[ \t]*+:(%b)\r\n" % (_NAME, _VALUE), re.MULTILINE)
_FIELDS = re.compile(rb"(?:%b[ \t]*+:%b\r\n)*+" % (_NAME, _VALUE))


class Field(NamedTuple):
    """One field."""

    name: bytes
    """In lower case."""
    value: bytes
    """As it stands, with its folds, without the CRLF that ends it."""


def unstuff(wire: bytes) -> bytes:
    """What lines are without the dots put before them; a lone one is dropped like a doubled one, as any server does."""
    plain = wire.replace(b"\r\n.", b"\r\n")
    return plain[1:] if plain.startswith(b".") else plain


def header_end(wire: bytes, within: int | None = None) -> int:
    """Where the last line of the header section ends, before its CRLF; -1: there is no body, or no end `within` so many octets."""
    return 0 if wire.startswith(b"\r\n") else wire.find(b"\r\n\r\n", 0, within)


def body_start(wire: bytes) -> int:
    """Where the body begins, behind the empty line, in a message that begins with a field or with that line."""
    end = header_end(wire)
    return len(wire) if end < 0 else end + 4 if end else 2


def read_fields(head: bytes, at_most: int | None = None) -> list[Field]:
    """The fields of a header section without stuffed dots, as they stand behind each other; what is no field is passed over."""
    return [Field(found[1].lower(), found[2]) for found in islice(_FIELD.finditer(head), at_most)]


def fields_named(head: bytes, *names: bytes, at_most: int | None = None) -> list[Field]:
    """Those of `read_fields` that have one of these names, given in lower case; what is passed over costs next to nothing."""
    return [Field(found[1].lower(), found[2]) for found in islice(_named(names).finditer(head), at_most)]


@lru_cache(8)
def _named(names: tuple[bytes, ...]) -> re.Pattern[bytes]:
    return re.compile(rb"^(%b)[ \t]*+:(%b)\r\n" % (b"|".join(map(re.escape, names)), _VALUE), re.IGNORECASE | re.MULTILINE)


def is_all_fields(head: bytes) -> bool:
    """Whether every line of a header section without stuffed dots begins a field or goes on with one (RFC 5322 section 2.2)."""
    return _FIELDS.fullmatch(head) is not None


def header_of(wire: bytes) -> bytes:
    """The header section at the front of a message in wire form, without its stuffed dots."""
    end = header_end(wire)
    return unstuff(wire if end < 0 else wire[: end + 2]) if end else b""
