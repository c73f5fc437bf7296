"""Where an owner can name a host, none of the operator's own network is dialled: by the Webitel, SuperOffice and native calls alike.

What must not be reached is there, on the port that is tried: it counts who comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import quote

import httpx
import pytest

from relay.upstream.guard import Guard
from tests.api.conftest import House, Tenant
from tests.api.webitel_calls import HERE, SETTINGS, put, signed_in
from tests.upstream.forbidden import LEADING_INSIDE, SPELLINGS

Door = Callable[[httpx.AsyncClient, House, Tenant, str, int], Awaitable[str]]


@dataclass
class Canary:
    """What listens inside."""

    port: int = 0
    visits: int = 0
    leads_to: str = "127.0.0.1"
    asked: list[str] = field(default_factory=list)

    async def look_up(self, host: str, port: int) -> list[str]:
        """A resolver that its owner controls: every name leads inside, or first to the open and then inside."""
        self.asked.append(host)
        return [self.leads_to]


@pytest.fixture
async def canary() -> AsyncIterator[Canary]:
    """On this host, at a port that is allowed."""
    found = Canary()

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.visits += 1
        writer.close()

    server = await asyncio.start_server(visit, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    yield found
    server.close()
    await server.wait_closed()


@pytest.fixture
def guard(canary: Canary) -> Guard:
    """No network is open."""
    return Guard([], [canary.port], lookup=canary.look_up)


async def by_webitel(http: httpx.AsyncClient, house: House, tenant: Tenant, host: str, port: int) -> str:
    """Write the setting, which is kept whatever it says, and test it."""
    headers = await signed_in(house, tenant)
    async with httpx.AsyncClient(base_url=http.base_url, timeout=30, headers=headers) as page:
        await put(page, options={"host": host, "port": port, "ignoreTLS": True})
        answer = await page.post(f"{SETTINGS}/test", params=HERE)
    assert answer.status_code == 500 and answer.json()["status"] == "error"
    return answer.text


async def by_superoffice(http: httpx.AsyncClient, house: House, tenant: Tenant, host: str, port: int) -> str:
    """Name it in an URI."""
    where = f"[{host}]" if ":" in host and not host.startswith("[") else quote(host, safe="[]:")
    asked = {"SmtpUri": f"smtp://{where}:{port}", "From": "a@b.example"}
    answer = await http.post("/api/v1/Agents/CustomerService/TestSmtpServer", auth=tenant.auth, json=asked)
    assert answer.status_code == 200 and answer.json()["Success"] is False, answer.text
    return answer.text


async def by_native(http: httpx.AsyncClient, house: House, tenant: Tenant, host: str, port: int) -> str:
    """Write it, which may be refused already, and test it."""
    written = await http.put(
        "/api/v1/upstreams/b.example", auth=tenant.auth, json={"smarthosts": [{"host": host, "port": port, "security": "none"}]}
    )
    if written.status_code == 400:
        return written.text
    assert written.status_code in (200, 201), written.text
    answer = await http.post("/api/v1/upstreams/b.example/test", auth=tenant.auth, json={})
    assert answer.status_code == 200 and not any(found["success"] for found in answer.json()["results"]), answer.text
    return answer.text


@pytest.mark.parametrize("door", [by_webitel, by_superoffice, by_native])
async def test_no_spelling_of_a_host_of_ours_is_dialled(
    http: httpx.AsyncClient, house: House, tenant: Tenant, canary: Canary, door: Door
) -> None:
    for host in SPELLINGS:
        said = await door(http, house, tenant, host, canary.port)
        assert "refuses the connection" not in said, (host, said)  # nobody was asked
    assert canary.visits == 0
    assert not set(canary.asked) & set(SPELLINGS)  # nor was a resolver


@pytest.mark.parametrize("door", [by_webitel, by_superoffice, by_native])
async def test_no_name_that_leads_inside_is_dialled(
    http: httpx.AsyncClient, house: House, tenant: Tenant, canary: Canary, door: Door
) -> None:
    texts = set()
    for address in LEADING_INSIDE:
        canary.leads_to = address
        texts.add((await door(http, house, tenant, "innocent.example", canary.port)).replace(str(canary.port), "?"))
    assert canary.visits == 0
    assert len(canary.asked) == len(LEADING_INSIDE)
    assert len(texts) == 1, texts  # nothing is told of where it leads
