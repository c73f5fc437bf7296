"""TestSmtpServer over HTTP: octet for octet as documented, for every client that is known, with a real SMTP conversation behind it."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest

from relay.accounts.setting import Setting
from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from relay.upstream.route import Choice, Target
from tests.api.conftest import House, Tenant

PATH = "/api/v1/Agents/CustomerService/TestSmtpServer"
KEYS = ["Success", "ErrorMessage", "TableRight", "FieldProperties"]


def asked(sink: Sink, credentials: str = "", **more: Any) -> dict[str, Any]:
    return {"SmtpUri": f"smtp://{credentials}127.0.0.1:{sink.port}", "From": "admin@b.example", "UseStoredPassword": False, **more}


async def call(http: httpx.AsyncClient, tenant: Tenant, body: Any, path: str = PATH, **headers: str) -> httpx.Response:
    return await http.post(path, json=body, auth=tenant.auth, headers=headers)


async def outcome(http: httpx.AsyncClient, tenant: Tenant, body: Any) -> tuple[bool, str]:
    """Whether a test went well, and what was said of it."""
    answer = await call(http, tenant, body)
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == KEYS
    return answer.json()["Success"], answer.json()["ErrorMessage"]


async def raw(house: House, request: bytes) -> bytes:
    """Send octets, read octets."""
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()
    return answer


def document(authorization: str, uri: str, method: str = "POST") -> bytes:
    """The documented example, with who asks and the account filled in."""
    body = f'{{\r\n"SmtpUri": "{uri}",\r\n"From": "atque@b.example",\r\n"UseStoredPassword": false\r\n}}'
    return (
        f"{method} /api/v1/Agents/CustomerService/TestSmtpServer HTTP/1.1\r\nHost: relay.example\r\nConnection: close\r\n"
        f"Authorization: {authorization}\r\nAccept: application/json; charset=utf-8\r\nAccept-Language: sv\r\n"
        f"Content-Type: application/json; charset=utf-8\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def basic(tenant: Tenant) -> str:
    return "Basic " + base64.b64encode(f"{tenant.owner_id}:{tenant.token}".encode()).decode()


# -- octets ------------------------------------------------------------------------------------------------------------------


async def test_the_documented_example_is_answered_octet_for_octet(house: House, tenant: Tenant) -> None:
    answer = await raw(house, document(basic(tenant), "rerum"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n") and b"\r\ncontent-type: application/json; charset=utf-8" in head
    sentence = b"SmtpUri must begin with smtp:// or smtps://."
    assert body == b'{"Success":false,"ErrorMessage":"' + sentence + b'","TableRight":null,"FieldProperties":{}}'


async def test_the_documented_example_sends_a_message_when_it_names_a_server(house: House, tenant: Tenant, sink: Sink) -> None:
    answer = await raw(house, document(basic(tenant), f"smtp://127.0.0.1:{sink.port}"))
    assert answer.endswith(b'\r\n\r\n{"Success":true,"ErrorMessage":"","TableRight":null,"FieldProperties":{}}')
    (received,) = sink.messages
    assert (received.sender, tuple(received.recipients)) == ("atque@b.example", ("test@sink.example",))


async def test_the_documented_credentials_are_nobodys(house: House) -> None:
    answer = await raw(house, document("Basic dGplMDpUamUw", "rerum"))
    assert answer.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert b'\r\nwww-authenticate: Basic realm="SuperOffice Username or Ticket"\r\n' in answer.replace(b"WWW-A", b"www-a")
    assert b"content-type: text/html" in answer and b"<html>" in answer


async def test_only_post_runs_it(house: House, http: httpx.AsyncClient, tenant: Tenant, sink: Sink) -> None:
    answer = await raw(house, document(basic(tenant), f"smtp://127.0.0.1:{sink.port}", "GET"))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and b'"Name":"TestSmtpServer"' in answer
    for method in ("PUT", "DELETE", "PATCH"):
        refused = await http.request(method, PATH, auth=tenant.auth)
        assert (refused.status_code, list(refused.json())) == (405, ["Message"])
        assert refused.headers["allow"] == "GET, POST"
    assert sink.messages == [] and sink.intake.connections == 0


# -- who asks ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["SoTicket", "SOTicket", "SOTICKET", "Bearer", "bearer"])
async def test_a_ticket_is_an_access_token_or_the_owners_own(
    http: httpx.AsyncClient, house: House, tenant: Tenant, sink: Sink, scheme: str
) -> None:
    _, token = await house.rooms.tokens.issue(tenant.owner_id, "")
    for ticket in (token, f"{tenant.owner_id}:{tenant.token}"):
        headers = {
            "Authorization": f"{scheme} {ticket}",
            "SO-AppToken": "app",
            "SO-Language": "en",
            "SO-Culture": "en",
            "SO-TimeZone": "UTC",
        }
        answer = await http.post(PATH, json=asked(sink), headers=headers)
        assert answer.json()["Success"] is True, answer.text
    found = await house.registry.find_owner(tenant.owner_id)
    assert found is not None
    session = await house.rooms.tokens.open_session(found)
    headers = {"Authorization": f"{scheme} {session.token}", "X-Key": session.key}
    assert (await http.post(PATH, json=asked(sink), headers=headers)).json()["Success"] is True
    assert len(sink.messages) == 3


async def test_a_page_that_is_signed_in_shows_what_only_it_can_read(
    http: httpx.AsyncClient, house: House, tenant: Tenant, sink: Sink
) -> None:
    signed_in = await http.post("/login", json={"username": tenant.owner_id, "password": tenant.token})
    mark = signed_in.cookies["XSRF-TOKEN"]
    cookies = "; ".join(f"{name}={value}" for name, value in signed_in.cookies.items())
    http.cookies.clear()
    answer = await http.post(PATH, json=asked(sink), headers={"Cookie": cookies, "X-XSRF-TOKEN": mark})
    assert answer.json()["Success"] is True
    for headers in ({"Cookie": cookies}, {"Cookie": cookies, "X-XSRF-TOKEN": "guess"}, {"X-XSRF-TOKEN": mark}):
        assert (await http.post(PATH, json=asked(sink), headers=headers)).status_code == 401
    assert len(sink.messages) == 1


@pytest.mark.parametrize(
    "header",
    [None, "", "Basic", "Basic !!!", "Basic YTpi", "Bearer", "Bearer x", "SoTicket x.y.z", "SoTicket a:b", "Digest x", "SoTicket \x7f"],
)
async def test_without_good_credentials_nothing_is_run(http: httpx.AsyncClient, sink: Sink, header: str | None) -> None:
    answer = await http.post(PATH, json=asked(sink), headers={} if header is None else {"Authorization": header})
    assert answer.status_code == 401 and "text/html" in answer.headers["content-type"]
    assert answer.headers["www-authenticate"] == 'Basic realm="SuperOffice Username or Ticket"'
    assert sink.intake.connections == 0


async def test_guessing_is_slowed_down(http: httpx.AsyncClient, tenant: Tenant) -> None:
    for _ in range(5):
        assert (await http.post(PATH, json={}, auth=(tenant.owner_id, "guess"))).status_code == 401
    answer = await http.post(PATH, json={}, auth=tenant.auth)
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0
    assert answer.json()["Message"].startswith("Too many failed attempts")


async def test_a_disabled_owner_is_refused_however_it_asks(http: httpx.AsyncClient, house: House, tenant: Tenant, sink: Sink) -> None:
    _, token = await house.rooms.tokens.issue(tenant.owner_id, "")
    await house.provisioning.set_owner_status(tenant.owner_id, False)
    answer = await call(http, tenant, asked(sink))
    assert (answer.status_code, answer.json()) == (403, {"Message": "The owner is disabled."})
    assert (await http.post(PATH, json=asked(sink), headers={"Authorization": f"Bearer {token}"})).status_code == 401
    assert sink.intake.connections == 0


async def test_a_token_of_one_domain_speaks_for_it_alone(http: httpx.AsyncClient, house: House, tenant: Tenant, sink: Sink) -> None:
    _, token = await house.rooms.tokens.issue(tenant.owner_id, "b.example")
    headers = {"Authorization": f"Bearer {token}"}
    assert (await http.post(PATH, json=asked(sink, From="a@B.example"), headers=headers)).json()["Success"] is True
    answer = await http.post(PATH, json=asked(sink, From="a@c.example"), headers=headers)
    assert "b.example alone" in answer.json()["ErrorMessage"]
    await store(house, tenant, Target("127.0.0.1", sink.port, "none", username="me", password="right"), "c.example")
    body = asked(sink, "me@", UseStoredPassword=True)
    assert "No password is stored" in (await http.post(PATH, json=body, headers=headers)).json()["ErrorMessage"]


# -- how it is asked and answered --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/v1/Agents/CustomerService/TestSmtpServer",
        "/SuperOffice/api/v1/Agents/CustomerService/TestSmtpServer",
        "/Cust12345/api/v1/Agents/CustomerService/TestSmtpServer",
        "/api/v1/agents/customerservice/testsmtpserver",
        "/API/V1/Agents/CustomerService/TestSmtpServer/",
    ],
)
async def test_any_prefix_and_any_case_lead_to_it(http: httpx.AsyncClient, tenant: Tenant, sink: Sink, path: str) -> None:
    assert (await call(http, tenant, asked(sink), path)).json()["Success"] is True
    figures = (await http.get("/metrics")).text
    assert f'call="{PATH}",status="200"' in figures and "Cust12345" not in figures


async def test_a_path_that_only_resembles_it_is_not_it(http: httpx.AsyncClient, tenant: Tenant, sink: Sink) -> None:
    for path in (f"{PATH}/x", f"{PATH}2", "/api/v2/Agents/CustomerService/TestSmtpServer", "/api/v1/CustomerService/TestSmtpServer"):
        assert (await call(http, tenant, asked(sink), path)).status_code in (401, 404)
    assert sink.intake.connections == 0


async def test_the_official_client_writes_in_camel_case_and_reads_pascal_case(http: httpx.AsyncClient, tenant: Tenant, sink: Sink) -> None:
    body = {"smtpUri": f"smtp://127.0.0.1:{sink.port}", "from": "a@b.example", "useStoredPassword": False}
    headers = {"User-Agent": "SO-TS-WebApi/1.0", "SO-BROWSER-TZ-OFFSET": "-60"}
    assert (await call(http, tenant, body, **headers)).json() == dict(zip(KEYS, (True, "", None, {}), strict=True))


@pytest.mark.parametrize(
    ("content_type", "accept", "expected"),
    [
        ("text/xml", None, "text/xml"),
        ("application/xml", "*/*", "application/xml"),
        ("application/xml", "application/json", "application/json"),
        ("application/json", "text/xml;q=0.9, application/json;q=0.1", "text/xml"),
        ("text/json", "text/json", "text/json"),
        ("application/x-www-form-urlencoded", None, "application/json"),
        ("application/json-patch+json", "application/json-patch+json", "application/json-patch+json"),
        ("application/merge-patch+json; charset=utf-8", "application/merge-patch+json", "application/merge-patch+json"),
    ],
)
async def test_every_form_goes_in_and_comes_out(
    http: httpx.AsyncClient, tenant: Tenant, sink: Sink, content_type: str, accept: str | None, expected: str
) -> None:
    uri = f"smtp://127.0.0.1:{sink.port}"
    if "xml" in content_type:
        content = f"<Request><SmtpUri>{uri}</SmtpUri><From>a@b.example</From></Request>"
    elif "form" in content_type:
        content = f"SmtpUri={uri}&From=a@b.example&UseStoredPassword=false"
    else:
        content = json.dumps(asked(sink))
    http.headers.pop("accept")
    headers = {"Content-Type": content_type} | ({"Accept": accept} if accept else {})
    answer = await http.post(PATH, content=content, auth=tenant.auth, headers=headers)
    assert answer.headers["content-type"] == f"{expected}; charset=utf-8"
    if "xml" in expected:
        tree = ElementTree.fromstring(answer.text)
        assert (tree.tag, [child.tag for child in tree], tree.findtext("Success")) == ("SmtpTestResult", KEYS, "true")
    else:
        assert answer.json()["Success"] is True


@pytest.mark.parametrize("key", ["$select", "$SELECT", "%24select"])
async def test_what_is_not_selected_is_null(http: httpx.AsyncClient, tenant: Tenant, sink: Sink, key: str) -> None:
    answer = await call(http, tenant, asked(sink), f"{PATH}?{key}=success,category/id")
    assert answer.json() == dict(zip(KEYS, (True, None, None, None), strict=True))


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"<!DOCTYPE a [<!ENTITY x 's3cret'>]><a/>", "text/xml", 400),
        (b"{}", "text/plain", 415),
        (b"{" + b" " * 5000 + b"}", "application/json", 413),
    ],
)
async def test_what_cannot_be_read_is_told_in_their_shape(
    http: httpx.AsyncClient, tenant: Tenant, content: bytes, kind: str, status: int
) -> None:
    answer = await http.post(PATH, content=content, auth=tenant.auth, headers={"Content-Type": kind, "Accept": "application/json"})
    assert answer.status_code == status
    if status == 400:
        assert list(answer.json()) == ["Message", "MessageDetail"] and answer.json()["Message"] == "The request is invalid."
    else:
        assert list(answer.json()) == ["Message"]
    answer = await http.post(PATH, content=content, auth=tenant.auth, headers={"Content-Type": kind, "Accept": "text/xml"})
    assert (answer.status_code, ElementTree.fromstring(answer.text).tag) == (status, "Error")


async def test_other_calls_of_agents_are_not_found_in_their_shape(http: httpx.AsyncClient, tenant: Tenant) -> None:
    answer = await http.post("/api/v1/Agents/CustomerService/Other", json={}, auth=tenant.auth)
    assert (answer.status_code, list(answer.json())) == (404, ["Message"])


async def test_without_the_store_the_answer_is_temporary(http: httpx.AsyncClient, house: House, tenant: Tenant, sink: Sink) -> None:
    await house.store.command("FLUSHALL")
    answer = await call(http, tenant, asked(sink))
    assert answer.status_code == 503 and answer.headers["retry-after"] and list(answer.json()) == ["Message"]


# -- what is stored ----------------------------------------------------------------------------------------------------------


async def store(house: House, tenant: Tenant, target: Target, domain: str = "b.example") -> Setting:
    put = await house.rooms.arranging.put_setting(tenant.owner_id, domain, [Choice(target)])
    assert put is not None
    return put[0]


async def test_the_stored_password_is_used_and_no_other_owners(
    http: httpx.AsyncClient, house: House, tenant: Tenant, other: Tenant
) -> None:
    secured = Sink(credentials={"me@b.example": "right"})
    await secured.start()
    body = asked(secured, "me%40b.example:wrong@", UseStoredPassword=True)
    assert "No password is stored" in (await outcome(http, tenant, body))[1]
    await store(house, tenant, Target("127.0.0.1", secured.port, "none", username="me@b.example", password="right"))
    assert await outcome(http, tenant, body) == (True, "")
    assert "No password is stored" in (await outcome(http, other, body))[1]
    await secured.stop()


async def test_no_test_address_is_said(http: httpx.AsyncClient, house: House, tenant: Tenant, sink: Sink) -> None:
    house.settings.api.test_recipient = ""
    assert "api.test_recipient" in (await outcome(http, tenant, asked(sink)))[1]
    assert sink.intake.connections == 0


@pytest.mark.parametrize(
    "uri", ["smtp://u:s3cret@/x", "smtp://u:s3cret%zz@h.example", "s3cret", "smtp://h.example:s3cret", "smtp://u:s3cret@10.0.0.1"]
)
async def test_no_secret_is_said_again(http: httpx.AsyncClient, house: House, tenant: Tenant, uri: str) -> None:
    is_success, text = await outcome(http, tenant, {"SmtpUri": uri, "From": "a@b.example"})
    assert not is_success and text and "s3cret" not in text
    assert "s3cret" not in house.log.read_text()


async def test_a_stalled_server_is_given_up_within_the_budget(http: httpx.AsyncClient, house: House, tenant: Tenant, sink: Sink) -> None:
    house.settings.api.test_budget_seconds = 0.5
    sink.script = Script.parse(["mail stall=forever"])
    began = asyncio.get_running_loop().time()
    assert not (await outcome(http, tenant, asked(sink)))[0]
    assert asyncio.get_running_loop().time() - began < 3
