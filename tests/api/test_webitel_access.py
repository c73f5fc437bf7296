"""Who may make the Webitel calls, for which domain, and how one signs in and out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.api.conftest import House, Tenant
from tests.api.webitel_calls import DOMAIN, HERE, SETTINGS, WRITTEN, error, put, signed_in


@pytest.fixture
async def page(house: House, tenant: Tenant) -> AsyncIterator[httpx.AsyncClient]:
    """A client that is signed in."""
    headers = await signed_in(house, tenant)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{house.port}", timeout=30, headers=headers) as client:
        yield client


# -- whose they are ---------------------------------------------------------------------------------------------------------


async def test_owners_have_settings_of_their_own_for_the_same_domain(
    page: httpx.AsyncClient, http: httpx.AsyncClient, house: House, other: Tenant
) -> None:
    mine = await put(page)
    theirs = await signed_in(house, other)
    assert (await http.get(SETTINGS, params=HERE, headers=theirs)).content == error("Not found!")
    assert (await http.put(SETTINGS, params=HERE, json=WRITTEN, headers=theirs)).content == error("Not found.")
    assert (await http.delete(SETTINGS, params=HERE, headers=theirs)).json()["Info"] == "Removed 0 record."
    tested = await http.post(f"{SETTINGS}/test", params=HERE, headers=theirs)
    assert (tested.status_code, tested.content) == (404, error(f"Not settings EMail provider from domain {DOMAIN}"))
    made = (await http.post(SETTINGS, params=HERE, json={**WRITTEN, "description": "Theirs"}, headers=theirs)).json()
    assert made["_id"] != mine["_id"]
    assert (await page.get(SETTINGS, params=HERE)).json() == mine


async def test_a_token_of_a_domain_reaches_that_domain_whatever_is_asked_for(
    page: httpx.AsyncClient, http: httpx.AsyncClient, house: House, tenant: Tenant
) -> None:
    await put(page)
    _, token = await house.rooms.tokens.issue(tenant.owner_id, "own.example", None)
    headers = {"X-Access-Token": token}
    for params in ({}, HERE, {"domain": ""}):
        assert (await http.get(SETTINGS, params=params, headers=headers)).content == error("Not found!")
        made = await http.post(SETTINGS, params=params, json={**WRITTEN, "domain": DOMAIN}, headers=headers)
        assert made.json()["domain"] == "own.example"
        assert (await http.delete(SETTINGS, params=params, headers=headers)).json()["Info"] == "Removed 1 record."
    assert (await page.get(SETTINGS, params=HERE)).status_code == 200


async def test_a_token_of_every_domain_names_one_in_each_call(http: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    _, token = await house.rooms.tokens.issue(tenant.owner_id, "", None)
    headers = {"X-Access-Token": token}
    assert (await http.post(SETTINGS, params=HERE, json=WRITTEN, headers=headers)).status_code == 200
    for method, text in (("GET", "Bad request (domain required)."), ("POST", "Bad parameters."), ("DELETE", "Bad parameters.")):
        answer = await http.request(method, SETTINGS, headers=headers, json=WRITTEN)
        assert (answer.status_code, answer.content) == (400, error(text))


async def test_a_token_is_looked_for_in_the_body_then_the_query_then_the_headers(
    http: httpx.AsyncClient, house: House, tenant: Tenant
) -> None:
    good = await signed_in(house, tenant)
    fields = {"access_token": good["X-Access-Token"], "x_key": good["X-Key"]}
    bad_headers, bad = {"X-Access-Token": "x", "X-Key": "x"}, {"access_token": "x", "x_key": "x"}
    answer = await http.post(SETTINGS, params={**HERE, **bad}, headers=bad_headers, json={**WRITTEN, **fields})
    assert answer.status_code == 200 and list(answer.json()) == ["_id", *WRITTEN, "domain"]  # and the tokens are not kept
    assert (await http.get(SETTINGS, params={**HERE, **fields}, headers=bad_headers)).status_code == 200
    assert (await http.get(SETTINGS, params={**HERE, **bad}, headers=good)).content == error("Invalid token")
    mixed = {"X-Key": good["X-Key"]}
    assert (await http.get(SETTINGS, params={**HERE, "access_token": good["X-Access-Token"]}, headers=mixed)).status_code == 200


async def test_every_wrong_token_is_answered_as_the_engine_does(http: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    good = await signed_in(house, tenant)
    owner = await house.registry.find_owner(tenant.owner_id)
    assert owner is not None
    over = await house.rooms.tokens.open_session(owner, -1.0)
    id, revoked = await house.rooms.tokens.issue(tenant.owner_id, DOMAIN, None)
    await house.rooms.tokens.revoke(tenant.owner_id, id)
    wrong: tuple[tuple[dict[str, str], str], ...] = (
        ({}, "Invalid token"),
        ({"X-Access-Token": "nonsense", "X-Key": good["X-Key"]}, "Invalid token"),
        ({"X-Access-Token": over.token, "X-Key": over.key}, "Token Expired"),
        ({"X-Access-Token": revoked}, "Not found token"),
        ({**good, "X-Key": over.key}, "Invalid User"),
        ({"X-Access-Token": good["X-Access-Token"]}, "Invalid Token or Key"),
    )
    for headers, text in wrong:
        for method, path in (("GET", SETTINGS), ("DELETE", SETTINGS), ("POST", f"{SETTINGS}/test")):
            answer = await http.request(method, path, params=HERE, headers=headers)
            assert (answer.status_code, answer.content) == (401, error(text))


async def test_a_disabled_owners_sessions_and_tokens_serve_no_more(http: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    _, static = await house.rooms.tokens.issue(tenant.owner_id, DOMAIN, None)
    both = (await signed_in(house, tenant), {"X-Access-Token": static})
    await house.provisioning.set_owner_status(tenant.owner_id, False)
    for headers in both:
        assert (await http.get(SETTINGS, params=HERE, headers=headers)).content == error("Invalid User")
    answer = await http.post("/login", json={"username": tenant.owner_id, "password": tenant.token})
    assert (answer.status_code, answer.content) == (401, error("Owner is disabled"))


# -- signing in and out -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/engine"])
async def test_who_signs_in_gets_a_token_and_a_key_and_gives_them_back(http: httpx.AsyncClient, tenant: Tenant, prefix: str) -> None:
    answer = await http.post(f"{prefix}/login", json={"username": tenant.owner_id, "password": tenant.token})
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    found = answer.json()
    assert list(found) == ["key", "username", "domain", "expires", "token", "role", "roleName", "acl", "cdr", "verto"]
    assert (found["username"], found["roleName"]) == (tenant.owner_id, "root")
    headers = {"X-Access-Token": found["token"], "X-Key": found["key"]}
    assert (await http.get(SETTINGS, params=HERE, headers=headers)).content == error("Not found!")
    other_key = {**headers, "X-Key": "8fd26a17-eb28-4c74-aa6f-a3794f4f466c"}
    for wrong in (other_key, {"X-Key": found["key"]}, {"X-Access-Token": found["token"]}, {}):
        refused = await http.post(f"{prefix}/logout", headers=wrong)
        assert (refused.status_code, refused.content) == (401, error("Invalid credentials."))
    assert (await http.post(f"{prefix}/logout", headers=headers)).text == '{"status":"OK","info":"Successful logout."}'
    assert (await http.get(SETTINGS, params=HERE, headers=headers)).content == error("Invalid User")


async def test_who_signs_in_wrongly_is_answered_as_the_engine_does(http: httpx.AsyncClient, tenant: Tenant) -> None:
    for body in ({}, {"username": "", "password": tenant.token}):
        answer = await http.post("/login", json=body)
        assert (answer.status_code, answer.text) == (401, '{"status":401,"message":"Invalid credentials"}')
    for username, password in ((tenant.owner_id, "x"), (tenant.owner_id, ""), ("12345678", "x"), ("100@mydomain.com", tenant.token)):
        answer = await http.post("/login", json={"username": username, "password": password})
        assert (answer.status_code, answer.content) == (401, error("secret incorrect"))
    answer = await http.post("/login", data={"username": tenant.owner_id, "password": tenant.token})
    assert (answer.status_code, answer.json()["message"]) == (401, "Invalid credentials")  # a form is no JSON


async def test_guessing_is_slowed_down_in_the_engines_shape(http: httpx.AsyncClient, tenant: Tenant) -> None:
    guesses = [{"username": tenant.owner_id, "password": f"guess{i}"} for i in range(12)]
    answers = await asyncio.gather(*(http.post("/login", json=guess) for guess in guesses))
    assert sorted(answer.status_code for answer in answers) == [401] * 5 + [429] * 7
    late = await http.post("/login", json={"username": tenant.owner_id, "password": tenant.token})
    assert late.status_code == 429 and int(late.headers["retry-after"]) > 0
    assert late.json()["status"] == "error" and "retry after" in late.json()["info"]
