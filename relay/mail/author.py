"""Who a message says it is from: the mailboxes in From and Sender (RFC 5322 sections 3.4 and 3.6.2), read strictly.

Promise: what is read has one meaning to every reader; what may be shown as one address and taken for another is not read at all. So there
are no groups, no routes, nothing empty in a list, and a name before "<" has no "@" outside of quotes. Borne with, because it is common
and hides nothing: dots and raw UTF-8 in a name, comments. No more is read than is judged in no time: nobody writes as a hundred.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from relay.mail.address import is_mailbox
from relay.mail.field import Field

MAX_MAILBOXES = 100
"""How many addresses are read of one message."""
MAX_OCTETS = 16_384
"""Octets of From and Sender that are read."""

_LETTERS = r"A-Za-z0-9!#$%&'*+\-/=?^_`{|}~.\x80-\U0010ffff"
_QUOTED = r'"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t\x20-\x7e])*+"'
_ADDRESS = rf"(?:[{_LETTERS}]++|{_QUOTED})@[{_LETTERS}:\[\]]++"
_MAILBOX = re.compile(
    rf"[ \t]*+(?:(?P<bare>{_ADDRESS})|(?:[{_LETTERS} \t]|{_QUOTED})*+<[ \t]*+(?P<angle>{_ADDRESS})[ \t]*+>)[ \t]*+(?P<end>,|\Z)"
)
_OUTSIDE = re.compile(rf"[^\"()]++|{_QUOTED}")
_INSIDE = re.compile(r"(?:[^()\\\x00-\x08\x0a-\x1f\x7f]|\\[\t\x20-\x7e])++")


def read_mailboxes(value: bytes) -> tuple[str, ...] | None:
    """The addresses of a field's value, in their order; None for what cannot be read, or is too many."""
    try:
        text = _without_comments(value.replace(b"\r\n", b"").decode())
    except UnicodeDecodeError:
        return None
    found: list[str] = []
    at = 0
    while text is not None and (match := _MAILBOX.match(text, at)):
        address = match["bare"] or match["angle"]
        if len(found) == MAX_MAILBOXES or not is_mailbox(address, not address.isascii()):
            return None
        found.append(address)
        if not match["end"]:
            return tuple(found)
        at = match.end()
    return None


def _without_comments(text: str) -> str | None:
    """The text with a space for each comment, however deep; None for one that does not end."""
    if "(" not in text and ")" not in text:
        return text
    kept: list[str] = []
    depth = at = 0
    while at < len(text):
        if match := (_INSIDE if depth else _OUTSIDE).match(text, at):
            kept.append(" " if depth else match[0])
            at = match.end()
            continue
        depth += {"(": 1, ")": -1}.get(text[at], -1 - depth)
        if depth < 0:
            return None
        kept.append(" ")
        at += 1
    return None if depth else "".join(kept)


def read_authors(fields: Sequence[Field]) -> tuple[str, ...] | None:
    """The addresses in From, and in Sender if there is one; None where From is missing, one is there twice, or cannot be read.

    What has too many octets or addresses is not read.
    """
    writers = [field.value for field in fields if field.name == b"from"]
    senders = [field.value for field in fields if field.name == b"sender"]
    if len(writers) != 1 or len(senders) > 1 or sum(map(len, writers + senders)) > MAX_OCTETS:
        return None
    authors = read_mailboxes(writers[0])
    if authors is None or not senders:
        return authors
    sender = read_mailboxes(senders[0])
    return authors + sender if sender is not None and len(sender) == 1 and len(authors) < MAX_MAILBOXES else None
