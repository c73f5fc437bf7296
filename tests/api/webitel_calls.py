"""What the tests of the Webitel calls have in common: a setting, and who is signed in."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.api.conftest import House, Tenant

SETTINGS = "/api/v2/email/settings"
DOMAIN = "my.webitel.com"
PASSWORD = "itte574dsts485"
WRITTEN: dict[str, Any] = {
    "provider": "smtp",
    "description": "My Setting",
    "from": f"my@{DOMAIN}",
    "options": {
        "host": "m.webitel.com", "port": 465, "secure": True, "debug": False, "tls": {"rejectUnauthorized": False},
        "auth": {"user": "my@webitel.com", "pass": PASSWORD},
    },
}  # fmt: skip
HERE = {"domain": DOMAIN}


def error(info: str, code: str = "") -> bytes:
    return json.dumps({"status": "error", "info": info, **({"code": code} if code else {})}, separators=(",", ":")).encode()


async def signed_in(house: House, tenant: Tenant) -> dict[str, str]:
    owner = await house.registry.find_owner(tenant.owner_id)
    assert owner is not None
    session = await house.rooms.tokens.open_session(owner)
    return {"X-Access-Token": session.token, "X-Key": session.key}


async def put(page: httpx.AsyncClient, **changed: Any) -> dict[str, Any]:
    answer = await page.post(SETTINGS, params=HERE, json={**WRITTEN, **changed})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found
