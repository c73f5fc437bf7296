"""Upstreams, policies and signers on the native API."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import trustme

from relay.accounts.setting import Policy
from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from relay.upstream.route import Choice, Target
from tests.api.conftest import House, Tenant

PATH = "/api/v1/upstreams"
ONE = {"host": "mail.example", "port": 587, "username": "me", "password": "s3cret-word"}


async def put(http: httpx.AsyncClient, tenant: Tenant, domain: str = "b.example", **fields: Any) -> httpx.Response:
    return await http.put(f"{PATH}/{domain}", json={"smarthosts": [{**ONE, **fields}]}, auth=tenant.auth)


def message(answer: httpx.Response, status: int = 400) -> str:
    assert answer.status_code == status, answer.text
    found: str = answer.json()["error"]["message"]
    return found


async def test_an_upstream_is_made_shown_replaced_and_removed(http: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    made = await put(http, tenant, "B.Example", weight=2)
    assert made.status_code == 201 and made.headers["cache-control"] == "no-store"
    assert made.json()["domain"] == "b.example"
    (smarthost,) = made.json()["smarthosts"]
    expected = {"host": "mail.example", "port": 587, "security": "starttls", "password": None, "has_password": True, "weight": 2}
    assert {key: smarthost[key] for key in expected} == expected
    assert (await http.get(f"{PATH}/b.EXAMPLE", auth=tenant.auth)).json() == made.json()
    assert (await http.get(PATH, auth=tenant.auth)).json() == {"upstreams": [made.json()]}
    again = await http.put(f"{PATH}/b.example", json={"smarthosts": made.json()["smarthosts"]}, auth=tenant.auth)
    assert again.status_code == 200 and again.json() == made.json()
    outfit = await house.rooms.directory.outfit(tenant.owner_id)
    (choice,) = outfit.settings["b.example"].choices
    assert (choice.target.password, choice.target.is_guarded, choice.target.verify) == ("s3cret-word", True, True)
    assert (await http.delete(f"{PATH}/b.example", auth=tenant.auth)).status_code == 204
    assert message(await http.delete(f"{PATH}/b.example", auth=tenant.auth), 404) == "no such upstream"
    assert (await http.get(PATH, auth=tenant.auth)).json() == {"upstreams": []}


async def test_the_default_has_a_name_that_no_domain_has(http: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    assert (await put(http, tenant, "_default")).json()["domain"] == "_default"
    assert set((await house.rooms.directory.outfit(tenant.owner_id)).settings) == {""}
    assert (await http.get(f"{PATH}/_default", auth=tenant.auth)).json()["domain"] == "_default"
    assert (await http.delete(f"{PATH}/_default", auth=tenant.auth)).status_code == 204


async def test_a_password_stays_where_it_is_not_given_again_and_goes_with_its_user(
    http: httpx.AsyncClient, house: House, tenant: Tenant
) -> None:
    async def password() -> str:
        outfit = await house.rooms.directory.outfit(tenant.owner_id)
        return outfit.settings["b.example"].choices[0].target.password

    await put(http, tenant)
    assert (await put(http, tenant, password=None, port=465, security="tls", host="MAIL.example")).status_code == 200
    assert await password() == "s3cret-word"
    assert message(await put(http, tenant, password=None, username="you")).startswith("smarthosts.0.password: missing")
    assert message(await put(http, tenant, password=None, host="other.example")).startswith("smarthosts.0.password: missing")
    assert (await put(http, tenant, password="other-word")).status_code == 200
    assert await password() == "other-word"
    assert (await put(http, tenant, password=None, username="")).json()["smarthosts"][0]["has_password"] is False
    assert await password() == ""


async def test_a_certificate_of_ones_own_stays_and_is_never_shown(http: httpx.AsyncClient, tenant: Tenant, authority: trustme.CA) -> None:
    leaf = authority.issue_cert("client.example")
    identity = leaf.private_key_and_cert_chain_pem.bytes().decode()
    made = await put(http, tenant, identity=identity, password=None, username="")
    assert made.json()["smarthosts"][0]["has_identity"] is True and "PRIVATE" not in made.text
    kept = await put(http, tenant, password=None, username="")
    assert kept.json()["smarthosts"][0]["has_identity"] is True
    ca = authority.cert_pem.bytes().decode()
    gone = await put(http, tenant, password=None, username="", identity="", ca=ca)
    assert gone.json()["smarthosts"][0]["ca"] == ca
    assert gone.json()["smarthosts"][0]["has_identity"] is False


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"host": "10.0.0.1"}, "smarthosts.0.host: This relay does not connect to that host"),
        ({"host": "2130706433"}, "smarthosts.0.host: This relay does not connect"),
        ({"host": "localhost"}, "smarthosts.0.host: This relay does not connect"),
        ({"host": "mail.example\r\nX"}, "smarthosts.0.host: This relay does not connect"),
        ({"port": 80}, "smarthosts.0.host: This relay does not connect to that port"),
        ({"port": 0}, "body.smarthosts.0.port"),
        ({"host": ""}, "body.smarthosts.0.host"),
        ({"security": "ssl"}, "body.smarthosts.0.security"),
        ({"security": "none"}, 'smarthosts.0.username: refused with security "none"'),
        ({"password": ""}, "smarthosts.0.password: empty"),
        ({"username": ""}, "smarthosts.0.username: missing beside a password"),
        ({"password": "a\r\nb"}, "body.smarthosts.0.password"),
        ({"name": "a b"}, "body.smarthosts.0.name"),
        ({"name": "a\n"}, "body.smarthosts.0.name"),
        ({"name": "a:b"}, "body.smarthosts.0.name"),
        ({"server_name": "[::1]"}, "body.smarthosts.0.server_name"),
        ({"server_name": "]]]]"}, "body.smarthosts.0.server_name"),
        ({"max_messages_per_second": 1e-308}, "body.smarthosts.0.max_messages_per_second"),
        ({"max_messages_per_second": 0.009}, "body.smarthosts.0.max_messages_per_second"),
        ({"max_messages_per_second": -1}, "body.smarthosts.0.max_messages_per_second"),
        ({"ca": "not PEM s3cret"}, "smarthosts.0.ca: not certificates"),
        ({"identity": "not PEM s3cret"}, "smarthosts.0.identity: not a certificate with its key"),
        ({"weight": 0}, "body.smarthosts.0.weight"),
        ({"timeout_seconds": 1e400}, "body"),
        ({"hidden": 1}, "body.smarthosts.0.hidden"),
    ],
)
async def test_what_cannot_be_dialled_is_refused_at_once_without_repeating_a_secret(
    http: httpx.AsyncClient, tenant: Tenant, fields: dict[str, Any], text: str
) -> None:
    if "timeout_seconds" in fields:
        body = '{"smarthosts":[{"host":"mail.example","timeout_seconds":1e400}]}'
        answer = await http.put(f"{PATH}/b.example", content=body, auth=tenant.auth, headers={"Content-Type": "application/json"})
    else:
        answer = await put(http, tenant, **fields)
    assert message(answer).startswith(text)
    assert "s3cret" not in answer.text
    assert (await http.get(PATH, auth=tenant.auth)).json() == {"upstreams": []}


@pytest.mark.parametrize("domain", ["-", "_x", "a b", "b..example", "[127.0.0.1]", "a@b.example", "x" * 300])
async def test_what_is_no_domain_has_no_upstream(http: httpx.AsyncClient, tenant: Tenant, domain: str) -> None:
    assert "domain" in message(await put(http, tenant, domain))
    for method in ("GET", "DELETE"):
        assert message(await http.request(method, f"{PATH}/{domain}", auth=tenant.auth), 404) == "no such upstream"


@pytest.mark.parametrize("body", [{}, {"smarthosts": []}, {"smarthosts": [ONE] * 21}, {"smarthosts": [ONE], "id": "x"}, []])
async def test_an_upstream_has_from_one_to_twenty_smarthosts(http: httpx.AsyncClient, tenant: Tenant, body: Any) -> None:
    message(await http.put(f"{PATH}/b.example", json=body, auth=tenant.auth))


async def test_another_owners_upstreams_are_like_none(http: httpx.AsyncClient, house: House, tenant: Tenant, other: Tenant) -> None:
    await put(http, tenant)
    for method, suffix, body in (("GET", "", None), ("DELETE", "", None), ("POST", "/test", {})):
        answers = [await http.request(method, f"{PATH}/{d}{suffix}", json=body, auth=other.auth) for d in ("b.example", "c.example")]
        assert answers[0].content == answers[1].content and {answer.status_code for answer in answers} == {404}
    assert message(await put(http, other, password=None)).startswith("smarthosts.0.password: missing")
    assert (await put(http, other)).status_code == 201
    assert (await http.delete(f"{PATH}/b.example", auth=other.auth)).status_code == 204
    assert (await http.get(f"{PATH}/b.example", auth=tenant.auth)).status_code == 200


async def test_what_was_written_in_another_dialect_is_shown_whatever_its_bounds(
    http: httpx.AsyncClient, house: House, tenant: Tenant
) -> None:
    target = Target("mail.example", 2526, "none", username="me", password="s3cret-word", timeout=0.5, max_connections=5000)
    await house.rooms.arranging.put_setting(tenant.owner_id, "b.example", [Choice(target, 5000, 5000)], {"provider": "smtp"})
    await house.rooms.arranging.put_setting(tenant.owner_id, "c.example", [], {"provider": "smtp"})
    found = (await http.get(PATH, auth=tenant.auth)).json()["upstreams"]
    assert [len(upstream["smarthosts"]) for upstream in found] == [1, 0]
    assert (found[0]["smarthosts"][0]["timeout_seconds"], found[0]["smarthosts"][0]["weight"]) == (0.5, 5000)
    assert (await http.post(f"{PATH}/c.example/test", json={}, auth=tenant.auth)).json() == {"results": []}


async def test_a_test_goes_by_each_smarthost(http: httpx.AsyncClient, house: House, tenant: Tenant, sink: Sink) -> None:
    smarthosts = [{"host": "127.0.0.1", "port": port, "security": "none"} for port in (sink.port, 1999)]
    await http.put(f"{PATH}/b.example", json={"smarthosts": smarthosts}, auth=tenant.auth)
    answer = await http.post(f"{PATH}/b.example/test", json={}, auth=tenant.auth)
    good, bad = answer.json()["results"]
    assert (good["success"], good["stage"], good["port"]) == (True, "done", sink.port)
    assert (bad["success"], bad["stage"]) == (False, "connect")
    (received,) = sink.messages
    assert (received.sender, tuple(received.recipients)) == ("postmaster@b.example", ("test@sink.example",))
    sink.script = Script.parse(['mail reply="550 5.7.1 not you"'])
    refused = (await http.post(f"{PATH}/b.example/test", json={"sender": "ann@b.example"}, auth=tenant.auth)).json()["results"][0]
    assert (refused["stage"], "not you" in refused["reply"]) == ("sender", True)
    assert "smarthost_tested" in house.log.read_text()


async def test_a_test_is_sent_only_where_it_may(http: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    await put(http, tenant)
    await put(http, tenant, "_default")
    path = f"{PATH}/b.example/test"
    message(await http.post(path, json={"recipient": "x@other.example"}, auth=tenant.auth))
    assert "sender" in message(await http.post(path, json={"sender": "x"}, auth=tenant.auth))
    assert "sender" in message(await http.post(f"{PATH}/_default/test", json={}, auth=tenant.auth))
    house.settings.api.test_recipient = ""
    assert "api.test_recipient" in message(await http.post(path, json={}, auth=tenant.auth), 409)


async def test_what_cannot_be_read_is_said_and_can_be_replaced(http: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    await put(http, tenant)
    await house.store.command("HSET", f"{{o:{tenant.owner_id}}}:settings", "b.example", "0" * 24 + "damaged s3cret")
    await put(http, tenant, "c.example")
    assert "cannot be read" in message(await http.get(PATH, auth=tenant.auth), 500)
    asked = {"SmtpUri": "smtp://me@mail.example", "From": "a@b.example", "UseStoredPassword": True}
    said = await http.post("/api/v1/Agents/CustomerService/TestSmtpServer", json=asked, auth=tenant.auth)
    assert "cannot be read" in said.json()["ErrorMessage"]
    assert message(await put(http, tenant, password=None)).startswith("smarthosts.0.password: missing")
    assert (await put(http, tenant)).is_success
    assert len((await http.get(PATH, auth=tenant.auth)).json()["upstreams"]) == 2


# -- policies and signers ----------------------------------------------------------------------------------------------------


async def test_a_policy_is_set_and_shown(http: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    assert (await http.get("/api/v1/policy", auth=tenant.auth)).json() == {"senders": "any", "allowed": [], "check_from": False}
    body = {"senders": "addresses", "allowed": ["Ann@B.example"], "check_from": True}
    answer = await http.put("/api/v1/policy", json=body, auth=tenant.auth)
    assert answer.json() == {**body, "allowed": ["ann@b.example"]}
    assert (await house.rooms.directory.outfit(tenant.owner_id)).policy == Policy("addresses", ("ann@b.example",), True)
    assert "mailbox" in message(await http.put("/api/v1/policy", json={**body, "allowed": ["b.example"]}, auth=tenant.auth))
    message(await http.put("/api/v1/policy", json={"senders": "some"}, auth=tenant.auth))
    assert (await http.get("/api/v1/policy", auth=tenant.auth)).json()["senders"] == "addresses"


@pytest.mark.parametrize(("key", "begins"), [("generate rsa", "v=DKIM1; k=rsa; p=MII"), ("generate ed25519", "v=DKIM1; k=ed25519; p=")])
async def test_a_signer_is_made_with_a_new_key_and_tells_its_record(
    http: httpx.AsyncClient, house: House, tenant: Tenant, key: str, begins: str
) -> None:
    body = {"selector": "s2026", "key": key}
    made = await http.put("/api/v1/signers/B.example", json=body, auth=tenant.auth)
    assert made.json()["dns_name"] == "s2026._domainkey.b.example" and made.json()["dns_value"].startswith(begins)
    assert (await http.get("/api/v1/signers", auth=tenant.auth)).json() == {"signers": [made.json()]}
    signer = (await house.rooms.directory.outfit(tenant.owner_id)).signer_for("b.example")
    assert signer is not None
    again = await http.put("/api/v1/signers/b.example", json={"selector": "s2026", "key": signer.key}, auth=tenant.auth)
    assert again.json() == made.json() and "PRIVATE" not in again.text
    assert (await http.delete("/api/v1/signers/b.example", auth=tenant.auth)).status_code == 204
    assert message(await http.delete("/api/v1/signers/b.example", auth=tenant.auth), 404) == "no such signer"


@pytest.mark.parametrize(
    ("domain", "selector", "key", "text"),
    [
        ("b.example", "s", "generate", "key"),
        ("b.example", "s", "s3cret", "key"),
        ("b.example", "s", "-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----\n", "key"),
        ("b.example", "s s", "generate ed25519", "selector"),
        ("_default", "s", "generate ed25519", "domain"),
    ],
)
async def test_a_signer_that_cannot_sign_is_refused(
    http: httpx.AsyncClient, tenant: Tenant, domain: str, selector: str, key: str, text: str
) -> None:
    answer = await http.put(f"/api/v1/signers/{domain}", json={"selector": selector, "key": key}, auth=tenant.auth)
    assert text in message(answer) and "s3cret" not in answer.text


async def test_all_of_it_needs_the_owner(http: httpx.AsyncClient, tenant: Tenant) -> None:
    for method, path in (("GET", PATH), ("GET", f"{PATH}/b.example"), ("GET", "/api/v1/policy"), ("GET", "/api/v1/signers")):
        assert (await http.request(method, path)).status_code == 401
        assert (await http.request(method, path, auth=(tenant.owner_id, "guess"))).status_code in (401, 429)
