r"""Addresses of the type `utf-8` in parameters and report fields (RFC 6533 section 3).

There are two spellings: unitext, which may have UTF-8 in it, and xtext, all ASCII, with `\x{NN}` for the rest. They are not the xtext of
RFC 3461, whose `+NN` is of octets.
"""

from __future__ import annotations

import re

from relay.mail.address import is_legible

KIND = "utf-8"
"""The address type."""

_EMBEDDED = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")
_UNITEXT = re.compile(r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x5b\x5d-\x7e\x80-\U0010ffff]|\\x\{[0-9A-Fa-f]{2,6}\})+")
_BEYOND = re.compile(r"[^\x00-\x7f]")
_SPECIAL = re.compile(r"[^\x21-\x2a\x2c-\x3c\x3e-\x5b\x5d-\x7e]")


def is_unitext(text: str) -> bool:
    """Whether a text is an address so spelled; xtext is, too. What cannot be seen may stand in it only as `\\x{NN}`."""
    if _UNITEXT.fullmatch(text) is None or not is_legible(text):
        return False
    return all(_is_scalar(int(point, 16)) for point in _EMBEDDED.findall(text))


def _is_scalar(point: int) -> bool:
    return 0 < point <= 0x10FFFF and not 0xD800 <= point <= 0xDFFF


def spell(address: str) -> str:
    """An address in xtext."""
    return _SPECIAL.sub(_embed, address)


def to_ascii(text: str) -> str:
    """Unitext in xtext."""
    return _BEYOND.sub(_embed, text)


def _embed(found: re.Match[str]) -> str:
    return f"\\x{{{ord(found[0]):02X}}}"


def read(text: str) -> str:
    """What is spelled so, as far as it is printable; the rest stays as it is spelled."""
    return _EMBEDDED.sub(_unfold, text)


def _unfold(found: re.Match[str]) -> str:
    point = int(found[1], 16)
    letter = chr(point) if _is_scalar(point) else ""
    return letter if letter and letter.isprintable() else found[0]
