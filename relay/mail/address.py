"""Mailboxes as RFC 5321 section 4.1.2 writes them, and with UTF-8 as RFC 6531 section 3.3 does, read strictly.

Promise: what is accepted here goes to the smarthost byte for byte and means the same mailbox there; everything else is refused,
never repaired. The one exception is a source route, which is dropped (RFC 5321 appendix C).

Of UTF-8, RFC 6531 lets a local part have anything. Here it is what people can see and no reader can take for syntax: nothing unprintable
(controls, spaces, line separators, marks of direction, what Unicode has not assigned), nothing that Unicode's compatibility forms turn into
a delimiter, no mark that could melt into one. A domain's labels are U-labels as far as Unicode's own tables can tell (RFC 5890 section
2.3.2.1); nothing is normalised here.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

MAX_LOCAL = 64
MAX_DOMAIN = 255
MAX_PATH = 256
"""Octets (RFC 5321 section 4.5.3.1), of UTF-8 too."""
MAX_LABEL = 63
"""Octets of a label as the DNS has it (RFC 1035 section 2.3.4)."""

_ROUTED = r"<(?:@{domain}(?:,@{domain})*:)?(?P<mailbox>{mailbox})?>(?P<rest>(?: .*)?)"
_LITERAL = r"\[[0-9A-Za-z:.\-]{1,100}\]"


def _ascii(these: str) -> str:
    """A class of these characters."""
    return f"[{these}]"


def _utf8(these: str) -> str:
    """A class of these characters and of all beyond ASCII. It names what is not in it: a range up to U+10FFFF takes ms to compile."""
    among = re.compile(_ascii(these))
    return "[^" + "".join(rf"\x{number:02x}" for number in range(128) if not among.match(chr(number))) + "]"


def _grammar(any_of: Callable[[str], str]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A mailbox and a path, with these classes of characters."""
    atom = any_of(r"A-Za-z0-9!#$%&'*+\-/=?^_`{|}~") + "+"
    quoted = '"(?:' + any_of(r"\x20\x21\x23-\x5b\x5d-\x7e") + r'|\\[\x20-\x7e])*"'
    letter, inner = any_of("A-Za-z0-9"), any_of(r"A-Za-z0-9\-")
    label = rf"{letter}(?:{inner}{{0,61}}{letter})?"
    domain = rf"{label}(?:\.{label})*"
    mailbox = rf"(?P<local>{atom}(?:\.{atom})*|{quoted})@(?P<domain>{domain}|{_LITERAL})"
    return re.compile(mailbox), re.compile(_ROUTED.format(domain=domain, mailbox=mailbox))


_ASCII, _UTF8 = _grammar(_ascii), _grammar(_utf8)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")

_DELIMITERS = frozenset('()<>[]:;@\\,." \t\r\n\0')
_JOINERS = "\u200c\u200d"
_VIRAMA = 9
"""Unicode's combining class of the signs after which a joiner changes how letters are written."""
_LETTERS = frozenset({"Ll", "Lo", "Lm", "Mn", "Mc", "Nd"})
_LETTERS_TOO = frozenset("\u00b7\u0375\u05f3\u05f4\u30fb\u06fd\u06fe\u0f0b\u3007")
"""What RFC 5892 section 2.6 admits beside them; that some need a neighbour of their script is left to who resolves the name."""


def parse_path(text: str, is_utf8: bool = False) -> tuple[str, str] | None:
    """Split `<mailbox> parameters` into (mailbox, parameters); ("", ...) is the null path, None a syntax error."""
    found = (_UTF8 if is_utf8 else _ASCII)[1].fullmatch(text)
    if found is None:
        return None
    mailbox = found["mailbox"]
    if mailbox is None:
        # `<@route:>` is no path at all; only `<>` is null.
        return ("", found["rest"].strip(" ")) if text.startswith("<>") else None
    if not is_mailbox(mailbox, is_utf8):
        return None
    return mailbox, found["rest"].strip(" ")


def is_mailbox(text: str, is_utf8: bool = False) -> bool:
    """Whether `text` is one Mailbox of RFC 5321 section 4.1.2, or of RFC 6531 section 3.3, within its size limits."""
    found = (_UTF8 if is_utf8 else _ASCII)[0].fullmatch(text)
    if found is None:
        return False
    local, domain = found["local"], found["domain"]
    if _octets(text) > MAX_PATH - 2 or _octets(local) > MAX_LOCAL or _octets(domain) > MAX_DOMAIN:
        return False
    if not text.isascii() and not (is_legible(text) and all(map(_is_label, domain.split(".")))):
        return False
    return not domain.startswith("[") or _is_literal(domain[1:-1])


def is_qualified(mailbox: str) -> bool:
    """Whether a mailbox's domain is a name of more than one label, or an address."""
    domain = mailbox.rpartition("@")[2]
    return "." in domain or domain.startswith("[")


def _octets(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _is_literal(text: str) -> bool:
    try:
        if text.lower().startswith("ipv6:"):
            ipaddress.IPv6Address(text[5:])
        else:
            ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


# -- beyond ASCII ------------------------------------------------------------------------------------------------------------


def is_legible(text: str) -> bool:
    """Whether what of a text is not ASCII is printable, and stays what it is and where it is for whoever normalises it."""
    before = ""
    for letter in text:
        if letter > "\x7f":
            if letter in _JOINERS:
                if not _joins(before, letter):
                    return False
            elif not letter.isprintable() or _DELIMITERS & set(unicodedata.normalize("NFKC", letter)):
                return False
            elif before < "\x80" and not before.isalnum() and unicodedata.category(letter).startswith("M"):
                return False  # on "<" or "=" it could become one character with it
        before = letter
    return True


def _joins(before: str, joiner: str) -> bool:
    """Whether a joiner makes a difference there (RFC 5892 appendix A): after a virama, or after an Arabic letter, to part it."""
    if not before:
        return False
    return unicodedata.combining(before) == _VIRAMA or (joiner == _JOINERS[0] and unicodedata.bidirectional(before) == "AL")


def _is_label(label: str) -> bool:
    """Whether a label that is not ASCII may be a U-label: letters, marks, digits, in the one form that they are resolved in."""
    if label.isascii():
        return True
    for letter in label:
        if letter > "\x7f" and letter not in _LETTERS_TOO and letter not in _JOINERS and unicodedata.category(letter) not in _LETTERS:
            return False  # no capitals: a U-label has none
    # Hyphens in these places are kept for A-labels (RFC 5891 section 4.2.3.1).
    return label[2:4] != "--" and unicodedata.normalize("NFKC", label) == label and len(a_label(label)) <= MAX_LABEL


def a_label(label: str) -> str:
    """A label as the DNS has it: of a U-label its A-label (RFC 5890 section 2.3.2.1), in lower case."""
    label = label.lower()
    return label if label.isascii() else "xn--" + label.encode("punycode").decode("ascii")


@lru_cache(1024)
def canonical(mailbox: str) -> str:
    """What two spellings of one mailbox have in common: the domain's case and its labels' form do not count, the local part's do."""
    local, at, domain = mailbox.rpartition("@")
    return f"{local}{at}{domain.lower() if domain.isascii() else '.'.join(map(a_label, domain.split('.')))}"


def is_user_name(text: str) -> bool:
    """Whether `text` may name an SMTP user: it stands inside a hash tag, so only letters, digits, dot, underscore and hyphen."""
    return _NAME.fullmatch(text) is not None
