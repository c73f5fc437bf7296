"""Keys that people bring along: those that would hold up everybody are refused, and told from good ones in no time."""

from __future__ import annotations

import base64
import time

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.key import load_key

QUICK = 1.0
"""Seconds; what is refused here took up to two minutes to be proven unfit."""


def der(tag: int, content: bytes) -> bytes:
    """One element (X.690)."""
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([0x80 | (size.bit_length() + 7) // 8]) + size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag]) + length + content


def pem_of(*numbers: int) -> str:
    """An RSA private key (RFC 8017 appendix A.1.2), whatever its numbers are worth."""
    content = b"".join(der(2, number.to_bytes(number.bit_length() // 8 + 1)) for number in (0, *numbers))
    text = base64.encodebytes(der(0x30, content)).decode()
    return f"-----BEGIN RSA PRIVATE KEY-----\n{text}-----END RSA PRIVATE KEY-----\n"


def made_of(p: int, q: int, e: int = 65537) -> str:
    """The key of two numbers."""
    d = pow(e, -1, (p - 1) * (q - 1))
    return pem_of(p * q, e, d, p, q, d % (p - 1), d % (q - 1), pow(q, -1, p))


def text_of(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> str:
    """As people bring it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize("exponents", [(4253, 4423), (9689, 9941), (2203, 2281), (1279, 127), (3217, 521)])
def test_a_key_of_known_primes_that_is_dear_to_sign_with_is_refused_at_once(exponents: tuple[int, int]) -> None:
    pem = made_of(*((1 << exponent) - 1 for exponent in exponents))
    began = time.monotonic()
    assert load_key(pem) is None
    assert time.monotonic() - began < QUICK  # by a wide margin: it is a matter of not beginning something


def test_keys_as_they_are_made_are_read() -> None:
    for key in (rsa.generate_private_key(65537, 1024), rsa.generate_private_key(3, 2048)):
        assert load_key(text_of(key)) is not None
    assert load_key(text_of(ec.generate_private_key(ec.SECP256R1()))) is not None
    assert load_key(text_of(ed25519.Ed25519PrivateKey.generate())) is not None


def test_numbers_that_do_not_belong_together_are_refused() -> None:
    numbers = rsa.generate_private_key(65537, 1024).private_numbers()
    n, e = numbers.public_numbers.n, numbers.public_numbers.e
    good = (n, e, numbers.d, numbers.p, numbers.q, numbers.dmp1, numbers.dmq1, numbers.iqmp)
    assert load_key(pem_of(*good)) is not None
    fat = 1 << 20_000
    for place in range(len(good)):
        assert load_key(pem_of(*(number + fat * (place == which) for which, number in enumerate(good)))) is None


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: base64.encodebytes(raw).decode()))
def test_what_is_no_key_is_none(text: str) -> None:
    assert load_key(text) is None
    assert load_key(f"-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n") is None
