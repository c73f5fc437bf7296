"""A door: one listener as its sessions see it."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Door:
    """What is offered to who comes in by it."""

    port: int
    tls: Literal["none", "starttls", "implicit"] = "none"
    auth_without_tls: bool = False
    context: Callable[[], ssl.SSLContext] | None = None
    """The TLS context in force now; None without TLS."""
