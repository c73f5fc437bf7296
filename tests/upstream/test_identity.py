"""Our own certificate for a smarthost: an owner's key that would hold up every session of the process is not used."""

from __future__ import annotations

import ssl
from dataclasses import replace

import pytest
import trustme

from relay.upstream.route import Target, tls_context
from tests.mail.test_key import made_of

DEAR = made_of((1 << 9689) - 1, (1 << 9941) - 1)
"""A handshake with it takes a second, and nobody had to search for its primes."""


def test_an_owners_key_that_is_dear_to_sign_with_is_refused_before_openssl_sees_it(authority: trustme.CA) -> None:
    leaf = authority.issue_cert("relay.example")
    certificate, key = leaf.cert_chain_pems[0].bytes().decode(), leaf.private_key_pem.bytes().decode()
    target = Target("mail.example.com", 587, "starttls", identity=certificate + key, is_guarded=True)
    assert tls_context(target) is not None
    for identity in (certificate + DEAR, DEAR + certificate + key, certificate + key + DEAR, certificate + DEAR.replace("-----END", "")):
        with pytest.raises(ssl.SSLError, match="4096 bits"):
            tls_context(replace(target, identity=identity))
