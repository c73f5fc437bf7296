"""The page at /docs: it shows every call, needs nothing but itself, lets nothing in it become markup, and its lines for curl work."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from relay.api.reference import Page
from relay.loadkit.sink import Sink
from relay.spool.spool import Spool
from tests.api.conftest import House, Tenant
from tests.peer import need

TAGS = {
    "html", "head", "meta", "title", "style", "body", "nav", "main", "header", "section", "article", "h1", "h2", "h3", "h4",
    "a", "p", "ul", "li", "b", "small", "strong", "code", "pre", "wbr", "details", "summary",
}  # fmt: skip
ATTRIBUTES = {"lang", "charset", "name", "content", "aria-label", "id", "class", "href", "open"}
HOSTILE = "\"'><script>alert(1)</script><img src=//evil.example onerror=alert(1)>`<b onclick=x>`&amp;"
DOMAIN = "sender.example"


@pytest.fixture
def spool(empty_spool: Spool) -> Spool:
    """There is one behind the door."""
    return empty_spool


class Seen(HTMLParser):
    """What a browser would make of a page: its elements with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.headings: list[str] = []
        self.is_heading = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "h3":
            self.is_heading = True
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        self.is_heading = self.is_heading and tag != "h3"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.is_heading:
            self.headings[-1] += data

    def values(self, attribute: str) -> list[str]:
        return [found for _, attributes in self.elements if (found := attributes.get(attribute)) is not None]


def check_harmless(page: str) -> Seen:
    """The page has no element, attribute or address beside those that the reference writes itself."""
    seen = Seen(page)
    assert {tag for tag, _ in seen.elements} <= TAGS
    assert {attribute for _, attributes in seen.elements for attribute in attributes} <= ATTRIBUTES
    assert all(address == "openapi.json" or re.fullmatch("#[a-z0-9-]*", address) for address in seen.values("href"))
    return seen


def described(schema: Any, **schemas: Any) -> dict[str, Any]:
    """A document of one call that takes and answers a schema."""
    content = {"application/json": {"schema": schema}}
    call = {"requestBody": {"required": True, "content": content}, "responses": {"200": {"description": "Done", "content": content}}}
    return {"info": {"title": "t", "version": "1"}, "paths": {"/x": {"post": call}}, "components": {"schemas": schemas}}


async def test_every_call_of_the_application_is_on_the_page(http: httpx.AsyncClient) -> None:
    document, page = (await http.get("/openapi.json")).json(), (await http.get("/docs")).text
    seen = check_harmless(page)
    calls = [f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods]
    assert sorted(seen.headings) == sorted(calls) and len(calls) > 40
    anchors = seen.values("id")
    assert len(anchors) == len(set(anchors)) and {address[1:] for address in seen.values("href") if address[0] == "#"} == set(anchors)
    assert document["info"]["description"] in seen.text and "openapi.json" in seen.values("href")


async def test_the_page_says_who_may_call_and_what_is_sent_and_answered(http: httpx.AsyncClient) -> None:
    page = (await http.get("/docs")).text
    articles = {anchor: Seen(text).text for anchor, text in re.findall(r'<article id="(.*?)">(.*?)</article>', page, re.DOTALL)}
    change = articles["patch-api-v1-users-name"]
    for text in (
        "in path, string required",
        "hourly_limit integer or null1 to 1,000,000,000,000",
        "401 Wrong credentials",
        "smtp_user_name",
    ):
        assert text in change, text
    assert "HTTP Basic: owner_id and token; or HTTP Basic: smtp_user_name and its password" in articles["get-api-v1-queue"]
    assert "one of all, waiting, held; default all" in articles["get-api-v1-queue"]
    assert "The headers X-Access-Token and X-Key" in articles["put-api-v2-email-settings"]
    assert "owner_id and token in the body" in articles["post-v1-0-settings-addsmtp"]
    upstream = articles["put-api-v1-upstreams-domain"]
    assert "smarthosts array of object required1 to 20 items" in upstream and "host string required" in upstream
    assert "AuthenticationNone" in articles["get-healthz"]


async def test_no_call_is_said_to_answer_422(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    answers = [call["responses"] for methods in document["paths"].values() for call in methods.values()]
    assert all("422" not in answer for answer in answers) and "HTTPValidationError" not in document["components"]["schemas"]
    assert "422" not in (await http.get("/docs")).text


async def test_the_page_needs_no_other_host_and_lets_none_in(http: httpx.AsyncClient) -> None:
    answer = await http.get("/docs")
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    for word in ("http://", "https://", "<script", "<link", "@import", "url(", "style="):
        assert word not in answer.text, word
    (style,) = re.findall("<style>(.*?)</style>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    for name, value in {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "max-age=300",
    }.items():
        assert answer.headers.get_list(name) == [value]


async def test_head_has_the_headers_and_no_body_and_all_else_is_refused_in_our_shape(http: httpx.AsyncClient) -> None:
    full, head = await http.get("/docs"), await http.head("/docs")
    own = {name: value for name, value in head.headers.items() if name != "date"}
    assert (head.status_code, head.content) == (200, b"") and own == {name: full.headers[name] for name in own}
    assert int(head.headers["content-length"]) == len(full.content)
    for path in ("/docs/oauth2-redirect", "/redoc", "/docs/"):
        answer = await http.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), path
    assert (await http.post("/docs")).json()["error"]["code"] == "method_not_allowed"


async def test_every_line_for_curl_works_once_it_is_filled_in(house: House, http: httpx.AsyncClient, tenant: Tenant, sink: Sink) -> None:
    curl = need("curl")
    page = (await http.get("/docs")).text
    lines = [html.unescape(line) for line in re.findall("<pre>(.*?)</pre>", page, re.DOTALL)]
    for line in lines:
        values = await _prepare(http, tenant, sink)
        filled = line
        for word, value in values.items():
            filled = filled.replace(word, value)
        code = await _run(f"{filled} --silent --noproxy '*' --output {os.devnull} --write-out '%{{http_code}}'", Path(curl).parent)
        # Nothing waits in this queue: what is shown in place of a message is that there is none.
        assert code == "404" if "/queue/none" in filled else code.startswith("2"), (filled, code)


async def _prepare(http: httpx.AsyncClient, tenant: Tenant, sink: Sink) -> dict[str, str]:
    """Make everything that a line may speak of; returns what its words in capitals stand for."""
    smarthost = {"host": "127.0.0.1", "port": sink.port, "security": "none"}
    await http.put(f"/api/v1/upstreams/{DOMAIN}", json={"smarthosts": [smarthost]}, auth=tenant.auth)
    await http.put(f"/api/v1/signers/{DOMAIN}", json={"selector": "s", "key": "generate ed25519"}, auth=tenant.auth)
    user = (await http.post("/api/v1/users", json={"hourly_limit": 1, "total_limit": 1}, auth=tenant.auth)).json()
    session = (await http.post("/login", json={"username": tenant.owner_id, "password": tenant.token})).json()
    return {
        "RELAY_URL": str(http.base_url).rstrip("/"),
        "OWNER_ID:TOKEN": f"{tenant.owner_id}:{tenant.token}",
        "SMTP_USER_NAME:PASSWORD": f"{user['smtp_user_name']}:{user['smtp_password']}",
        '"OWNER_ID"': f'"{tenant.owner_id}"',
        '"TOKEN"': f'"{tenant.token}"',
        '"SMTP_USER_NAME"': f'"{user["smtp_user_name"]}"',
        '"USERNAME"': f'"{tenant.owner_id}"',
        '"PASSWORD"': f'"{tenant.token}"',
        "/NAME": f"/{user['smtp_user_name']}",
        "DOMAIN": DOMAIN,
        "/ID": "/none",
        "/TO": "/anybody",
        "HOST": "127.0.0.1",
        "SMTP_URI": f"smtp://127.0.0.1:{sink.port}",
        "FROM": f"me@{DOMAIN}",
        "SELECTOR": "s",
        '"KEY"': '"generate ed25519"',
        "X_ACCESS_TOKEN": session["token"],
        "X_KEY": session["key"],
    }


async def _run(command: str, program: Path) -> str:
    """What a command for the shell says."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_shell(command, stdout=pipe, env={"PATH": f"{program}:{os.defpath}"})
    said, _ = await process.communicate()
    return said.decode()


def test_nothing_in_a_description_becomes_markup() -> None:
    field = {"type": "string", "description": HOSTILE, "enum": [HOSTILE, "b"], "default": HOSTILE, "pattern": HOSTILE, "format": HOSTILE}
    schema = {"type": "object", "properties": {HOSTILE: field}, "required": [HOSTILE]}
    content = {HOSTILE: {"schema": schema}}
    call = {
        "tags": [HOSTILE],
        "description": HOSTILE,
        "parameters": [{"name": HOSTILE, "in": "query", "required": True, "schema": field, "description": HOSTILE}],
        "security": [{HOSTILE: []}, {"key": []}],
        "requestBody": {"required": True, "content": content},
        "responses": {HOSTILE: {"description": HOSTILE, "content": content}, "200": {"content": {HOSTILE: {"schema": {"type": HOSTILE}}}}},
    }
    document = {
        "info": {"title": HOSTILE, "version": HOSTILE, "description": HOSTILE},
        "paths": {f"/{HOSTILE}/{{{HOSTILE}}}": {HOSTILE: call, "get": {"summary": HOSTILE, "security": [{"key": []}]}}},
        "components": {
            "securitySchemes": {
                HOSTILE: {"type": "http", "description": HOSTILE},
                "key": {"type": "apiKey", "in": "header", "name": HOSTILE},
            }
        },
    }
    seen = check_harmless(Page(document).write())
    assert seen.text.count("<script>alert(1)</script>") > 10 and "&amp;" in seen.text


def test_what_is_in_backticks_is_code_and_nothing_else_is() -> None:
    document = described({"type": "object", "properties": {"a": {"type": "string", "description": "`x < y` or *z*"}}})
    assert "<p><code>x &lt; y</code> or *z*</p>" in Page(document).write()


@pytest.mark.parametrize(
    "schemas",
    [
        {"A": {"type": "object", "properties": {"me": {"$ref": "#/components/schemas/A"}}, "required": ["me"]}},
        {
            "A": {"type": "object", "properties": {"all": {"type": "array", "items": {"$ref": "#/components/schemas/B"}}}},
            "B": {"anyOf": [{"$ref": "#/components/schemas/A"}, {"$ref": "#/components/schemas/B"}, {"type": "null"}]},
        },
        {"A": {"$ref": "#/components/schemas/B"}, "B": {"$ref": "#/components/schemas/A"}},
        {"A": {"anyOf": [{"$ref": "#/components/schemas/A"}, {"type": "null"}]}},
        {"A": {"type": "array", "items": {"$ref": "#/components/schemas/A"}}},
        {},
    ],
)
def test_a_schema_that_speaks_of_itself_or_of_none_ends(schemas: dict[str, Any]) -> None:
    page = Page(described({"$ref": "#/components/schemas/A"}, **schemas)).write()
    check_harmless(page)
    assert len(page) < 20_000


def test_objects_within_objects_are_shown_down_to_a_depth() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for level in range(30, 0, -1):
        schema = {"type": "object", "properties": {f"level{level}": schema}}
    page = Page(described(schema)).write()
    assert "<code>level5</code>" in page and "<code>level9</code>" not in page and "level9" not in page
