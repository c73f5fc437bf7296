"""The Webitel calls for settings over HTTP, each habit of its engine a test of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from relay.accounts.token import Session
from tests.api.conftest import House, Tenant
from tests.api.webitel_calls import DOMAIN, HERE, PASSWORD, SETTINGS, WRITTEN, error, put, signed_in


@pytest.fixture
async def page(house: House, tenant: Tenant) -> AsyncIterator[httpx.AsyncClient]:
    """A client that is signed in."""
    headers = await signed_in(house, tenant)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{house.port}", timeout=30, headers=headers) as client:
        yield client


# -- settings ---------------------------------------------------------------------------------------------------------------


async def test_a_second_post_replaces_the_whole_document_and_keeps_its_id(page: httpx.AsyncClient) -> None:
    first = await put(page)
    second = await put(page, description="Another")
    assert second == {**first, "description": "Another"}
    third = (await page.post(SETTINGS, params=HERE, json={"provider": "smtp", "options": {}})).json()
    assert third == {"_id": first["_id"], "provider": "smtp", "options": {}, "domain": DOMAIN}
    assert (await page.post(SETTINGS, params=HERE, json={"provider": "smtp", "options": {}})).json() == third


async def test_a_put_replaces_and_does_not_make(page: httpx.AsyncClient) -> None:
    answer = await page.put(SETTINGS, params=HERE, json=WRITTEN)
    assert (answer.status_code, answer.content) == (404, error("Not found."))
    first = await put(page)
    answer = await page.put(SETTINGS, params=HERE, json={"options": {"port": 1}, "provider": "smtp"})
    assert answer.status_code == 200
    assert answer.text == f'{{"_id":"{first["_id"]}","options":{{"port":1}},"provider":"smtp","domain":"{DOMAIN}"}}'


async def test_a_put_of_what_is_so_already_modifies_nothing_which_is_not_found(page: httpx.AsyncClient) -> None:
    first = await put(page)
    answer = await page.put(SETTINGS, params=HERE, json=WRITTEN)
    assert (answer.status_code, answer.content) == (404, error("Not found."))
    assert (await page.get(SETTINGS, params=HERE)).json() == first


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize(
    "body", [{}, {"provider": "smtp"}, {"options": {}}, {"provider": "", "options": {}}, {"provider": 1, "options": 0}, []]
)
async def test_a_provider_and_options_there_must_be(page: httpx.AsyncClient, method: str, body: Any) -> None:
    answer = await page.request(method, SETTINGS, params=HERE, json=body)
    assert (answer.status_code, answer.content) == (400, error("Bad parameters."))


async def test_a_delete_says_how_many_there_were_and_none_is_no_error(page: httpx.AsyncClient) -> None:
    await put(page)
    for count in (1, 0):
        answer = await page.delete(SETTINGS, params=HERE)
        assert (answer.status_code, answer.text) == (200, f'{{"status":"OK","Info":"Removed {count} record."}}')
    answer = await page.get(SETTINGS, params=HERE)
    assert (answer.status_code, answer.content) == (404, error("Not found!"))
    assert (await page.delete(SETTINGS, params={"domain": "no domain!"})).text == '{"status":"OK","Info":"Removed 0 record."}'


async def test_fields_nobody_knows_are_kept_and_shown_in_their_order(page: httpx.AsyncClient) -> None:
    body = {"zeta": [1, {"é": None}], "domain": "elsewhere.example", "provider": "smtp", "_id": "mine", "options": {"x": 1.5}, "alpha": "ü"}
    answer = await page.post(SETTINGS, params=HERE, json=body)
    text = '"zeta":[1,{"é":null}],"provider":"smtp","options":{"x":1.5},"alpha":"ü","domain":"my.webitel.com"}'
    assert answer.text == f'{{"_id":"{answer.json()["_id"]}",{text}'
    assert (await page.get(SETTINGS, params=HERE)).text == answer.text


async def test_what_mail_cannot_go_to_is_kept_all_the_same_with_no_smarthost(page: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    for changed in ({"provider": "sendmail"}, {"options": "nowhere"}, {"options": {"auth": {"type": "oauth2", "user": "u"}}}):
        assert (await put(page, **changed)).items() >= changed.items()
        found = (await house.rooms.directory.outfit(tenant.owner_id)).setting_of(DOMAIN)
        assert found is not None and found.choices == ()


async def test_the_options_are_the_route_of_the_domains_mail(page: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    found = await put(page)
    setting = (await house.rooms.directory.outfit(tenant.owner_id)).setting_for(DOMAIN.upper())
    assert setting is not None and setting.id == found["_id"]
    (choice,) = setting.choices
    target = choice.target
    assert (str(target), target.security, target.verify, target.is_guarded) == ("m.webitel.com:465", "tls", False, True)
    assert (target.username, target.password, target.max_connections, target.max_messages) == ("my@webitel.com", PASSWORD, 5, 100)


async def test_a_setting_that_was_made_by_other_calls_is_shown_as_a_document(page: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    await put(page)
    setting = (await house.rooms.directory.outfit(tenant.owner_id)).setting_of(DOMAIN)
    assert setting is not None
    await house.rooms.arranging.put_setting(tenant.owner_id, DOMAIN, setting.choices)
    shown = (await page.get(SETTINGS, params=HERE)).json()
    expected = {key: value for key, value in WRITTEN["options"].items() if key != "debug"}
    assert shown == {"_id": setting.id, "provider": "smtp", "options": expected, "domain": DOMAIN}


async def test_a_domain_is_one_whatever_its_case(page: httpx.AsyncClient) -> None:
    await put(page)
    assert (await page.get(SETTINGS, params={"domain": "MY.Webitel.COM"})).json()["domain"] == DOMAIN


@pytest.mark.parametrize("domain", ["no domain!", "x" * 300, "ü" * 9000, "a..b", "[127.0.0.1]", "a\0b"])
async def test_what_is_no_domain_has_no_settings_and_gets_none(page: httpx.AsyncClient, domain: str) -> None:
    answer = await page.get(SETTINGS, params={"domain": domain})
    assert (answer.status_code, answer.content) == (404, error("Not found!"))
    answer = await page.post(SETTINGS, params={"domain": domain}, json=WRITTEN)
    assert (answer.status_code, answer.json()["status"]) == (400, "error")


# -- what goes wrong, and what a browser asks -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/v2", "/api/v2/", "/api/v2/cdr", "/engine", "/engine/api/v2/x/y", f"{SETTINGS}/", f"{SETTINGS}/x"])
async def test_what_no_route_serves_is_not_found_by_its_path(http: httpx.AsyncClient, path: str) -> None:
    for method in ("GET", "POST", "DELETE", "PURGE"):
        answer = await http.request(method, path)
        assert (answer.status_code, answer.content) == (404, error(f"{path} not found."))
        assert answer.headers["x-powered-by"] == "Webitel"
    for known, wrong in ((SETTINGS, "PATCH"), ("/login", "GET"), ("/logout", "PUT"), (f"{SETTINGS}/test", "GET"), ("/engine/login", "GET")):
        answer = await http.request(wrong, known)
        assert (answer.status_code, answer.content) == (404, error(f"{known} not found."))


@pytest.mark.parametrize("path", [SETTINGS, f"/engine{SETTINGS}", f"{SETTINGS}/test/a@b", "/login", "/engine/logout", "/api/v2/any"])
async def test_a_page_of_any_origin_may_ask(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.options(path, headers={"Origin": "https://page.example", "Access-Control-Request-Method": "PUT"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-headers"] == "Content-type,Accept,X-Access-Token,X-Key"
    assert "PUT" in answer.headers["access-control-allow-methods"] and "access-control-allow-credentials" not in answer.headers


async def test_every_answer_bears_the_engines_headers(page: httpx.AsyncClient, http: httpx.AsyncClient) -> None:
    await put(page)
    for answer in (await page.get(SETTINGS, params=HERE), await http.get(SETTINGS), await page.post(SETTINGS, content=b"x" * 5000)):
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        assert (answer.headers["x-powered-by"], answer.headers["access-control-allow-origin"]) == ("Webitel", "*")
        assert answer.headers["cache-control"] == "no-store"
    head = await page.head(SETTINGS, params=HERE)
    assert (head.status_code, head.content) == (200, b"")


async def test_malformed_json_is_a_bad_request_before_anybody_is_asked_for(http: httpx.AsyncClient) -> None:
    for path in (SETTINGS, "/login", "/logout"):
        answer = await http.post(path, content=b'{"provider":"smtp",}', headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.content) == (400, error("Unexpected token in JSON at position 19"))


async def test_a_body_that_is_too_large_is_refused_in_the_engines_shape(page: httpx.AsyncClient) -> None:
    answer = await page.post(SETTINGS, params=HERE, json={**WRITTEN, "x": "x" * 5000})
    assert (answer.status_code, answer.json()["status"]) == (413, "error")


async def test_statuses_are_statuses_whatever_other_dialects_are_told(http: httpx.AsyncClient, house: House) -> None:
    house.settings.api.errors_always_200 = True
    assert (await http.get(SETTINGS, params=HERE)).status_code == 401


async def test_without_the_store_it_is_temporarily_unavailable(page: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    await house.store.command("FLUSHALL")
    calls = (
        page.get(SETTINGS, params=HERE),
        page.post("/login", json={"username": tenant.owner_id, "password": tenant.token}),
        page.post("/logout"),
    )
    for answer in await asyncio.gather(*calls):
        assert (answer.status_code, answer.content) == (503, error("The service is temporarily unavailable"))
        assert answer.headers["retry-after"] and answer.headers["x-powered-by"] == "Webitel"


async def test_no_secret_stands_in_the_journal(page: httpx.AsyncClient, http: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    await put(page)
    session = (await http.post("/login", json={"username": tenant.owner_id, "password": tenant.token})).json()
    await page.post(f"{SETTINGS}/test", params=HERE)
    await page.delete(SETTINGS, params=HERE)
    log = house.log.read_text()
    assert not any(secret in log for secret in (PASSWORD, tenant.token, session["token"], session["key"], page.headers["x-access-token"]))


async def test_a_session_is_one_of_the_token_it_was_opened_with(http: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    answer = await http.post("/login", json={"username": tenant.owner_id, "password": tenant.token})
    session = Session(answer.json()["key"], answer.json()["token"], answer.json()["expires"])
    await house.provisioning.rotate_token(tenant.owner_id)
    headers = {"X-Access-Token": session.token, "X-Key": session.key}
    assert (await http.get(SETTINGS, params=HERE, headers=headers)).content == error("Invalid User")
