"""The queue on the native API: who may see what, and who may touch it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from relay.mail.envelope import Envelope, Recipient
from relay.spool.entry import Entry, Hold, Standing, State
from relay.spool.spool import Spool
from tests.api.conftest import House, Tenant

QUEUE = "/api/v1/queue"


@pytest.fixture
def spool(empty_spool: Spool) -> Spool:
    """There is one behind the door."""
    return empty_spool


async def put(
    spool: Spool, id: str, owner: str, user: str = "app", states: tuple[State, ...] = ("waiting",), held: Hold = "", claimed: str = "",
    units: int = 0, age: float = 60.0, due: float = 600.0, route: str = "",
) -> None:  # fmt: skip
    """Spool a message; each recipient was told "busy" of."""
    now = spool.now()
    standings = tuple(Standing(Recipient(f"r{n}@example.net"), state, "450 4.2.0 busy") for n, state in enumerate(states))
    envelope = Envelope("app@example.com", tuple(standing.recipient for standing in standings))
    wire = b"Subject: x\r\n\r\nHello\r\n"
    entry = Entry(
        id, user, owner, envelope, standings, now - age, now + due, units=units, accepted=units, held=held, claimed_by=claimed, attempts=2,
        size=len(wire), route=route,
    )  # fmt: skip
    await spool.put(entry, b"", wire)


async def made(http: httpx.AsyncClient, tenant: Tenant) -> tuple[str, str]:
    """A user of the owner: its name and password."""
    answer = await http.post("/api/v1/users", json={"hourly_limit": None, "total_limit": None}, auth=tenant.auth)
    return answer.json()["smtp_user_name"], answer.json()["smtp_password"]


async def ids(http: httpx.AsyncClient, auth: tuple[str, str], **query: str) -> list[str]:
    answer = await http.get(QUEUE, params=query, auth=auth)
    assert answer.status_code == 200, answer.text
    return [entry["id"] for entry in answer.json()["entries"]]


def kind(answer: httpx.Response) -> tuple[int, str]:
    assert set(answer.json()) == {"error"} and set(answer.json()["error"]) == {"code", "message"}
    return answer.status_code, answer.json()["error"]["code"]


def events(house: House) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in house.log.read_text().splitlines()]
    return [line for line in lines if line["event"] in ("held", "unheld", "discarded")]


async def test_a_message_is_shown_in_short_and_in_full(http: httpx.AsyncClient, spool: Spool, tenant: Tenant) -> None:
    await put(spool, "a1", tenant.owner_id, states=("waiting", "delivered", "waiting"))
    [short] = (await http.get(QUEUE, auth=tenant.auth)).json()["entries"]
    assert 60 <= short.pop("age") <= 62 and 595 <= short.pop("next_try") <= 600
    assert short == {
        "id": "a1", "smtp_user_name": "app", "kind": "mail", "sender": "app@example.com", "size": 21, "state": "waiting", "held": None,
        "attempts": 2, "recipients": 3, "waiting": 2, "last_reply": "450 4.2.0 busy",
    }  # fmt: skip
    answer = await http.get(f"{QUEUE}/a1", auth=tenant.auth)
    assert answer.headers["cache-control"] == "no-store"
    assert [(each["address"], each["state"]) for each in answer.json()["standings"]] == [
        ("r0@example.net", "waiting"), ("r1@example.net", "delivered"), ("r2@example.net", "waiting"),
    ]  # fmt: skip
    assert answer.json()["route"] is None
    await put(spool, "a2", tenant.owner_id, route="6b01f73e52e2ce924f146b98")
    assert (await http.get(f"{QUEUE}/a2", auth=tenant.auth)).json()["route"] == "6b01f73e52e2ce924f146b98"


async def test_a_list_can_be_narrowed_and_is_longer_than_a_page(http: httpx.AsyncClient, spool: Spool, tenant: Tenant) -> None:
    numbers = range(1101)
    await asyncio.gather(*(put(spool, f"m{n:04}", tenant.owner_id, user=f"u{n % 2}", held="owner" if n == 7 else "") for n in numbers))
    everything = await ids(http, tenant.auth)
    assert everything == [f"m{n:04}" for n in numbers]
    assert await ids(http, tenant.auth, state="held") == ["m0007"]
    assert await ids(http, tenant.auth, state="waiting", user="u1") == [id for id in everything[1::2] if id != "m0007"]
    assert await ids(http, tenant.auth, user="nobody") == []
    assert kind(await http.get(QUEUE, params={"state": "odd"}, auth=tenant.auth)) == (400, "bad_request")


async def test_another_owners_message_is_answered_like_one_that_never_was(
    http: httpx.AsyncClient, house: House, spool: Spool, tenant: Tenant, other: Tenant
) -> None:
    await put(spool, "theirs", other.owner_id, held="owner")
    assert await ids(http, tenant.auth) == []
    assert await ids(http, tenant.auth, user="app") == []
    for method, action in (("GET", ""), ("POST", "/retry"), ("POST", "/hold"), ("POST", "/release"), ("DELETE", "")):
        answers = [await http.request(method, f"{QUEUE}/{id}{action}", auth=tenant.auth) for id in ("theirs", "never")]
        assert [kind(answer) for answer in answers] == [(404, "not_found")] * 2
        assert answers[0].content == answers[1].content
    assert (await http.post(f"{QUEUE}/flush", auth=tenant.auth)).json() == {"flushed": 0}
    assert (await http.get(f"{QUEUE}/counts", auth=tenant.auth)).json()["held"] == 0
    entry = await spool.find("theirs")
    assert entry is not None and entry.held == "owner" and entry.due > spool.now() + 500
    assert events(house) == []


async def test_an_smtp_user_sees_its_own_mail_and_changes_nothing(
    http: httpx.AsyncClient, spool: Spool, tenant: Tenant, other: Tenant
) -> None:
    mine, password = await made(http, tenant)
    await put(spool, "mine", tenant.owner_id, user=mine)
    await put(spool, "colleague", tenant.owner_id, user="colleague")
    await put(spool, "namesake", other.owner_id, user=mine)  # of an owner who once had a user of this name
    auth = mine, password
    assert await ids(http, auth) == await ids(http, auth, user=mine) == ["mine"]
    assert await ids(http, auth, user="colleague") == []
    assert (await http.get(f"{QUEUE}/mine", auth=auth)).json()["id"] == "mine"
    for id in ("colleague", "namesake"):
        assert kind(await http.get(f"{QUEUE}/{id}", auth=auth)) == (404, "not_found")
    changes = [("POST", f"/mine/{action}") for action in ("retry", "hold", "release")]
    for method, path in (*changes, ("DELETE", "/mine"), ("POST", "/flush"), ("GET", "/counts")):
        assert kind(await http.request(method, QUEUE + path, auth=auth)) == (403, "forbidden")
    assert await ids(http, auth) == ["mine"]  # right credentials are no guesses


async def test_wrong_credentials_are_refused_and_counted(http: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    for path in (QUEUE, f"{QUEUE}/x", f"{QUEUE}/counts"):
        answer = await http.get(path)
        assert kind(answer) == (401, "unauthorized") and "basic" in answer.headers["www-authenticate"].lower()
    for _ in range(5):
        assert kind(await http.get(QUEUE, auth=(tenant.owner_id, "guess"))) == (401, "unauthorized")
    answer = await http.get(QUEUE, auth=tenant.auth)
    assert kind(answer) == (429, "too_many_requests") and int(answer.headers["retry-after"]) > 0


async def test_a_disabled_owner_is_refused(http: httpx.AsyncClient, house: House, tenant: Tenant) -> None:
    await house.provisioning.set_owner_status(tenant.owner_id, False)
    assert kind(await http.get(QUEUE, auth=tenant.auth)) == (403, "forbidden")


async def test_a_message_is_held_released_and_tried_now(http: httpx.AsyncClient, house: House, spool: Spool, tenant: Tenant) -> None:
    await put(spool, "a1", tenant.owner_id)
    for _ in range(2):  # a repeated request says the same
        state = (await http.post(f"{QUEUE}/a1/hold", auth=tenant.auth)).json()
        assert (state["state"], state["held"], state["next_try"]) == ("held", "owner", None)
    answer = await http.post(f"{QUEUE}/a1/retry", auth=tenant.auth)
    assert kind(answer) == (409, "conflict") and "release it first" in answer.json()["error"]["message"]
    for _ in range(2):
        state = (await http.post(f"{QUEUE}/a1/release", auth=tenant.auth)).json()
        assert (state["state"], state["held"], state["next_try"]) == ("waiting", None, 0)
    await put(spool, "a2", tenant.owner_id)
    assert (await http.post(f"{QUEUE}/a2/retry", auth=tenant.auth)).json()["next_try"] == 0
    assert [(line["event"], line["id"], line["reason"]) for line in events(house)] == [
        ("held", "a1", "owner"),
        ("unheld", "a1", "owner"),
    ]


@pytest.mark.parametrize("reason", ["disabled", "route", "corrupt"])
async def test_a_hold_that_is_not_the_owners_to_judge_stays(
    http: httpx.AsyncClient, house: House, spool: Spool, tenant: Tenant, reason: Hold
) -> None:
    await put(spool, "a1", tenant.owner_id, held=reason)
    for action in ("release", "hold", "retry"):
        answer = await http.post(f"{QUEUE}/a1/{action}", auth=tenant.auth)
        assert kind(answer) == (409, "conflict") and reason in answer.json()["error"]["message"]
    entry = await spool.find("a1")
    assert entry is not None and entry.held == reason
    assert events(house) == []


async def test_what_is_removed_is_on_record_and_what_is_being_sent_is_not_removed(
    http: httpx.AsyncClient, house: House, spool: Spool, tenant: Tenant
) -> None:
    await put(spool, "a1", tenant.owner_id, states=("waiting", "delivered", "failed", "reported"))
    await put(spool, "busy", tenant.owner_id, claimed="somebody")
    assert (await http.delete(f"{QUEUE}/a1", auth=tenant.auth)).status_code == 204
    assert kind(await http.delete(f"{QUEUE}/a1", auth=tenant.auth)) == (404, "not_found")
    answer = await http.delete(f"{QUEUE}/busy", auth=tenant.auth)
    assert kind(answer) == (409, "conflict") and "being sent" in answer.json()["error"]["message"]
    assert await ids(http, tenant.auth) == ["busy"]
    [line] = events(house)
    assert (line["event"], line["id"], line["recipients"], line["reason"]) == (
        "discarded", "a1", ["r0@example.net", "r2@example.net"], "owner",
    )  # fmt: skip


async def test_what_is_removed_unsettled_is_charged_all_the_same(http: httpx.AsyncClient, spool: Spool, tenant: Tenant) -> None:
    await put(spool, "old", tenant.owner_id, units=2)
    await put(spool, "new", tenant.owner_id, units=2, age=0.0)
    assert (await http.delete(f"{QUEUE}/old", auth=tenant.auth)).status_code == 204
    assert kind(await http.delete(f"{QUEUE}/new", auth=tenant.auth)) == (409, "conflict")
    assert await spool.charges() == [("app", "old", 2, 2, 0)]


async def test_an_owner_flushes_and_counts_its_own(http: httpx.AsyncClient, spool: Spool, tenant: Tenant, other: Tenant) -> None:
    await put(spool, "a1", tenant.owner_id)
    await put(spool, "a2", tenant.owner_id, held="owner")
    await put(spool, "a3", tenant.owner_id, claimed="somebody")
    await put(spool, "b1", other.owner_id)
    counts = (await http.get(f"{QUEUE}/counts", auth=tenant.auth)).json()
    assert 60 <= counts.pop("oldest") <= 62
    assert counts == {"waiting": 1, "held": 1, "sending": 1, "in_doubt": 0, "reports": 0, "octets": 63}
    assert (await http.post(f"{QUEUE}/flush", auth=tenant.auth)).json() == {"flushed": 1}
    assert (await http.get(f"{QUEUE}/a1", auth=tenant.auth)).json()["next_try"] == 0
    assert (await http.get(f"{QUEUE}/b1", auth=other.auth)).json()["next_try"] > 500


async def test_a_spool_that_cannot_be_read_is_503_and_nothing_else_suffers(http: httpx.AsyncClient, spool: Spool, tenant: Tenant) -> None:
    await put(spool, "a1", tenant.owner_id)
    assert 'relay_spool_entries{state="waiting"} 1.0' in (await http.get("/metrics")).text
    assert "relay_spool_oldest_seconds 6" in (await http.get("/metrics")).text
    await spool.close()
    for method, path in (("GET", ""), ("GET", "/a1"), ("GET", "/counts"), ("POST", "/flush"), ("POST", "/a1/retry"), ("DELETE", "/a1")):
        answer = await http.request(method, QUEUE + path, auth=tenant.auth)
        assert kind(answer) == (503, "service_unavailable") and "retry-after" in answer.headers
        assert str(spool.path) not in answer.text
    assert (await http.get("/readyz")).status_code == 200
    assert (await http.get("/api/v1/users", auth=tenant.auth)).status_code == 200
    figures = await http.get("/metrics")
    assert figures.status_code == 200 and "relay_spool_entries" not in figures.text


async def test_the_description_shows_the_calls_their_answers_and_both_kinds_of_credentials(http: httpx.AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    assert paths[QUEUE]["get"]["responses"]["200"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/QueueList"}
    assert {"Owner": []} in paths[QUEUE]["get"]["security"] and {"SmtpUser": []} in paths[QUEUE]["get"]["security"]
    assert paths[f"{QUEUE}/flush"]["post"]["security"] == [{"Owner": []}]
    assert {"204", "401", "404", "409", "503"} <= set(paths[f"{QUEUE}/{{id}}"]["delete"]["responses"])
    for action in ("retry", "hold", "release"):
        assert {"200", "404", "409"} <= set(paths[f"{QUEUE}/{{id}}/{action}"]["post"]["responses"])
