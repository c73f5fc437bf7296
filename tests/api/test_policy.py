"""Policies and signers on the native API, beside what cannot be read."""

from __future__ import annotations

import httpx

from tests.api.conftest import House, Tenant


async def test_what_is_written_beside_an_unreadable_record_is_answered(http: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    place = f"{{o:{tenant.owner_id}}}"
    await house.store.command("HSET", place, "out", "1")
    await house.store.command("HSET", f"{place}:settings", "secret.example", "damaged")
    body = {"senders": "domains", "allowed": ["B.example", "b.example"], "check_from": True}
    answer = await http.put("/api/v1/policy", json=body, auth=tenant.auth)
    assert (answer.status_code, answer.json()) == (200, {**body, "allowed": ["b.example"]})
    answer = await http.put("/api/v1/signers/B.example", json={"selector": "S1", "key": "generate ed25519"}, auth=tenant.auth)
    assert (answer.status_code, answer.json()["dns_name"]) == (200, "s1._domainkey.b.example")
    assert answer.headers["cache-control"] == "no-store"
    answer = await http.get("/api/v1/policy", auth=tenant.auth)
    assert answer.status_code == 500 and "secret.example" not in answer.text
