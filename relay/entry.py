"""The way in as configured: the listeners' doors, their certificate, the files that connections need; settings to the session's words."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from relay.config import ConfigError
from relay.session.certificate import Certificate, CertificateUnusable, check_certificate
from relay.session.descriptors import make_room, shortage
from relay.session.door import Door
from relay.session.listener import bind
from relay.session.ticket import Tickets

if TYPE_CHECKING:
    from relay.config.settings import Settings


def open_certificate(settings: Settings, tickets: Tickets | None) -> Certificate | None:
    """The listeners' certificate, if one is configured; raises ConfigError."""
    tls = settings.smtp.tls
    try:
        return Certificate(tls.certificate, tls.key, tickets) if tls.certificate and tls.key else None
    except CertificateUnusable as error:
        raise ConfigError(f"smtp.tls: {error}") from None


def see_certificate(settings: Settings) -> None:
    """See that the certificate can be used; raises ConfigError."""
    tls = settings.smtp.tls
    try:
        if tls.certificate and tls.key:
            check_certificate(tls.certificate, tls.key)
    except CertificateUnusable as error:
        raise ConfigError(f"smtp.tls: {error}") from None


def open_doors(settings: Settings, ports: Sequence[int], certificate: Certificate | None) -> list[tuple[Door, socket.socket]]:
    """The doors of the listeners, each with its bound socket; raises ListenError."""
    context = certificate.context if certificate else None
    return [
        (Door(port, listen.tls, listen.auth_without_tls, context), bind(listen.address, port))
        for listen, port in zip(settings.smtp.listen, ports, strict=True)
    ]


def raise_file_limit(settings: Settings) -> None:
    """Let this process open as many files as its connections need, as far as it may."""
    make_room(settings.smtp.max_connections)


def file_shortage(settings: Settings) -> str | None:
    """One line if a worker may not open as many files as its connections need."""
    return shortage(settings.smtp.max_connections)
