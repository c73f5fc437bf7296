"""Private keys that people bring along: read without being proven, and held to what makes a signature cheap.

Promises: reading a key never takes longer than its text is long. Whether an RSA key is made of primes is not asked, for that takes minutes
with a key that was made to take them; what is refused is a key whose signature would.
"""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey | Ed448PrivateKey

MAX_PEM = 8192
"""Octets; one of RSA with 4096 bits takes 3,300."""
FEWEST_BITS, MOST_BITS = 1024, 4096
"""Of RSA: what a verifier must be able to check (RFC 8301 section 3.2)."""
_SPREAD = 16
"""Bits by which a prime may be longer than the half: a signature's cost grows with the longer one's."""
_LONGEST_EXPONENT = 33


def load_key(pem: str) -> PrivateKey | None:
    """The key of a PEM text without a passphrase; None for what is none, or would be dear to sign with."""
    if len(pem) > MAX_PEM:
        return None
    try:
        key = load_pem_private_key(pem.encode(), None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None  # no PEM; one with a passphrase; a curve that is not known here
    if isinstance(key, RSAPrivateKey):
        return key if _is_cheap(key) else None
    return key if isinstance(key, EllipticCurvePrivateKey | Ed25519PrivateKey | Ed448PrivateKey) else None


def _is_cheap(key: RSAPrivateKey) -> bool:
    if not FEWEST_BITS <= key.key_size <= MOST_BITS:
        return False
    private = key.private_numbers()
    n, e, longest = private.public_numbers.n, private.public_numbers.e, key.key_size // 2 + _SPREAD
    return (
        private.p * private.q == n
        and max(private.p.bit_length(), private.q.bit_length()) <= longest
        and 0 < private.dmp1 < private.p
        and 0 < private.dmq1 < private.q
        and 0 < private.iqmp < private.p
        and 0 < private.d < n
        and e % 2 == 1
        and 3 <= e < 1 << _LONGEST_EXPONENT
    )
