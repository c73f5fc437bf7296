"""The TES calls over HTTP, word for word as their documents show them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from relay.accounts import registry
from tests.api.conftest import House, Tenant
from tests.talking import generation_of

ADD = {"total_limit": 500, "hourly_limit": 10}


async def call(http: httpx.AsyncClient, name: str, body: dict[str, Any], prefix: str = "/v1.0") -> httpx.Response:
    return await http.post(f"{prefix}/settings/{name}", json=body)


def error(name: str, message: str, code: int | str = -1) -> bytes:
    body = {"status": "error", "code": code, "name": name, "type": name, "message": message}
    return json.dumps(body, separators=(",", ":")).encode()


async def added(http: httpx.AsyncClient, tenant: Tenant, **limits: int) -> tuple[str, str]:
    body = (await call(http, "addSmtp", {**tenant.body, **ADD, **limits})).json()
    return body["smtp_user_name"], body["smtp_password"]


@pytest.mark.parametrize("prefix", ["/v1.0", ""])
@pytest.mark.parametrize("name", ["addSmtp", "addSmtpUser"])
async def test_a_user_is_added_as_documented(http: httpx.AsyncClient, house: House, tenant: Tenant, name: str, prefix: str) -> None:
    answer = await call(http, name, {**tenant.body, "total_limit": 500, "hourly_limit": 10}, prefix)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    user, password = answer.json()["smtp_user_name"], answer.json()["smtp_password"]
    expected = '{"status":"success","message":"SMTP User Created","smtp_user_name":"%s","smtp_password":"%s"}'
    assert answer.text == expected % (user, password)
    found = await house.registry.verify_user(user, password)
    assert found is not None and (found.hourly, found.total, found.owner_id) == (10, 500, tenant.owner_id)


@pytest.mark.parametrize("name", ["editSmtp", "editSmtpUser"])
async def test_a_user_is_edited_as_documented(http: httpx.AsyncClient, house: House, tenant: Tenant, name: str) -> None:
    user, _ = await added(http, tenant)
    answer = await call(http, name, {**tenant.body, "smtp_user_name": user, "total_limit": 700, "hourly_limit": None, "status": "Disable"})
    assert answer.text == '{"status":"success","message":"SMTP User Updated"}'
    found = await house.registry.find_user(user)
    assert found is not None and (found.hourly, found.total, found.is_enabled) == (10, 700, False)
    answer = await call(http, name, {**tenant.body, "smtp_user_name": user, "status": "Enable"})
    found = await house.registry.find_user(user)
    assert found is not None and (found.hourly, found.total, found.is_enabled) == (10, 700, True)


async def test_a_password_is_reset_as_documented(http: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    user, old = await added(http, tenant)
    answer = await call(http, "resetSmtpPassword", {**tenant.body, "smtp_user_name": user})
    new = answer.json()["smtp_password"]
    expected = '{"status":"success","message":"password reseted","smtp_user_name":"%s","smtp_password":"%s"}'
    assert answer.text == expected % (user, new)
    assert new != old
    assert await house.registry.verify_user(user, old) is None
    assert await house.registry.verify_user(user, new)


async def test_users_are_listed_as_documented_with_both_password_keys(http: httpx.AsyncClient, tenant: Tenant) -> None:
    assert (await call(http, "listSmtp", tenant.body)).text == '{"status":"success","message":"SMTP User List","smtp_list":[]}'
    one, first = await added(http, tenant, total_limit=600, hourly_limit=100)
    two, second = await added(http, tenant, total_limit=100, hourly_limit=30)
    await call(http, "editSmtp", {**tenant.body, "smtp_user_name": two, "status": "Disable"})
    answer = await call(http, "listSmtp", {**tenant.body, **ADD})  # what a Python SDK sends there by mistake is ignored
    assert answer.headers["cache-control"] == "no-store"
    entry = '{"smtp_user_name":"%s","password":"%s","smtp_password":"%s","status":"%s","total_limit":%d,"hourly_limit":%d}'
    assert answer.text == (
        '{"status":"success","message":"SMTP User List","smtp_list":['
        + (entry % (one, first, first, "Enable", 600, 100)) + "," + (entry % (two, second, second, "Disable", 100, 30)) + "]}"
    )  # fmt: skip


@pytest.mark.parametrize("name", ["addSmtp", "editSmtp", "resetSmtpPassword", "listSmtp"])
async def test_a_wrong_token_is_answered_as_documented(http: httpx.AsyncClient, tenant: Tenant, name: str) -> None:
    wrong: tuple[dict[str, Any], ...] = (
        {},
        {"owner_id": tenant.owner_id},
        {**tenant.body, "token": "x"},
        {"owner_id": "12345678", "token": "x"},
        {"token": None},
    )
    for body in wrong:
        answer = await call(http, name, {**ADD, "smtp_user_name": "smtp12345", **body})
        assert (answer.status_code, answer.content) == (401, error("AuthenticationError", "Token MissMatch"))


async def test_a_form_serves_like_json_and_the_content_type_does_not_count(http: httpx.AsyncClient, tenant: Tenant) -> None:
    form = {**tenant.body, "total_limit": "500", "hourly_limit": "10"}
    user = (await http.post("/v1.0/settings/addSmtpUser", data=form)).json()["smtp_user_name"]
    edit = {**tenant.body, "smtp_user_name": user, "total_limit": "700", "hourly_limit": "", "status": "Enable"}
    assert (await http.post("/v1.0/settings/editSmtp", data=edit)).json()["status"] == "success"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await http.post(
        "/v1.0/settings/listSmtp", content=json.dumps({**tenant.body, "owner_id": int(tenant.owner_id)}), headers=headers
    )
    assert [(e["total_limit"], e["hourly_limit"]) for e in answer.json()["smtp_list"]] == [(700, 10)]
    assert (await http.post("/v1.0/settings/listSmtp", params=tenant.body)).status_code == 401


async def test_poweremail_is_answered_exactly_as_its_document(http: httpx.AsyncClient, poweremail: Tenant) -> None:
    bad = await call(http, "addSmtp", {**poweremail.body, "token": "x", "total_limit": 100, "hourly_limit": 10})
    assert bad.content == error("AuthenticationError", "Token MissMatch", "-1")
    user, password = await added(http, poweremail, total_limit=100, hourly_limit=10)
    edit = {"smtp_user_name": user, "total_limit": 80, "hourly_limit": 15, "status": "Disable"}
    assert (await call(http, "editSmtp", {**poweremail.body, **edit})).text == '{"status":"success","message":"SMTP User Updated"}'
    del edit["total_limit"]
    missing = await call(http, "editSmtp", {**poweremail.body, **edit})
    assert (missing.status_code, missing.content) == (400, error("ValidationError", "total_limit is required", "-1"))
    unknown = await call(http, "resetSmtpPassword", {**poweremail.body, "smtp_user_name": "smtp12345"})
    assert unknown.json()["code"] == "-1"
    entry = f'{{"smtp_user_name":"{user}","smtp_password":"{password}","status":"Disable","total_limit":"80","hourly_limit":"15"}}'
    answer = await call(http, "listSmtp", poweremail.body)
    assert answer.text == '{"status":"success","message":"SMTP User List","smtp_list":[' + entry + "]}"


async def test_another_owners_user_and_an_unknown_one_give_the_same_answer(
    http: httpx.AsyncClient, house: House, tenant: Tenant, other: Tenant
) -> None:
    user, password = await added(http, tenant)
    for name in ("editSmtp", "resetSmtpPassword"):
        answers = [
            await call(http, name, {**other.body, "smtp_user_name": target, "status": "Disable", "total_limit": 1})
            for target in (user, "smtp999999999", "no/such name", "x" * 2000)
        ]
        assert len({(answer.status_code, answer.content) for answer in answers}) == 1
        assert answers[0].content == error("ValidationError", "smtp_user_name is not valid")
    assert (await call(http, "listSmtp", other.body)).json()["smtp_list"] == []
    found = await house.registry.verify_user(user, password)
    assert found is not None and found.is_enabled and found.total == 500


@pytest.mark.parametrize("limit", [0, -1, 1.5, 10.0, True, "0", "-5", "1e3", "ten", " 5", "٣", [5], {}, 10**12 + 1, "9" * 30])
async def test_what_is_no_positive_digit_is_refused(http: httpx.AsyncClient, tenant: Tenant, limit: Any) -> None:
    answer = await call(http, "addSmtp", {**tenant.body, "total_limit": limit, "hourly_limit": 1})
    assert (answer.status_code, answer.content) == (400, error("ValidationError", "total_limit must be a positive digit"))
    user, _ = await added(http, tenant)
    answer = await call(http, "editSmtp", {**tenant.body, "smtp_user_name": user, "hourly_limit": limit})
    assert (answer.status_code, answer.content) == (400, error("ValidationError", "hourly_limit must be a positive digit"))


async def test_every_path_and_method_is_answered_in_the_dialects_shape(http: httpx.AsyncClient) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "PURGE"):
        answer = await http.request(method, "/v1.0/settings/addSmtp")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert answer.content == error("ValidationError", "Method Not Allowed")
    for path in (
        "/v1.0",
        "/v1.0/",
        "/settings",
        "/v1.0/settings/deleteSmtp",
        "/settings/x/y",
        "/v1.0/messages/sendMail",
        "/settings/addSmtp/",
    ):
        answer = await http.post(path)
        assert (answer.status_code, answer.content) == (404, error("ValidationError", "Not Found"))
    assert (await http.get("/elsewhere")).json() == {"error": {"code": "not_found", "message": "Not Found"}}


@pytest.mark.parametrize(
    "body", [b'{"owner_id": "1",}', b"[1]", b"[" * 3000, b'{"a": NaN}', b"\xff\xfe", b"a=%ff", b'{"a":' + b"1" * 5 + b"x"]
)
async def test_a_body_that_cannot_be_read_is_a_validation_error(http: httpx.AsyncClient, body: bytes) -> None:
    answer = await http.post("/v1.0/settings/listSmtp", content=body)
    assert answer.status_code == 400
    assert answer.json()["name"] == answer.json()["type"] == "ValidationError"


async def test_a_body_that_is_too_large_is_refused_whatever_its_headers_say(http: httpx.AsyncClient) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b"x" * 1000

    for content in (b"x" * 5000, endless()):
        answer = await http.post("/v1.0/settings/listSmtp", content=content)
        assert (answer.status_code, answer.json()["name"]) == (413, "ValidationError")


async def test_errors_can_all_be_sent_with_200(http: httpx.AsyncClient, house: House) -> None:
    house.settings.api.errors_always_200 = True
    answer = await call(http, "listSmtp", {})
    assert (answer.status_code, answer.content) == (200, error("AuthenticationError", "Token MissMatch"))
    assert (await http.get("/v1.0/nothing")).status_code == 200


async def test_guesses_at_once_are_no_more_than_may_fail(http: httpx.AsyncClient, tenant: Tenant) -> None:
    answers = await asyncio.gather(*(call(http, "listSmtp", {**tenant.body, "token": f"guess{i}"}) for i in range(12)))
    assert sorted(answer.status_code for answer in answers) == [401] * 5 + [429] * 7


async def test_guessing_a_token_is_slowed_down_even_for_the_right_one(http: httpx.AsyncClient, tenant: Tenant, other: Tenant) -> None:
    for _ in range(5):
        assert (await call(http, "listSmtp", {**tenant.body, "token": "guess"})).status_code == 401
    answer = await call(http, "listSmtp", tenant.body)
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0
    assert answer.json()["name"] == "AuthenticationError"
    assert (await call(http, "listSmtp", other.body)).status_code == 200


async def test_a_disabled_owner_is_refused(http: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    await house.provisioning.set_owner_status(tenant.owner_id, False)
    answer = await call(http, "listSmtp", tenant.body)
    assert (answer.status_code, answer.content) == (401, error("AuthenticationError", "Owner is disabled"))


async def test_a_store_that_came_back_empty_is_not_a_wrong_token(http: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    await house.store.command("FLUSHALL")
    answer = await call(http, "listSmtp", tenant.body)
    assert (answer.status_code, answer.content) == (503, error("GeneralError", "The service is temporarily unavailable"))
    assert answer.headers["retry-after"]
    assert (await http.get("/api/v1/users", auth=tenant.auth)).json()["error"]["code"] == "service_unavailable"


async def test_a_list_of_many_pages_is_whole_and_valid(http: httpx.AsyncClient, house: House, tenant: Tenant, poweremail: Tenant) -> None:
    for owner in (tenant, poweremail):
        made = []
        for _ in range(registry.PAGE * 2 // 100 + 1):
            made += await asyncio.gather(*(house.provisioning.add_user(owner.owner_id, 1, 2) for _ in range(100)))
        listed = (await call(http, "listSmtp", owner.body)).json()["smtp_list"]
        assert {entry["smtp_user_name"]: entry["smtp_password"] for entry in listed} == {user.name: password for user, password in made}


async def test_an_edit_that_lowers_a_limit_is_answered_when_it_holds(http: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    user, _ = await added(http, tenant)
    await house.ledger.reserve(user, "m1", 1, await generation_of(house.store, user))
    editing = asyncio.create_task(call(http, "editSmtp", {**tenant.body, "smtp_user_name": user, "hourly_limit": 5}))
    await asyncio.sleep(0.2)
    assert not editing.done()
    await house.ledger.settle(user, "m1", 1, 1)
    assert (await editing).status_code == 200


async def test_an_error_that_nothing_expected_is_a_general_error_and_journaled(
    http: httpx.AsyncClient, house: House, tenant: Tenant
) -> None:
    await house.store.command("SET", f"{{o:{tenant.owner_id}}}:users", "not an index")
    answer = await call(http, "listSmtp", tenant.body)
    assert (answer.status_code, answer.content) == (500, error("GeneralError", "An unexpected error occurred"))
    last = json.loads(house.log.read_text().splitlines()[-1])
    assert last["event"] == "bug" and "WRONGTYPE" in last["traceback"]


async def test_no_secret_reaches_the_journal(http: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    _, password = await added(http, tenant)
    await call(http, "listSmtp", {**tenant.body, "token": "a-guess"})
    await http.post("/v1.0/settings/listSmtp", content=json.dumps(tenant.body) + "x")
    text = house.log.read_text()
    assert not any(secret in text for secret in (password, tenant.token, "a-guess"))
