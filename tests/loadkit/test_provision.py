"""What a load asks of an API: the vendors' calls where they can say it, and never the token in what goes wrong."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from relay.loadkit.provision import Clerk, ProvisionError, make
from relay.loadkit.verdict import Limits
from tests.loadkit.office import TOKEN, Office, open_office


@pytest.fixture
def office() -> Iterator[Office]:
    with open_office() as office:
        yield office


async def test_users_are_made_by_the_vendors_call_and_removed(office: Office) -> None:
    clerk = Clerk(office.url, "o1", TOKEN)
    users = await make(clerk, [Limits(5, 50), Limits(6, 60)])
    assert sorted(users) == ["u1", "u2"] == sorted(clerk.made)
    assert clerk.made["u1"] == "p"
    assert [office.users[user]["hourly_limit"] for user in users] == [5, 6]
    assert ("POST", "/v1.0/settings/addSmtp", {"owner_id": "o1", "token": TOKEN, "total_limit": 50, "hourly_limit": 5}) in office.seen
    assert await clerk.clear() == {}
    assert not office.users
    assert not clerk.made


async def test_no_limit_is_said_by_the_native_route_since_no_vendor_has_a_word_for_it(office: Office) -> None:
    clerk = Clerk(office.url, "o1", TOKEN)
    user = await clerk.add(Limits(None, 50))
    assert ("POST", "/api/v1/users", {"hourly_limit": None, "total_limit": 50}) in office.seen
    await clerk.limit(user, Limits(9, None))
    assert office.users[user]["total_limit"] is None
    await clerk.limit(user, Limits(9, 90))
    assert office.seen[-1][1] == "/v1.0/settings/editSmtp"
    assert office.users[user]["total_limit"] == 90


async def test_a_user_is_switched_given_a_password_and_asked_about(office: Office) -> None:
    clerk = Clerk(office.url, "o1", TOKEN)
    user = await clerk.add(Limits(1, 2))
    await clerk.switch(user, is_on=False)
    assert office.users[user]["status"] == "Disable"
    assert await clerk.reset(user) == "new"
    assert await clerk.usage(user) == (7, 1)


@pytest.mark.parametrize("value", ["x", "9" * 5000, 1e999, -1, True, None, [7], 10**400])
async def test_a_usage_that_is_no_number_is_an_error_that_is_told(office: Office, value: Any) -> None:
    clerk = Clerk(office.url, "o1", TOKEN)
    user = await clerk.add(Limits(1, 2))
    office.sent = value
    with pytest.raises(ProvisionError, match="no usage of u1"):
        await clerk.usage(user)


async def test_an_api_that_refuses_is_an_error_without_the_token(office: Office) -> None:
    clerk = Clerk(office.url, "o1", "sesame")
    for call in (clerk.add(Limits(1, 1)), clerk.switch("u9", is_on=True), clerk.delete("u9"), clerk.usage("u9")):
        with pytest.raises(ProvisionError) as refused:
            await call
        assert "sesame" not in str(refused.value) + repr(clerk)
    with pytest.raises(ProvisionError, match="not an http"):
        await Clerk("file:///etc/passwd", "o1", TOKEN).add(Limits(1, 1))
    with pytest.raises(ProvisionError):
        await Clerk("http://127.0.0.1:1", "o1", TOKEN).add(Limits(1, 1))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_the_token_follows_no_redirect(office: Office, status: int) -> None:
    with open_office() as other:
        office.moved = (status, other.url)
        clerk = Clerk(office.url, "o1", TOKEN)
        for call in (clerk.add(Limits(1, 1)), clerk.switch("u1", is_on=True), clerk.delete("u1"), clerk.usage("u1")):
            with pytest.raises(ProvisionError, match=f"{status}: a redirect is not followed"):
                await call
        assert len(office.seen) == 4
        assert not other.seen, "nobody named that host"


async def test_the_token_takes_no_way_through_a_proxy_of_the_environment(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert await Clerk(office.url, "o1", TOKEN).add(Limits(1, 1)) == "u1"


async def test_what_answers_but_speaks_no_http_is_an_error_like_any_other() -> None:
    def answer() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"220 smtp.example\r\n")

    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        answering = asyncio.create_task(asyncio.to_thread(answer))
        with pytest.raises(ProvisionError, match="220"):
            await Clerk(f"http://127.0.0.1:{listening.getsockname()[1]}", "o1", TOKEN).usage("u1")
        await answering


async def test_users_made_before_one_that_was_refused_are_known_and_removed(office: Office) -> None:
    office.most = 3
    clerk = Clerk(office.url, "o1", TOKEN)
    with pytest.raises(ProvisionError, match="no more"):
        await make(clerk, [Limits(1, 1)] * 8)
    assert sorted(clerk.made) == sorted(office.users) == ["u1", "u2", "u3"]
    assert await clerk.clear() == {}
    assert not office.users


async def test_a_user_who_cannot_be_removed_is_disabled_and_named(office: Office) -> None:
    clerk = Clerk(office.url, "o1", TOKEN)
    user = await clerk.add(Limits(1, 1))
    office.broken.add("/api/v1")
    assert (await clerk.clear())[user].endswith("; it was disabled")
    assert office.users[user]["status"] == "Disable"
    office.broken.add("/v1.0")
    assert "500" in (await clerk.clear())[user]


async def test_who_is_cancelled_while_a_user_is_made_still_knows_of_it(office: Office) -> None:
    clerk = Clerk(office.url, "o1", TOKEN)
    with office.lock:
        making = asyncio.create_task(make(clerk, [Limits(1, 1)]))
        while not office.seen:
            await asyncio.sleep(0.01)
        making.cancel()
        await asyncio.sleep(0.05)
        assert not making.done()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert list(clerk.made) == list(office.users) == ["u1"]
