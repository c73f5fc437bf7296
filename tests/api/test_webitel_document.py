"""Every request of Webitel's document as octets on a socket, and what the document says is answered, octet by octet.

The document's tokens and keys are long over: real ones stand in their place. Its ids and, in one example, its password are not those
of the request above them; here every answer shows what the requests before it wrote.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass

import pytest

from relay.accounts.token import Session
from tests.api.conftest import House, Tenant

CREATED = """{ "provider": "smtp", "description": "My Setting", "from": "my@webitel.com", "options": {
 "host": "m.webitel.com", "port": 465, "secure": true,
 "debug": false, "tls": { "rejectUnauthorized": false }, "auth": { "user": "my@webitel.com", "pass": "itte574dsts485" } } }"""
UPDATED = CREATED.replace("My Setting", "My updated setting")
CURL = CREATED.replace("itte574dsts485", "241a821e7655fss")
CURL_UPDATED = UPDATED.replace("itte574dsts485", "241a821e7655fss")
PREFIXES = ("", "/engine")
"""Where the examples call, and where its command lines do."""
DOCUMENT = "/api/v2/email/settings?domain=my.webitel.com"


@dataclass(frozen=True)
class Answer:
    line: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Page:
    """Who calls, and where."""

    port: int
    session: Session

    async def call(self, method: str, url: str, body: str | None = None, *, is_json: bool = True) -> Answer:
        """Send a request as the document shows it, and read the answer to its end."""
        head = [f"{method} {url} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", "Connection: close"]
        if body is not None:
            head += ["Content-Type: application/json"] if is_json else []
            head += [f"Content-Length: {len(body.encode())}"]
        head += [f"X-Access-Token: {self.session.token}", f"X-Key: {self.session.key}"]
        return await talk(self.port, "\r\n".join([*head, "", body or ""]).encode())


async def talk(port: int, octets: bytes) -> Answer:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(octets)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}
    assert headers["content-length"] == str(len(body))
    return Answer(line, headers, body)


@pytest.fixture
async def page(house: House, tenant: Tenant) -> Page:
    """A page that is signed in."""
    owner = await house.registry.find_owner(tenant.owner_id)
    assert owner is not None
    return Page(house.port, await house.rooms.tokens.open_session(owner))


def stored(example: str, answer: Answer) -> bytes:
    """What is answered for a setting: the example without its blanks, after the id that it was given and before its domain."""
    found = re.match(rb'\{"_id":"([0-9a-f]{24})",', answer.body)
    assert found is not None
    whole = {"_id": found[1].decode(), **json.loads(example), "domain": "my.webitel.com"}
    return json.dumps(whole, separators=(",", ":")).encode()


def is_ok(answer: Answer) -> bool:
    return answer.line == "HTTP/1.1 200 OK" and answer.headers["content-type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_create_email_settings(page: Page, prefix: str) -> None:
    answer = await page.call("POST", prefix + DOCUMENT, CREATED)
    assert is_ok(answer) and answer.body == stored(CREATED, answer)


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_get_email_settings(page: Page, prefix: str) -> None:
    made = await page.call(
        "POST", DOCUMENT, CREATED.replace("My Setting", "My PBX Email Settings").replace("itte574dsts485", "b271e0c652eaa98e")
    )
    answer = await page.call("GET", prefix + DOCUMENT)
    assert is_ok(answer) and answer.body == made.body
    assert b'"description":"My PBX Email Settings","from":"my@webitel.com"' in answer.body


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_update_email_settings(page: Page, prefix: str) -> None:
    made = await page.call("POST", DOCUMENT, CREATED)
    answer = await page.call("PUT", prefix + DOCUMENT, UPDATED)
    assert is_ok(answer) and answer.body == stored(UPDATED, answer) == made.body.replace(b"My Setting", b"My updated setting")


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_delete_email_settings(page: Page, prefix: str) -> None:
    await page.call("POST", DOCUMENT, CREATED)
    answer = await page.call("DELETE", prefix + DOCUMENT)
    assert is_ok(answer) and answer.body == b'{"status":"OK","Info":"Removed 1 record."}'


async def test_the_command_lines_one_after_the_other(page: Page) -> None:
    missing = await page.call("GET", "/engine" + DOCUMENT)
    assert (missing.line, missing.body) == ("HTTP/1.1 404 Not Found", b'{"status":"error","info":"Not found!"}')
    made = await page.call("POST", "/engine" + DOCUMENT, CURL)
    assert is_ok(made) and made.body == stored(CURL, made)
    again = await page.call("POST", "/engine" + DOCUMENT, CURL_UPDATED)  # its command line for an update says POST
    assert is_ok(again) and again.body == made.body.replace(b"My Setting", b"My updated setting")
    assert (await page.call("GET", "/engine" + DOCUMENT)).body == again.body
    assert (await page.call("DELETE", DOCUMENT)).body == b'{"status":"OK","Info":"Removed 1 record."}'


async def test_bad_request_without_a_domain_as_the_document_lists_it(page: Page) -> None:
    url = DOCUMENT.partition("?")[0]
    shown = await page.call("GET", url)
    assert (shown.line, shown.body) == ("HTTP/1.1 400 Bad Request", b'{"status":"error","info":"Bad request (domain required)."}')
    for method, body in (("POST", CREATED), ("PUT", UPDATED), ("DELETE", None)):
        answer = await page.call(method, url, body)
        assert (answer.line, answer.body) == ("HTTP/1.1 400 Bad Request", b'{"status":"error","info":"Bad parameters."}')


async def test_a_body_that_is_not_called_json_is_no_body(page: Page) -> None:
    answer = await page.call("POST", DOCUMENT, CREATED, is_json=False)
    assert (answer.line, answer.body) == ("HTTP/1.1 400 Bad Request", b'{"status":"error","info":"Bad parameters."}')


async def test_the_documents_own_tokens_are_over(house: House) -> None:
    token = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJleHAiOjE0NDIwMDIxNzkzNTh9.pKXWfzXqbp8FMbOKocNaSlT1bYq4Xqzol-0kEXOY0_s"
    page = Page(house.port, Session("8fd26a17-eb28-4c74-aa6f-a3794f4f466c", token, 0))
    answer = await page.call("GET", DOCUMENT)
    assert answer.line == "HTTP/1.1 401 Unauthorized"
    assert answer.body == b'{"status":"error","info":"Invalid token"}'  # signed with another secret: nothing in it is looked at
