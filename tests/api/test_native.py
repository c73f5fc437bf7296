"""The relay's own routes, health and the description of the API."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.conftest import House, Tenant
from tests.talking import generation_of

LIMITS = {"hourly_limit": 10, "total_limit": None}


async def made(http: httpx.AsyncClient, tenant: Tenant, **limits: Any) -> dict[str, Any]:
    answer = await http.post("/api/v1/users", json={**LIMITS, **limits}, auth=tenant.auth)
    assert answer.status_code == 201
    found: dict[str, Any] = answer.json()
    return found


def kind(answer: httpx.Response) -> tuple[int, str]:
    assert set(answer.json()) == {"error"} and set(answer.json()["error"]) == {"code", "message"}
    return answer.status_code, answer.json()["error"]["code"]


async def test_a_user_sees_its_own_usage(http: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    user = await made(http, tenant)
    name = user["smtp_user_name"]
    await house.ledger.reserve(name, "m1", 1, await generation_of(house.store, name))
    await house.ledger.settle(name, "m1", 1, 1)
    await house.ledger.reserve(name, "m2", 2, await generation_of(house.store, name))
    expected = {
        "smtp_user_name": name, "status": "Enable", "hourly_limit": 10, "total_limit": None,
        "sent_in_window": 1, "in_flight": 2, "sent_total": 1, "rejected_in_window": 0, "retry_after": 0,
    }  # fmt: skip
    answer = await http.get("/api/v1/usage", auth=(name, user["smtp_password"]))
    assert (answer.status_code, answer.json()) == (200, expected)
    assert (await http.get(f"/api/v1/users/{name}/usage", auth=tenant.auth)).json() == expected


async def test_null_is_unlimited_and_what_is_absent_stays(http: httpx.AsyncClient, tenant: Tenant) -> None:
    path = f"/api/v1/users/{(await made(http, tenant, total_limit=5))['smtp_user_name']}"
    state = (await http.patch(path, json={"hourly_limit": None}, auth=tenant.auth)).json()
    assert (state["hourly_limit"], state["total_limit"], state["status"]) == (None, 5, "Enable")
    state = (await http.patch(path, json={"total_limit": 7, "status": "Disable"}, auth=tenant.auth)).json()
    assert (state["hourly_limit"], state["total_limit"], state["status"]) == (None, 7, "Disable")
    assert (await http.get(path, auth=tenant.auth)).json() == state
    assert (await http.get("/api/v1/users", auth=tenant.auth)).json() == {"users": [state]}


async def test_a_reset_and_a_removal_hold_at_once(http: httpx.AsyncClient, tenant: Tenant) -> None:
    user = await made(http, tenant)
    name = user["smtp_user_name"]
    fresh = (await http.post(f"/api/v1/users/{name}/password", auth=tenant.auth)).json()["smtp_password"]
    assert (await http.get("/api/v1/usage", auth=(name, user["smtp_password"]))).status_code == 401
    assert (await http.get("/api/v1/usage", auth=(name, fresh))).status_code == 200
    assert (await http.delete(f"/api/v1/users/{name}", auth=tenant.auth)).status_code == 204
    assert (await http.get("/api/v1/usage", auth=(name, fresh))).status_code == 401
    assert kind(await http.delete(f"/api/v1/users/{name}", auth=tenant.auth)) == (404, "not_found")


async def test_another_owners_user_and_an_unknown_one_give_the_same_answer(http: httpx.AsyncClient, tenant: Tenant, other: Tenant) -> None:
    name = (await made(http, tenant))["smtp_user_name"]
    for method, suffix, body in (
        ("GET", "", None), ("GET", "/usage", None), ("PATCH", "", {"status": "Disable"}), ("POST", "/password", None), ("DELETE", "", None),
    ):  # fmt: skip
        answers = [await http.request(method, f"/api/v1/users/{n}{suffix}", json=body, auth=other.auth) for n in (name, "smtp999999999")]
        assert answers[0].content == answers[1].content
        assert {kind(answer) for answer in answers} == {(404, "not_found")}
    assert (await http.get(f"/api/v1/users/{name}", auth=tenant.auth)).json()["status"] == "Enable"


@pytest.mark.parametrize("header", [None, "", "Basic", "Basic !!!", "Bearer x", "Basic /////w==", "Basic YTpi"])
async def test_without_good_credentials_nothing_is_told(http: httpx.AsyncClient, header: str | None) -> None:
    for path in ("/api/v1/usage", "/api/v1/users", "/api/v1/users/x/usage"):
        answer = await http.get(path, headers={} if header is None else {"Authorization": header})
        if answer.status_code != 429:
            assert kind(answer) == (401, "unauthorized")
            assert answer.headers["www-authenticate"].startswith("Basic ")


async def test_an_imported_password_beyond_ascii_may_ask_for_usage(http: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    await house.provisioning.import_user(tenant.owner_id, "billing", "pässwörd: ☃", 1, 1)
    assert (await http.get("/api/v1/usage", auth=("billing", "pässwörd: ☃"))).status_code == 200


async def test_guesses_at_once_are_no_more_than_may_fail(http: httpx.AsyncClient, tenant: Tenant) -> None:
    user = await made(http, tenant)
    for path, name in (("/api/v1/usage", user["smtp_user_name"]), ("/api/v1/users", tenant.owner_id), ("/api/v1/queue", "nobody")):
        answers = await asyncio.gather(*(http.get(path, auth=(name, f"guess{i}")) for i in range(12)))
        assert sorted(answer.status_code for answer in answers) == [401] * 5 + [429] * 7


async def test_who_knows_the_secret_may_ask_many_times_at_once(http: httpx.AsyncClient, tenant: Tenant) -> None:
    answers = await asyncio.gather(*(http.get("/api/v1/users", auth=tenant.auth) for _ in range(30)))
    assert {answer.status_code for answer in answers} == {200}


async def test_guessing_is_slowed_down(http: httpx.AsyncClient, tenant: Tenant) -> None:
    user = await made(http, tenant)
    for _ in range(5):
        assert kind(await http.get("/api/v1/usage", auth=(user["smtp_user_name"], "guess"))) == (401, "unauthorized")
    answer = await http.get("/api/v1/usage", auth=(user["smtp_user_name"], user["smtp_password"]))
    assert kind(answer) == (429, "too_many_requests") and int(answer.headers["retry-after"]) > 0


async def test_a_disabled_owner_is_refused(http: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    await house.provisioning.set_owner_status(tenant.owner_id, False)
    assert kind(await http.get("/api/v1/users", auth=tenant.auth)) == (403, "forbidden")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"hourly_limit": 1},
        {**LIMITS, "hourly_limit": 0},
        {**LIMITS, "hourly_limit": "5"},
        {**LIMITS, "hourly_limit": True},
        {**LIMITS, "total_limit": 10**13},
        {**LIMITS, "hidden": 1},
        [],
    ],
)
async def test_a_body_that_is_wrong_is_refused_without_repeating_it(http: httpx.AsyncClient, tenant: Tenant, body: Any) -> None:
    assert kind(await http.post("/api/v1/users", json=body, auth=tenant.auth)) == (400, "bad_request")
    assert (await http.get("/api/v1/users", auth=tenant.auth)).json() == {"users": []}


async def test_other_faults_have_the_same_shape(http: httpx.AsyncClient, tenant: Tenant) -> None:
    assert kind(await http.get("/")) == (404, "not_found")
    assert kind(await http.put("/api/v1/users", auth=tenant.auth)) == (405, "method_not_allowed")
    too_large = await http.post("/api/v1/users", content=b"{" + b" " * 5000, auth=tenant.auth)
    assert too_large.status_code == 413 and "error" in too_large.json()


async def test_health_tells_a_living_process_from_a_useful_one(http: httpx.AsyncClient, house: House) -> None:
    assert (await http.get("/healthz")).json() == (await http.get("/readyz")).json() == {"status": "ok"}
    await house.store.command("FLUSHALL")
    assert (await http.get("/healthz")).status_code == 200
    answer = await http.get("/readyz")
    assert (answer.status_code, answer.json()["reason"]) == (503, "the store is empty or another one")


async def test_calls_are_counted_by_route_and_never_by_what_a_client_writes(http: httpx.AsyncClient) -> None:
    await http.post("/v1.0/settings/listSmtp")
    await http.get("/some/secret/path")
    text = (await http.get("/metrics")).text
    assert 'relay_api_calls_total{call="/v1.0/settings/listSmtp",status="401"}' in text
    assert 'relay_api_calls_total{call="other",status="404"}' in text
    assert "secret" not in text


async def test_the_figures_of_all_processes_are_read_from_their_directory(
    http: httpx.AsyncClient, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(place))
    answer = await http.get("/metrics")
    assert (answer.status_code, answer.text) == (200, "")


async def test_a_stop_lets_requests_under_way_finish(http: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    name = (await made(http, tenant))["smtp_user_name"]
    await house.ledger.reserve(name, "m1", 1, await generation_of(house.store, name))
    under_way = asyncio.create_task(http.patch(f"/api/v1/users/{name}", json={"status": "Disable"}, auth=tenant.auth))
    await asyncio.sleep(0.2)
    house.stop.set()
    await asyncio.sleep(0.2)
    assert not under_way.done()
    await house.ledger.settle(name, "m1", 1, 1)
    assert (await under_way).json()["status"] == "Disable"
    with pytest.raises(httpx.TransportError):
        await http.get("/healthz")


async def test_the_description_shows_the_bodies_of_every_call(http: httpx.AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    for call in ("addSmtp", "editSmtp", "resetSmtpPassword", "listSmtp"):
        described = paths[f"/v1.0/settings/{call}"]["post"]
        assert set(described["requestBody"]["content"]) == {"application/json", "application/x-www-form-urlencoded"}
        assert "token" in json.dumps(described["requestBody"])
        assert {"200", "400", "401", "500", "503"} <= set(described["responses"])
    assert "/api/v1/users/{name}/usage" in paths
    assert (await http.get("/docs")).status_code == 200
