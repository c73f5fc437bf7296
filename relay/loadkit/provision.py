"""Users for a load, made through the relay's own HTTP door: the TES call addSmtp.

Promise: an answer that is no success is an error that says what was answered, and never the token.
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field


class ProvisionError(Exception):
    """A user could not be made."""


@dataclass(frozen=True, slots=True)
class Provision:
    """Which users to make."""

    api: str
    """Where the API is: `http://127.0.0.1:8025`."""
    owner_id: str
    token: str = field(repr=False)
    users: int = 1
    hourly: int = 1000
    total: int = 1_000_000


async def provision(wish: Provision, timeout: float = 30.0) -> list[tuple[str, str]]:
    """Make the users; returns their names and passwords. Raises ProvisionError."""
    return [await asyncio.to_thread(_add, wish, timeout) for _ in range(wish.users)]


def _add(wish: Provision, timeout: float) -> tuple[str, str]:
    if not wish.api.startswith(("http://", "https://")):
        raise ProvisionError(f"{wish.api}: not an http or https address")
    body = {"owner_id": wish.owner_id, "token": wish.token, "total_limit": wish.total, "hourly_limit": wish.hourly}
    request = urllib.request.Request(  # noqa: S310 - the scheme was looked at
        f"{wish.api.rstrip('/')}/v1.0/settings/addSmtp", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            raise ProvisionError(f"{wish.api}: {error.code} {error.read(300).decode('utf-8', 'replace')}") from None
    except (OSError, ValueError) as error:
        raise ProvisionError(f"{wish.api}: {error}") from None
    if not isinstance(answer, dict) or answer.get("status") != "success" or "smtp_password" not in answer:
        said = answer.get("message") if isinstance(answer, dict) else answer
        raise ProvisionError(f"{wish.api}: {said}")
    return answer["smtp_user_name"], answer["smtp_password"]
