"""DKIM signatures (RFC 6376, RFC 8463 for Ed25519) over a message in wire form; pure.

Promises: the message itself is not altered, nor copied whole; header and body are canonicalised `relaxed`, which the usual changes on
the way survive; no length is given (`l=`), so nothing can be put behind what was signed, and From is named once more than it stands
there, so none can be put beside it (RFC 6376 sections 8.2 and 8.15).

Why it is written here: the packages for DKIM compute RSA in Python, which holds up all sessions for ten milliseconds a message. The body is
taken in strides, each of them canonicalised by searches for fixed octets: a regular expression takes twenty times as long.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from relay.mail.field import Field, body_start, header_end, header_of, read_fields

PrivateKey = RSAPrivateKey | Ed25519PrivateKey

SIGNED = (
    b"from", b"to", b"cc", b"subject", b"date", b"message-id", b"sender", b"reply-to", b"in-reply-to", b"references", b"mime-version",
    b"content-type", b"content-transfer-encoding", b"list-id", b"list-help", b"list-subscribe", b"list-unsubscribe",
    b"list-unsubscribe-post", b"list-post", b"list-owner", b"list-archive",
)  # fmt: skip
"""The fields that are signed as often as they stand there (RFC 6376 section 5.4.1): what readers and their programs go by."""
MAX_SECTION = 65_536
"""Octets of a header section that is signed."""
MAX_FIELDS = 1000
"""Fields of a header section that is signed."""
MAX_NAMES = 200
"""Names that `h=` lists: the signature must not be what makes a header section too long."""
STRIDE = 65_536
"""Octets of a body that are canonicalised in one go."""
WIDTH = 72

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")
_WHITE = re.compile(rb"[ \t]+")


class Unsignable(Exception):
    """There is no signature to be had with this key or under this name."""


class TooLarge(Exception):
    """The header section has more than is signed."""


@lru_cache(1024)
def read_key(pem: str) -> PrivateKey:
    """The key of a PEM text, kept for the next message; raises Unsignable, without a word of the key.

    That an RSA key is a sound one is not proven here, which takes 50 ms to 400 ms: that was done when it was set.
    """
    try:
        key = load_pem_private_key(pem.encode(), None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Unsignable("not a private key in PEM, without a passphrase") from None
    if not isinstance(key, RSAPrivateKey | Ed25519PrivateKey):
        raise Unsignable("the key is neither of RSA nor of Ed25519")
    return key


def sign(prefix: bytes, wire: bytes, domain: str, selector: str, key: PrivateKey, at: int) -> bytes:
    """The DKIM-Signature field of a message, with its CRLF, to stand before `prefix`; `at` in seconds of Unix time.

    `prefix` has whole fields, and behind them an empty line if the wire form begins with the body. Raises Unsignable for names that
    cannot stand in the DNS, and for a key that does not sign; TooLarge, before the body is looked at, for a header section above a bound.
    """
    if not (_NAME.fullmatch(domain) and _NAME.fullmatch(selector)):
        raise Unsignable("a domain or selector that cannot stand in the DNS")
    is_headless = prefix.endswith(b"\r\n\r\n")
    names, chosen = _choose(read_fields(prefix) + ([] if is_headless else _fields_of(wire)))
    kind = "rsa" if isinstance(key, RSAPrivateKey) else "ed25519"
    body = base64.b64encode(hash_body(wire, 0 if is_headless else body_start(wire))).decode("ascii")
    value = (
        f" v=1; a={kind}-sha256; c=relaxed/relaxed; t={at};\r\n\td={domain};\r\n\ts={selector};\r\n"
        f"\th={_fold(names)};\r\n\tbh={body};\r\n\tb="
    ).encode("ascii")
    signed = chosen + b"dkim-signature:" + _relax(value)
    try:
        # RFC 8463 section 3: what Ed25519 signs is the digest.
        made = key.sign(signed, PKCS1v15(), SHA256()) if isinstance(key, RSAPrivateKey) else key.sign(hashlib.sha256(signed).digest())
    except (ValueError, UnsupportedAlgorithm, InternalError):
        raise Unsignable("the key does not sign") from None
    text = base64.b64encode(made)
    lines = [text[start : start + WIDTH] for start in range(0, len(text), WIDTH)]
    return b"DKIM-Signature:" + value + b"\r\n\t".join(lines) + b"\r\n"


def _choose(fields: Sequence[Field]) -> tuple[list[str], bytes]:
    """The names that `h=` lists, and the fields in that order as they are signed: of one name the lowest first (section 5.4.2)."""
    by_name: dict[bytes, list[bytes]] = {name: [] for name in SIGNED}
    for field in fields:
        if field.name in by_name:
            by_name[field.name].append(field.value)
    names, chosen = [], []
    for name, values in by_name.items():
        names += [name.decode("ascii")] * (len(values) + (name == b"from"))
        chosen += [b"%b:%b\r\n" % (name, _relax(value)) for value in reversed(values)]
    if len(names) > MAX_NAMES:
        raise TooLarge
    return names, b"".join(chosen)


def is_too_long(wire: bytes) -> bool:
    """Whether the header section at the front of a message in wire form has more octets than are signed."""
    return header_end(wire, MAX_SECTION + 2) < 0 and len(wire) > MAX_SECTION


def _fields_of(wire: bytes) -> list[Field]:
    """All fields of the message's own header section."""
    if is_too_long(wire) or len(fields := read_fields(header_of(wire), MAX_FIELDS + 1)) > MAX_FIELDS:
        raise TooLarge
    return fields


def _relax(value: bytes) -> bytes:
    """A field's value, canonicalised (section 3.4.2)."""
    return _WHITE.sub(b" ", value.replace(b"\r\n", b"")).strip(b" ")


def _fold(names: list[str]) -> str:
    """A list of names in lines of bearable length."""
    lines, line = [], ""
    for name in names:
        if len(line) + len(name) > WIDTH:
            lines.append(line)
            line = ""
        line += f"{name}:"
    return "\r\n\t".join([*lines, line])[:-1]


# -- the body ----------------------------------------------------------------------------------------------------------------


def hash_body(wire: bytes, start: int, stride: int = STRIDE) -> bytes:
    """SHA-256 of the body of a message in wire form, which begins at `start`, canonicalised (section 3.4.4).

    What is handed from one stride to the next is how many lines have ended behind its last text, and what may be part of one more.
    """
    digest = hashlib.sha256()
    view = memoryview(wire)
    ends, rest, is_begun, is_new_line = 0, b"", False, True
    for begin in range(start, len(view), stride):
        data = rest + bytes(view[begin : begin + stride])
        text = data.rstrip(b" \t\r\n")
        white = _squeeze(data[len(text) :])
        if is_new_line and text.startswith(b"."):
            text = text[1:]
        plain = _squeeze(text)
        kept = plain.rstrip(b"\r\n")  # it ends so only where a dot was all of the last line
        if kept:
            while ends:
                digest.update(b"\r\n" * (some := min(ends, STRIDE)))
                ends -= some
            digest.update(kept)
            is_begun = True
        ends += (len(plain) - len(kept)) // 2 + white.count(b"\r\n")
        rest, is_new_line = white[white.rfind(b"\n") + 1 :], data.endswith(b"\r\n")
    if is_begun:
        digest.update(b"\r\n")
    return digest.digest()


def _squeeze(text: bytes) -> bytes:
    """One space for white space within lines, none at their ends, no stuffed dots. It begins and ends with what is none of it."""
    if b"\t" in text:
        text = text.replace(b"\t", b" ")
    while b"  " in text:
        text = text.replace(b"  ", b" ")
    return text.replace(b" \r\n", b"\r\n").replace(b"\r\n.", b"\r\n")
