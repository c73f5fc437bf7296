"""Routes: the smarthosts that mail may go to, how each is reached, as whom, and within what bounds.

Promises: pure values; what is equal is one and the same smarthost, and shares its sessions; no secret stands in a repr.
"""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from relay.mail.key import load_key
from relay.upstream.resumption import ResumingContext

_KEY = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL)

Security = Literal["none", "opportunistic", "starttls", "tls"]
"""TLS: never; by STARTTLS where it is offered; by STARTTLS or not at all; from the first octet."""
MIN_RATE = 0.01
"""Messages a second; the waits of less would have no end."""


@dataclass(frozen=True, slots=True)
class Target:
    """One smarthost, and all that matters to a session with it; durations in seconds."""

    host: str
    port: int
    security: Security = "none"
    verify: bool = True
    """Whether the certificate must be its own, by an authority that is trusted."""
    ca_file: Path | None = None
    """The authorities, in a file of the operator's; None: the system's."""
    ca: str = ""
    """Authorities as PEM text, beside those: what an owner brings along, who names no file here."""
    identity: str = field(default="", repr=False)
    """Our own certificate and its key for this smarthost, as PEM text."""
    server_name: str = ""
    """The name its certificate must bear, and that is asked for; "" for `host`."""
    username: str = ""
    password: str = field(default="", repr=False)
    mechanism: Literal["", "plain", "login"] = ""
    """How to log in; "" for the first that is offered."""
    name: str = ""
    """What we call ourselves in EHLO; "" for the relay's host name."""
    timeout: float = 15.0
    """The longest wait for each reply."""
    connect_timeout: float = 15.0
    """The longest wait for a connection."""
    greeting_timeout: float = 15.0
    """The longest wait for its greeting."""
    max_connections: int = 20
    """Sessions of one process at a time."""
    max_idle: float = 20.0
    max_age: float = 600.0
    """After which a session is used no more."""
    max_messages: int = 1000
    """Messages on one session."""
    max_rate: float = 0.0
    """Messages a second, over all processes that share a store; 0.0: as many as there are."""
    down_seconds: float = 5.0
    """How long a smarthost that gave no session is left alone before one message tries again; doubled by each further failure; 0: never."""
    is_guarded: bool = False
    """An owner named it: it is dialled only where the guard lets owners go."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Choice:
    """A smarthost among those of a route."""

    target: Target
    priority: int = 0
    """The lowest comes first; the next only when none of it can be had."""
    weight: int = 1
    """Its share among those of the same priority."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where mail goes."""

    id: str
    """Of the owner's setting that it is of; "" for the relay's own."""
    choices: tuple[Choice, ...]
    """At least one."""

    def __str__(self) -> str:
        return ", ".join(str(choice.target) for choice in self.choices)


def only(target: Target, id: str = "") -> Route:
    """The route that has one smarthost."""
    return Route(id, (Choice(target),))


def tls_context(target: Target) -> ssl.SSLContext | None:
    """The TLS context of a smarthost, made once for all its sessions, which it takes up again; None without TLS.

    Raises OSError for authorities, or a certificate of our own, that cannot be read.
    """
    if target.security == "none":
        return None
    context = ResumingContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if target.ca_file is not None:
        context.load_verify_locations(cafile=target.ca_file)
    elif target.verify:
        context.load_default_certs()
    if target.ca:
        _load_authorities(context, target.ca)
    if not target.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if target.identity:
        if target.is_guarded:
            _check_keys(target.identity)
        _load_identity(context, target.identity)
    return context


def _load_authorities(context: ssl.SSLContext, pem: str) -> None:
    try:
        context.load_verify_locations(cadata=pem)
    except (TypeError, ValueError):  # not ASCII
        raise ssl.SSLError(1, "not PEM") from None


def _check_keys(pem: str) -> None:
    """See that a handshake with an owner's key takes no longer than with anybody's: it would hold up all sessions of this process."""
    if not all(load_key(found[0]) for found in _KEY.finditer(pem)):
        raise ssl.SSLError(1, "not a key of 4096 bits at most")


def _load_identity(context: ssl.SSLContext, pem: str) -> None:
    """A certificate and its key, which OpenSSL reads from files only: from one that is in memory and has no name."""
    try:
        handle = os.memfd_create("identity", os.MFD_CLOEXEC)
        with open(handle, "w+b") as file:  # noqa: PTH123 - no path
            file.write(pem.encode("ascii"))
            file.flush()
            # A key under a passphrase is refused: nobody is there to be asked for it.
            context.load_cert_chain(f"/proc/self/fd/{handle}", password="")
    except UnicodeEncodeError:
        raise ssl.SSLError(1, "not PEM") from None
