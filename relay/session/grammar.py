"""The arguments of MAIL and RCPT, read strictly (RFC 5321 section 4.1.1, RFC 1870, 6152, 4954, 3461).

Promise: what is accepted has one meaning, and it is the one that is passed on; everything else gets the reply that says why.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from relay.mail.address import canonical, parse_path
from relay.mail.envelope import Recipient
from relay.mail.reply import Reply

SHOWN = 32
"""Characters of an unknown parameter's name that are said back: a command may be longer than a reply (RFC 5321 section 4.5.3.1.5)."""

_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9\-]*)(?:=([\x21-\x3c\x3e-\x7e]+))?")
_XTEXT = re.compile(r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})*")
_ORCPT = re.compile(r"[A-Za-z0-9\-]{1,64};(.+)")
_NOTIFY = frozenset({"SUCCESS", "FAILURE", "DELAY"})

# The forms almost every client sends, without parameters; what they do not match is read in full.
_PLAIN_PATH = re.compile(
    rb"(?i:FROM|TO):<(?=[^>]{,254}>)([A-Za-z0-9][A-Za-z0-9+_=\-]{0,63}@"
    rb"(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.){1,6}[A-Za-z]{2,24})>"
)


@dataclass(frozen=True, slots=True)
class Sender:
    """What MAIL said."""

    address: str
    size: int = 0
    body: str = ""
    ret: str = ""
    envid: str = ""


def parse_mail(argument: bytes, max_size: int) -> Sender | Reply:
    """Read `FROM:<reverse-path> parameters`."""
    if argument[:5].upper() == b"FROM:" and (found := _PLAIN_PATH.fullmatch(argument)):
        return Sender(found[1].decode("ascii"))
    path = _split(argument, b"FROM:", "1.7", "sender")
    if isinstance(path, Reply):
        return path
    address, given = path
    values: dict[str, str] = {}
    for name, value in given.items():
        match name, value:
            case "SIZE", str() if value.isdigit() and len(value) <= 20:
                if int(value) > max_size:
                    return Reply(552, "3.4", f"Message size {value} exceeds the limit of {max_size} octets")
            case "BODY", str() if value.upper() in ("7BIT", "8BITMIME"):
                values["body"] = value.upper()
            case "RET", str() if value.upper() in ("FULL", "HDRS"):
                values["ret"] = value.upper()
            case "ENVID", str() if len(value) <= 100 and _XTEXT.fullmatch(value):
                values["envid"] = value
            case "AUTH", str() if value == "<>" or _XTEXT.fullmatch(value):
                pass  # RFC 4954 section 5: accepted from every client, trusted from none
            case (("SIZE" | "BODY" | "RET" | "ENVID" | "AUTH"), _):
                return Reply(501, "5.4", f"Bad value of {name}")
            case _:
                return Reply(555, "5.4", f"{name[:SHOWN]}: parameter not supported")
    size = given.get("SIZE")
    return Sender(address, size=int(size) if size else 0, **values)


def parse_rcpt(argument: bytes) -> Recipient | Reply:
    """Read `TO:<forward-path> parameters`."""
    if argument[:3].upper() == b"TO:" and (found := _PLAIN_PATH.fullmatch(argument)):
        return Recipient(found[1].decode("ascii"))
    path = _split(argument, b"TO:", "1.3", "recipient")
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
            case "ORCPT", str() if len(value) <= 500 and (parts := _ORCPT.fullmatch(value)) and _XTEXT.fullmatch(parts[1]):
                orcpt = value
            case (("NOTIFY" | "ORCPT"), _):
                return Reply(501, "5.4", f"Bad value of {name}")
            case _:
                return Reply(555, "5.4", f"{name[:SHOWN]}: parameter not supported")
    return Recipient(address, notify, orcpt)


def _split(argument: bytes, keyword: bytes, detail: str, what: str) -> tuple[str, dict[str, str | None]] | Reply:
    """Path and parameters of either command; parameter names in upper case, values as sent."""
    if argument[: len(keyword)].upper() != keyword:
        return Reply(501, "5.4", f"Syntax: {keyword.decode()}<address>")
    try:
        text = argument[len(keyword) :].lstrip(b" ").decode("ascii")
    except UnicodeDecodeError:
        return Reply(553, "6.7", f"Non-ASCII {what} address: SMTPUTF8 is not offered")
    path = parse_path(text.rstrip(" "))
    if path is None:
        return Reply(501, detail, f"Bad {what} address syntax")
    given: dict[str, str | None] = {}
    for word in filter(None, path[1].split(" ")):
        found = _PARAMETER.fullmatch(word)
        if found is None:
            return Reply(501, "5.4", "Bad parameter syntax")
        name = found[1].upper()
        if name in given:
            return Reply(501, "5.4", f"{name[:SHOWN]}: given twice")
        given[name] = found[2]
    return path[0], given


def _is_notify(value: str) -> bool:
    """NEVER alone, or distinct others (RFC 3461 section 4.1)."""
    words = value.split(",")
    return value == "NEVER" or (len(words) == len(set(words)) and set(words) <= _NOTIFY)


def same_mailbox(a: Recipient, b: Recipient) -> bool:
    """Whether two recipients are one mailbox, which is counted and sent to once."""
    return canonical(a.address) == canonical(b.address)
