"""What an owner's own call makes of his upstreams."""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.request
from typing import Any

from tests.running import Relay


async def set_upstream(relay: Relay, *ports: int, domain: str = "_default", **more: Any) -> str:
    """Have mail of a domain of the relay's owner go to ports of this machine, the first first; returns the id."""
    hosts = [{"host": "127.0.0.1", "port": port, "security": "none", "priority": place, **more} for place, port in enumerate(ports)]
    answer = await asyncio.to_thread(_call, relay, "PUT", domain, {"smarthosts": hosts})
    return str(json.loads(answer)["id"])


async def remove_upstream(relay: Relay, domain: str = "_default") -> None:
    """Remove it."""
    await asyncio.to_thread(_call, relay, "DELETE", domain, None)


def _call(relay: Relay, method: str, domain: str, body: Any) -> bytes:
    basic = base64.b64encode(f"{relay.owner}:{relay.token}".encode()).decode()
    headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    url = f"http://127.0.0.1:{relay.api}/api/v1/upstreams/{domain}"
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=40) as answer:
        found: bytes = answer.read()
        return found
