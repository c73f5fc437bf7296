"""Signing keys: what a domain's mail is signed with, and the record by which the world checks it (RFC 6376, RFC 8463).

Promises: nothing here does I/O; no error shows a key.
"""

from __future__ import annotations

import base64
import re
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_pem_private_key

from relay.accounts.setting import Signer

Kind = Literal["rsa", "ed25519"]

_FEWEST, _MOST = 1024, 4096
"""Bits of RSA that a verifier must be able to check (RFC 8301 section 3.2)."""
_NEW = 2048
_SELECTOR = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*")
_MAX_SELECTOR = 120
_MAX_PEM = 16_384


def is_selector(text: str) -> bool:
    """Whether `text` may name one of a domain's keys (RFC 6376 section 3.1)."""
    return len(text) <= _MAX_SELECTOR and _SELECTOR.fullmatch(text) is not None


def new_key(kind: Kind) -> str:
    """A new private key, as PEM."""
    return _write(generate_private_key(65537, _NEW) if kind == "rsa" else Ed25519PrivateKey.generate())


def read_key(pem: str) -> str | None:
    """A private key as PKCS #8 in PEM, however it was written; None for what cannot sign mail."""
    key = _load(pem)
    return None if key is None else _write(key)


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
    if len(pem) > _MAX_PEM:
        return None
    try:
        key = load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None  # no PEM; one with a passphrase; a curve that is not known here
    if isinstance(key, RSAPrivateKey):
        return key if _FEWEST <= key.key_size <= _MOST else None
    return key if isinstance(key, Ed25519PrivateKey) else None


def _write(key: RSAPrivateKey | Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
