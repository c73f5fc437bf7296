"""Signing keys: what a domain's mail is signed with, and the record by which the world checks it (RFC 6376, RFC 8463).

Promises: nothing here does I/O; no error shows a key.
"""

from __future__ import annotations

import base64
import re
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from relay.accounts.setting import Signer
from relay.mail.key import load_key

Kind = Literal["rsa", "ed25519"]

_NEW = 2048
_SELECTOR = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*")
_MAX_SELECTOR = 120


def is_selector(text: str) -> bool:
    """Whether `text` may name one of a domain's keys (RFC 6376 section 3.1)."""
    return len(text) <= _MAX_SELECTOR and _SELECTOR.fullmatch(text) is not None


def new_key(kind: Kind) -> str:
    """A new private key, as PEM."""
    return _write(generate_private_key(65537, _NEW) if kind == "rsa" else Ed25519PrivateKey.generate())


def read_key(pem: str) -> str | None:
    """A private key as PKCS #8 in PEM, however it was written; None for what cannot sign mail."""
    key = _load(pem)
    return None if key is None or not _is_sound(key) else _write(key)


def dns_record(signer: Signer) -> str:
    """The TXT record that belongs at `<selector>._domainkey.<domain>` (RFC 6376 section 3.6.1, RFC 8463 section 3); raises ValueError."""
    key = _load(signer.key)
    if key is None:
        raise ValueError("not a key that signs mail")
    if isinstance(key, RSAPrivateKey):
        kind, octets = "rsa", key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    else:
        kind, octets = "ed25519", key.public_key().public_bytes_raw()
    return f"v=DKIM1; k={kind}; p={base64.b64encode(octets).decode()}"


def _load(pem: str) -> RSAPrivateKey | Ed25519PrivateKey | None:
    key = load_key(pem)
    return key if isinstance(key, RSAPrivateKey | Ed25519PrivateKey) else None


def _is_sound(key: RSAPrivateKey | Ed25519PrivateKey) -> bool:
    """Whether what it signs can be checked: what takes less than a proof, and is all that matters."""
    said = b"relay"
    try:
        if isinstance(key, RSAPrivateKey):
            key.public_key().verify(key.sign(said, PKCS1v15(), SHA256()), said, PKCS1v15(), SHA256())
        else:
            key.public_key().verify(key.sign(said), said)
    except (InvalidSignature, ValueError):
        return False
    return True


def _write(key: RSAPrivateKey | Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
