"""A route: which smarthost, how it is reached, as whom, and within what bounds."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Security = Literal["none", "starttls", "tls"]


@dataclass(frozen=True, slots=True)
class Route:
    """One smarthost; durations in seconds."""

    host: str
    port: int
    security: Security = "none"
    verify: bool = True
    ca_file: Path | None = None
    username: str = ""
    password: str = field(default="", repr=False)
    timeout: float = 15.0
    """The longest wait for a connection, and for each reply."""
    forward_deadline: float = 20.0
    """The longest a client waits for the whole attempt; for whoever sets the terms of one."""
    max_connections: int = 20
    """Sessions of one process at a time."""
    max_idle: float = 20.0
    max_messages: int = 1000
    """Messages on one session."""
    down_seconds: float = 5.0
    """How long a smarthost that gave no session is left alone before one message tries again; doubled by each further failure; 0: never."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def tls_context(route: Route) -> ssl.SSLContext | None:
    """The TLS context of a route, made once for all its sessions; None without TLS. Raises OSError for an unreadable CA file."""
    if route.security == "none":
        return None
    context = ssl.create_default_context(cafile=route.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not route.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
