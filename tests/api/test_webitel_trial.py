"""The Webitel call that tests a setting: a real message to a real smarthost."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import trustme

from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from tests.api.conftest import House, Tenant
from tests.api.webitel_calls import DOMAIN, HERE, PASSWORD, SETTINGS, WRITTEN, error, put, signed_in


@pytest.fixture
async def page(house: House, tenant: Tenant) -> AsyncIterator[httpx.AsyncClient]:
    """A client that is signed in."""
    headers = await signed_in(house, tenant)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{house.port}", timeout=30, headers=headers) as client:
        yield client


def options(sink: Sink, **more: Any) -> dict[str, Any]:
    return {"host": sink.host, "port": sink.port, "ignoreTLS": True, **more}


@pytest.fixture
async def keeping() -> AsyncIterator[Sink]:
    """A smarthost that asks for a login, and keeps what it takes."""
    sink = Sink(keep=True, credentials={"my@webitel.com": PASSWORD})
    await sink.start()
    yield sink
    await sink.stop()


async def test_a_test_sends_a_message_by_the_setting_and_tells_of_it_as_nodemailer_does(page: httpx.AsyncClient, keeping: Sink) -> None:
    await put(page, options=options(keeping, auth=WRITTEN["options"]["auth"]))
    calls: tuple[tuple[str, dict[str, str], str], ...] = (
        (f"{SETTINGS}/test", {}, "test@sink.example"),
        (f"{SETTINGS}/test", {"to": "me@elsewhere.example"}, "test@sink.example"),
        (f"{SETTINGS}/test/you@{DOMAIN}", {"to": f"me@{DOMAIN}"}, "test@sink.example"),
        (f"/engine{SETTINGS}/test/you%40{DOMAIN}", {}, "test@sink.example"),
    )
    for path, body, to in calls:
        answer = await page.post(path, params=HERE, json=body)
        assert answer.status_code == 200, answer.text
        found, message = answer.json(), keeping.messages[-1]
        assert list(found) == ["status", "info"] and found["status"] == "OK"
        assert list(found["info"]) == ["accepted", "rejected", "response", "envelope", "messageId"]
        assert (found["info"]["accepted"], found["info"]["rejected"]) == ([to], [])
        assert found["info"]["envelope"] == {"from": f"my@{DOMAIN}", "to": [to]}
        assert found["info"]["response"].startswith("250 ")
        assert (message.sender, message.recipients) == (f"my@{DOMAIN}", (to,))
        assert found["info"]["messageId"].encode() in (message.content or b"")


async def test_a_test_that_fails_says_why_with_nodemailers_code(page: httpx.AsyncClient, keeping: Sink, sink: Sink) -> None:
    closed = Sink()
    await closed.start()
    await closed.stop()
    sink.script = Script.parse(['rcpt reply="550 5.1.1 no such user"'])
    auth = {"user": "my@webitel.com", "pass": "wrong-secret"}
    for given, code in ((options(keeping, auth=auth), "EAUTH"), (options(closed), "ECONNECTION"), (options(sink), "EENVELOPE")):
        await put(page, options=given)
        answer = await page.post(f"{SETTINGS}/test", params=HERE)
        assert answer.status_code == 500 and list(answer.json()) == ["status", "info", "code"]
        assert (answer.json()["status"], answer.json()["code"]) == ("error", code)
        assert "wrong-secret" not in answer.text


async def test_a_test_of_what_mail_cannot_go_to_says_so(page: httpx.AsyncClient, house: House) -> None:
    url = f"{SETTINGS}/test"
    missing = await page.post(url, params=HERE)
    assert (missing.status_code, missing.content) == (404, error(f"Not settings EMail provider from domain {DOMAIN}"))
    assert (await page.post(url)).content == error("Bad request (domain required).")
    await put(page, provider="sendmail")
    bad = await page.post(url, params=HERE)
    assert (bad.status_code, bad.content) == (500, error("Bad provider name."))
    await put(page, options={"host": "mail.example", "auth": {"type": "oauth2", "user": "u"}})
    assert (await page.post(url, params=HERE)).json()["code"] == "EAUTH"
    await put(page)
    house.settings.api.test_recipient = ""
    answer = await page.post(url, params=HERE, json={"to": "me@elsewhere.example"})
    assert answer.content == error("No address that test messages may go to is configured.", "EENVELOPE")


@pytest.mark.parametrize("host", ["10.0.0.1", "169.254.169.254", "localhost", "0x7f.1"])
async def test_a_test_does_not_go_into_the_operators_network(page: httpx.AsyncClient, house: House, host: str) -> None:
    await put(page, options={"host": host, "port": 2525})
    answer = await page.post(f"{SETTINGS}/test", params=HERE)
    assert (answer.status_code, answer.json()["status"]) == (500, "error")
    assert answer.json()["code"] in ("EDNS", "ECONNECTION")


@pytest.fixture(params=["starttls", "implicit"])
async def secured(request: pytest.FixtureRequest, certificate: ssl.SSLContext) -> AsyncIterator[Sink]:
    """A smarthost with TLS and a login, by STARTTLS or from the first octet."""
    sink = Sink(tls=request.param, certificate=certificate, credentials={"my@webitel.com": PASSWORD})
    await sink.start()
    yield sink
    await sink.stop()


async def test_the_options_of_tls_are_those_of_the_session(page: httpx.AsyncClient, secured: Sink, authority: trustme.CA) -> None:
    auth, ca = WRITTEN["options"]["auth"], authority.cert_pem.bytes().decode()
    given = {"host": secured.host, "port": secured.port, "secure": secured.manners.tls == "implicit", "auth": auth}
    for tls, code in (
        ({"ca": ca}, ""),
        ({"rejectUnauthorized": False}, ""),
        ({}, "ETLS"),
        ({"ca": [ca], "servername": "other.example"}, "ETLS"),
    ):
        await put(page, options={**given, "tls": tls})
        answer = await page.post(f"{SETTINGS}/test", params=HERE)
        assert answer.json().get("code", "") == code, answer.text
        assert answer.status_code == (500 if code else 200)


async def test_a_login_travels_in_clear_only_where_that_was_asked_for(page: httpx.AsyncClient, keeping: Sink) -> None:
    auth = WRITTEN["options"]["auth"]
    for more, is_sent in (({}, False), ({"requireTLS": True}, False), ({"ignoreTLS": True}, True)):
        await put(page, options={"host": keeping.host, "port": keeping.port, "auth": auth, **more})
        answer = await page.post(f"{SETTINGS}/test", params=HERE)
        assert (answer.status_code == 200) is is_sent, answer.text
        if not more:
            assert "the login would travel in clear" in answer.json()["info"]
    assert len(keeping.messages) == 1


@pytest.mark.parametrize("sender", ["(" * 900, "(" * 3_000, "<@a:" * 240])
async def test_a_sender_nobody_can_read_is_no_sender(page: httpx.AsyncClient, keeping: Sink, sender: str) -> None:
    await put(page, **{"from": sender}, options=options(keeping, auth=WRITTEN["options"]["auth"]))
    answer = await page.post(f"{SETTINGS}/test", params=HERE)
    assert answer.status_code == 200, answer.text
    assert keeping.messages[-1].sender == "my@webitel.com"


async def test_a_url_that_contradicts_itself_is_kept_and_the_test_says_so(page: httpx.AsyncClient) -> None:
    written = {"url": "smtp://h.example/?tls=1&tls.x=2"}
    assert (await put(page, options=written))["options"] == written
    assert (await page.get(SETTINGS, params=HERE)).json()["options"] == written
    answer = await page.post(f"{SETTINGS}/test", params=HERE)
    assert answer.status_code == 500 and "options.url has tls" in answer.json()["info"]
