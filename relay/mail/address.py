"""Mailboxes as RFC 5321 section 4.1.2 writes them, read strictly.

Promise: what is accepted here goes to the smarthost byte for byte and means the same mailbox there; everything else is refused,
never repaired. The one exception is a source route, which is dropped (RFC 5321 appendix C).
"""

from __future__ import annotations

import ipaddress
import re

MAX_LOCAL = 64
MAX_DOMAIN = 255
MAX_PATH = 256
"""Octets (RFC 5321 section 4.5.3.1)."""

_ATOM = r"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]+"
_QUOTED = r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\[\x20-\x7e])*"'
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
_LITERAL = r"\[[0-9A-Za-z:.\-]{1,100}\]"
_LOCAL = rf"(?:{_ATOM}(?:\.{_ATOM})*|{_QUOTED})"

_ROUTE = re.compile(rf"@{_DOMAIN}(?:,@{_DOMAIN})*:")
_MAILBOX = re.compile(rf"(?P<local>{_LOCAL})@(?P<domain>{_DOMAIN}|{_LITERAL})")
_PATH = re.compile(rf"<(?:{_ROUTE.pattern})?(?P<mailbox>{_MAILBOX.pattern})?>(?P<rest>(?: .*)?)")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")


def parse_path(text: str) -> tuple[str, str] | None:
    """Split `<mailbox> parameters` into (mailbox, parameters); ("", ...) is the null path, None a syntax error."""
    found = _PATH.fullmatch(text)
    if found is None:
        return None
    mailbox = found["mailbox"]
    if mailbox is None:
        # `<@route:>` is no path at all; only `<>` is null.
        return ("", found["rest"].strip(" ")) if text.startswith("<>") else None
    if not is_mailbox(mailbox):
        return None
    return mailbox, found["rest"].strip(" ")


def is_mailbox(text: str) -> bool:
    """Whether `text` is one Mailbox of RFC 5321 section 4.1.2, within its size limits."""
    found = _MAILBOX.fullmatch(text)
    if found is None or len(text) > MAX_PATH - 2:
        return False
    domain = found["domain"]
    if len(found["local"]) > MAX_LOCAL or len(domain) > MAX_DOMAIN:
        return False
    return not domain.startswith("[") or _is_literal(domain[1:-1])


def _is_literal(text: str) -> bool:
    try:
        if text.lower().startswith("ipv6:"):
            ipaddress.IPv6Address(text[5:])
        else:
            ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def canonical(mailbox: str) -> str:
    """What two spellings of one mailbox have in common: the domain's case does not count, the local part's does."""
    local, at, domain = mailbox.rpartition("@")
    return f"{local}{at}{domain.lower()}"


def is_user_name(text: str) -> bool:
    """Whether `text` may name an SMTP user: it stands inside a hash tag, so only letters, digits, dot, underscore and hyphen."""
    return _NAME.fullmatch(text) is not None
