"""The cookies that a page gets when it signs in, and what is taken for a page that is signed in."""

from __future__ import annotations

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from relay.accounts.token import Session
from relay.api import cookie
from tests.api.conftest import Tenant

SIGNED = Session("8fd26a17-eb28-4c74-aa6f-a3794f4f466c", "head.body.mark", 0)


def request(cookies: dict[str, str], mark: str | None = None, scheme: str = "http") -> Request:
    headers = [(b"cookie", "; ".join(f"{name}={value}" for name, value in cookies.items()).encode())] if cookies else []
    if mark is not None:
        headers.append((b"x-xsrf-token", mark.encode("latin-1")))
    return Request(
        {"type": "http", "method": "POST", "path": "/", "headers": headers, "scheme": scheme, "server": ("h", 80), "query_string": b""}
    )


def given(session: Session = SIGNED, scheme: str = "http") -> dict[str, str]:
    """The cookies of a session, by name, with what a browser is told of them."""
    response = Response()
    cookie.sign_in(request({}, scheme=scheme), response, session, 60.0)
    return {line.partition("=")[0]: line.partition("=")[2] for line in response.headers.getlist("set-cookie")}


def values(session: Session = SIGNED) -> dict[str, str]:
    return {name: line.partition(";")[0] for name, line in given(session).items()}


def test_the_session_is_for_the_browser_alone_and_its_mark_for_scripts_of_the_same_site() -> None:
    cookies = given()
    assert set(cookies) == {cookie.SESSION, cookie.XSRF}
    for line in cookies.values():
        assert "SameSite=strict" in line and "Path=/" in line and "Max-Age=60" in line and "Secure" not in line
    assert "HttpOnly" in cookies[cookie.SESSION] and "HttpOnly" not in cookies[cookie.XSRF]
    assert SIGNED.token not in cookies[cookie.XSRF]


def test_over_https_the_cookies_are_kept_to_it() -> None:
    assert all("Secure" in line for line in given(scheme="https").values())


def test_a_page_that_repeats_its_mark_is_signed_in() -> None:
    cookies = values()
    assert cookie.signed_in(request(cookies, cookies[cookie.XSRF])) == (SIGNED.token, SIGNED.key)


@pytest.mark.parametrize("mark", [None, "", "x", "\xff", SIGNED.token])
def test_a_page_that_cannot_repeat_its_mark_is_not(mark: str | None) -> None:
    assert cookie.signed_in(request(values(), mark)) is None


def test_the_mark_of_another_session_does_not_fit_even_where_both_cookies_were_planted() -> None:
    other = values(Session("other", "an.other.one", 0))[cookie.XSRF]
    assert cookie.signed_in(request({**values(), cookie.XSRF: other}, other)) is None


@pytest.mark.parametrize("session", ["", ".", "no-dot", ".token", "key."])
def test_a_session_of_another_form_is_none(session: str) -> None:
    token = session.partition(".")[2]
    mark = values(Session("k", token, 0))[cookie.XSRF]
    assert cookie.signed_in(request({cookie.SESSION: session}, mark)) is None


@pytest.mark.parametrize("prefix", ["", "/engine"])
async def test_a_page_gets_its_cookies_at_login_and_loses_them_at_logout(http: httpx.AsyncClient, tenant: Tenant, prefix: str) -> None:
    found = await http.post(f"{prefix}/login", json={"username": tenant.owner_id, "password": tenant.token})
    cookies = dict(found.cookies.items())
    assert cookies[cookie.SESSION] == f"{found.json()['key']}.{found.json()['token']}"
    assert cookie.signed_in(request(cookies, cookies[cookie.XSRF])) == (found.json()["token"], found.json()["key"])
    # A cookie alone opens none of these calls: any page may make them.
    assert (await http.get("/api/v2/email/settings?domain=d.example")).status_code == 401
    left = await http.post(f"{prefix}/logout", headers={"X-Access-Token": found.json()["token"], "X-Key": found.json()["key"]})
    assert left.status_code == 200 and not http.cookies
    wrong = await http.post(f"{prefix}/login", json={"username": tenant.owner_id, "password": "x"})
    assert "set-cookie" not in wrong.headers
