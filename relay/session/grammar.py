"""The arguments of MAIL and RCPT, read strictly (RFC 5321 section 4.1.1, RFC 1870, 6152, 4954, 3461, 6531, 6533).

Promise: what is accepted has one meaning, and it is the one that is passed on; everything else gets the reply that says why.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from relay.mail.address import is_qualified, parse_path
from relay.mail.envelope import Recipient
from relay.mail.reply import Reply
from relay.mail.unitext import KIND, is_unitext

SHOWN = 32
"""Characters of an unknown parameter's name that are said back: a command may be longer than a reply (RFC 5321 section 4.5.3.1.5)."""

LONGEST_PLAIN = 264
"""Octets of the longest path without parameters, with its keyword."""

_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9\-]*)(?:=([\x21-\x3c\x3e-\x7e\x80-\U0010ffff]+))?")
_XTEXT = re.compile(r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})*")
_PRINTABLE = re.compile(r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+(?:[2-6][0-9A-F]|7[0-9A-E]))*")
"""Xtext of what a report can repeat (RFC 3461 sections 4.2 and 4.4)."""
_ORCPT = re.compile(r"([A-Za-z0-9\-]{1,64});(.+)")
LONGEST_ORCPT = 500
"""Octets (RFC 3461 section 5 makes room for so many)."""
_NOTIFY = frozenset({"SUCCESS", "FAILURE", "DELAY"})

# The forms almost every client sends, without parameters; what they do not match is read in full.
_PLAIN_PATH = re.compile(
    rb"(?i:FROM|TO):<(?=[^>]{,254}>)([A-Za-z0-9][A-Za-z0-9+_=\-]{0,63}@"
    rb"(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.){1,6}[A-Za-z]{2,24})>"
)


class Sender(NamedTuple):
    """What MAIL said."""

    address: str
    size: int = 0
    body: str = ""
    ret: str = ""
    envid: str = ""
    smtputf8: bool = False


# Applications name the same addresses again and again. What is remembered is of all connections: some hundred KB.


@lru_cache(1024)
def _plain_sender(argument: bytes) -> Sender | None:
    found = _PLAIN_PATH.fullmatch(argument) if argument[:5].upper() == b"FROM:" else None
    return Sender(found[1].decode("ascii")) if found else None


@lru_cache(1024)
def _plain_recipient(argument: bytes) -> Recipient | None:
    found = _PLAIN_PATH.fullmatch(argument) if argument[:3].upper() == b"TO:" else None
    return Recipient(found[1].decode("ascii")) if found else None


def parse_mail(argument: bytes, max_size: int) -> Sender | Reply:
    """Read `FROM:<reverse-path> parameters`; whether the path may have UTF-8 in it, its own parameters say."""
    plain, _, rest = argument.partition(b" ")
    sender = _plain_sender(plain) if len(plain) <= LONGEST_PLAIN else None
    if sender is not None and not rest:
        return sender
    is_utf8 = b"SMTPUTF8" in argument.upper().split(b" ")
    if sender is not None:
        parameters = _parameters(rest.decode("utf-8", "surrogateescape"), is_utf8)
        path = parameters if isinstance(parameters, Reply) else (sender.address, parameters)
    else:
        path = _split(argument, b"FROM:", "1.7", "sender", is_utf8)
    if isinstance(path, Reply):
        return path
    address, given = path
    if not address.isascii() and "SMTPUTF8" not in given:  # the word stood within the path
        return _not_ascii("sender")
    size, values = 0, {"body": "", "ret": "", "envid": ""}
    for name, value in given.items():
        match name, value:
            case "SIZE", str() if value.isdigit() and len(value) <= 20:
                size = int(value)
                if size > max_size:
                    return Reply(552, "3.4", f"Message size {value} exceeds the limit of {max_size} octets")
            case "BODY", str() if value.upper() in ("7BIT", "8BITMIME"):
                values["body"] = value.upper()
            case "BODY", str() if value.upper() == "BINARYMIME":  # RFC 3030 section 3: only where it is offered
                return Reply(555, "5.4", "BODY=BINARYMIME: not offered here")
            case "RET", str() if value.upper() in ("FULL", "HDRS"):
                values["ret"] = value.upper()
            case "ENVID", str() if len(value) <= 100 and _PRINTABLE.fullmatch(value):
                values["envid"] = value
            case "AUTH", str() if value == "<>" or _XTEXT.fullmatch(value):
                pass  # RFC 4954 section 5: accepted from every client, trusted from none
            case "SMTPUTF8", None:
                pass
            case (("SIZE" | "BODY" | "RET" | "ENVID" | "AUTH" | "SMTPUTF8"), _):
                return Reply(501, "5.4", f"Bad value of {name}")
            case _:
                return Reply(555, "5.4", f"{name[:SHOWN]}: parameter not supported")
    return Sender(address, size, smtputf8="SMTPUTF8" in given, **values)


def parse_rcpt(argument: bytes, smtputf8: bool = False) -> Recipient | Reply:
    """Read `TO:<forward-path> parameters`; with `smtputf8`, which MAIL asked for, there may be UTF-8 in it."""
    if len(argument) <= LONGEST_PLAIN and (recipient := _plain_recipient(argument)):
        return recipient
    path = _split(argument, b"TO:", "1.3", "recipient", smtputf8)
    if isinstance(path, Reply):
        return path
    address, given = path
    if not address:
        return Reply(501, "1.3", "The null path cannot be a recipient")
    notify = orcpt = ""
    for name, value in given.items():
        match name, value:
            case "NOTIFY", str() if _is_notify(value.upper()):
                notify = value.upper()
            case "ORCPT", str() if _is_orcpt(value):
                orcpt = value
            case (("NOTIFY" | "ORCPT"), _):
                return Reply(501, "5.4", f"Bad value of {name}")
            case _:
                return Reply(555, "5.4", f"{name[:SHOWN]}: parameter not supported")
    return Recipient(address, notify, orcpt)


def _split(argument: bytes, keyword: bytes, detail: str, what: str, is_utf8: bool) -> tuple[str, dict[str, str | None]] | Reply:
    """Path and parameters of either command; parameter names in upper case, values as sent. Only ORCPT's has UTF-8, if any has."""
    if argument[: len(keyword)].upper() != keyword:
        return Reply(501, "5.4", f"Syntax: {keyword.decode()}<address>")
    # What is no UTF-8 becomes surrogates, which no address and no value may have.
    text = argument[len(keyword) :].strip(b" ").decode("utf-8", "surrogateescape")
    path = parse_path(text, not text.isascii())
    if path is None:
        return Reply(501, detail, f"Bad {what} address syntax") if is_utf8 or text.isascii() else _not_ascii(what)
    if not is_utf8 and not path[0].isascii():
        return _not_ascii(what)
    if path[0] and not is_qualified(path[0]):
        return Reply(554, "1.8" if what == "sender" else "1.2", f"The {what}'s domain is not fully qualified")  # RFC 6409 section 4.2
    given = _parameters(path[1], is_utf8)
    return given if isinstance(given, Reply) else (path[0], given)


def _parameters(text: str, is_utf8: bool) -> dict[str, str | None] | Reply:
    """What stands behind a path."""
    given: dict[str, str | None] = {}
    for word in filter(None, text.split(" ")):
        found = _PARAMETER.fullmatch(word)
        if found is None:
            return Reply(501, "5.4", "Bad parameter syntax")
        name = found[1].upper()
        if name in given:
            return Reply(501, "5.4", f"{name[:SHOWN]}: given twice")
        if not word.isascii() and not (is_utf8 and name == "ORCPT"):
            return Reply(501, "5.4", "Bad parameter syntax")
        given[name] = found[2]
    return given


def _not_ascii(what: str) -> Reply:
    """An address that needs SMTPUTF8, which MAIL did not ask for (RFC 6531 section 3.5)."""
    return Reply(553, "6.7", f"Non-ASCII {what} address without SMTPUTF8")


def _is_orcpt(value: str) -> bool:
    """A type and an address in the spelling of that type (RFC 3461 section 4.2, RFC 6533 section 3)."""
    found = _ORCPT.fullmatch(value)
    if found is None or len(value.encode("utf-8", "surrogateescape")) > LONGEST_ORCPT:
        return False
    return is_unitext(found[2]) if found[1].lower() == KIND else _PRINTABLE.fullmatch(found[2]) is not None


def _is_notify(value: str) -> bool:
    """NEVER alone, or distinct others (RFC 3461 section 4.1)."""
    words = value.split(",")
    return value == "NEVER" or (len(words) == len(set(words)) and set(words) <= _NOTIFY)


_CHUNK = re.compile(rb"([0-9]{1,19})(?: +([Ll][Aa][Ss][Tt]))? *")


def parse_bdat(argument: bytes) -> tuple[int, bool] | None:
    """Read `size [LAST]` (RFC 3030 section 2): the octets of the chunk, and whether it is the last; None is a syntax error."""
    found = _CHUNK.fullmatch(argument)
    return (int(found[1]), found[2] is not None) if found else None
