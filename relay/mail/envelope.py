"""The envelope of a message (RFC 5321 section 2.3.1), with the DSN wishes of RFC 3461 from the start."""

from __future__ import annotations

from typing import NamedTuple


class Recipient(NamedTuple):
    """One forward-path and what its sender asked to be told about it."""

    address: str
    notify: str = ""
    """NOTIFY as sent, upper-cased: "", "NEVER" or a comma list of SUCCESS, FAILURE, DELAY (RFC 3461 section 4.1)."""
    orcpt: str = ""
    """ORCPT as sent, spelled as its type is: in xtext (RFC 3461 section 4.2), of the type utf-8 in unitext (RFC 6533 section 3)."""


class Envelope(NamedTuple):
    """Who sends what to whom; `sender` is "" for the null reverse-path."""

    sender: str
    recipients: tuple[Recipient, ...]
    body: str = ""
    """BODY as declared: "", "7BIT" or "8BITMIME" (RFC 6152)."""
    ret: str = ""
    """RET: "", "FULL" or "HDRS" (RFC 3461 section 4.3)."""
    envid: str = ""
    """ENVID, still in xtext (RFC 3461 section 4.4)."""
    smtputf8: bool = False
    """SMTPUTF8 was asked for: addresses or header fields may be in UTF-8 (RFC 6531 section 3.4)."""
