"""TLS session tickets that every worker of a node understands, so that a client's next connection need not meet the same worker.

Promises: the processes that were given the same Tickets use the same keys at the same time; keys change every PERIOD and cannot be
reckoned back, so a stolen one opens no session of an earlier period; another certificate has other keys, so that a resumed session
never stands for a certificate that was replaced. Nothing is written anywhere.

Python has no door to the keys (SSL_CTX_set_tlsext_ticket_keys): the pointer to OpenSSL's context is read from Python's object, where
CPython 3.11 to 3.13 keep it first, and only there. `are_shared` proves the whole by a session of one context that another resumes.
Where any of this is not so, each worker keeps the keys that OpenSSL has drawn for it: then only its own sessions are resumed.
"""

from __future__ import annotations

import _ssl
import ctypes
import secrets
import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PERIOD = 12 * 3600
"""Seconds for which keys hold; a session of TLS 1.3 may be resumed for two hours (OpenSSL's default)."""
_GET_TICKET_KEYS, _SET_TICKET_KEYS = 58, 59
"""What SSL_CTX_ctrl(3) calls them (openssl/ssl.h); unchanged since OpenSSL 0.9.8."""


@dataclass(slots=True)
class Tickets:
    """The secret of the present period; each process has its own copy and moves it on by the clock that all of them share."""

    secret: bytes
    period: int

    @classmethod
    def fresh(cls) -> Tickets:
        """Those of a relay that starts."""
        return cls(secrets.token_bytes(32), _period())

    def move_on(self) -> bool:
        """Come to the present period; whether it is another than before."""
        is_new = self.period < (now := _period())
        while self.period < now:
            self.secret = _derive(self.secret, b"next", 32)
            self.period += 1
        return is_new

    def give(self, context: ssl.SSLContext, certificate: bytes) -> bool:
        """Give a context the keys of the present period and of its certificate (anything that names it); whether it took them."""
        self.move_on()
        if (library := _library()) is None:
            return False
        pointer = ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value
        length = library(pointer, _GET_TICKET_KEYS, 0, None)
        if not 16 < length < 1024:
            return False
        keys = _derive(self.secret, b"keys" + certificate, length)
        return library(pointer, _SET_TICKET_KEYS, length, keys) == 1

    def are_shared(self, build: Callable[[], ssl.SSLContext]) -> bool:
        """Whether of two contexts with the same certificate one resumes a session of the other."""
        one, other = build(), build()
        if not (self.give(one, b"") and self.give(other, b"")):
            return False
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False  # it asks itself, in memory, and whether its certificate is good is not the question
        client.verify_mode = ssl.CERT_NONE
        try:
            return _shake(other, client, _shake(one, client, None).session).session_reused is True
        except OSError:  # ssl.SSLError is one
            return False


def _shake(server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLObject:
    """A handshake in memory; returns the client's side, which has got its ticket."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    there = server.wrap_bio(up, down, server_side=True)
    here = client.wrap_bio(down, up, session=session)
    for side in (here, there) * 3:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    there.write(b"x")  # behind the tickets of TLS 1.3
    here.read(1)
    return here


def _library() -> Callable[..., int] | None:
    """OpenSSL's SSL_CTX_ctrl, the very one that Python's ssl uses; None where its contexts cannot be reached as assumed."""
    is_known = sys.implementation.name == "cpython" and (3, 11) <= sys.version_info[:2] <= (3, 13)
    if not is_known or not ssl.OPENSSL_VERSION.startswith("OpenSSL ") or not hasattr(_ssl, "__file__"):
        return None
    try:
        control = ctypes.CDLL(_ssl.__file__).SSL_CTX_ctrl
    except (OSError, AttributeError):
        return None
    control.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_char_p]
    control.restype = ctypes.c_long
    return control


def _period() -> int:
    """The number of the present period: CLOCK_MONOTONIC is one clock for all processes, and is never set."""
    return int(time.monotonic() // PERIOD)


def _derive(secret: bytes, purpose: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, None, purpose).derive(secret)
