"""Who has a token is let in for as long as its record stands, and nobody else is."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest

from relay.accounts import token as token_module
from relay.accounts.owner import Owner
from relay.accounts.provisioning import BadValue, Provisioning, UnknownOwner
from relay.accounts.registry import Registry
from relay.accounts.secrets import Key
from relay.accounts.token import MAX_SESSIONS, MAX_TOKENS, Caller, Denied, Issued, Tokens
from relay.journal import Journal
from relay.store.client import Store, StoreForeign

NOW = 1_800_000_000.25


class Clock:
    """Says what it is told to."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(store: Store, key: Key, registry: Registry, journal: Journal, clock: Clock) -> Tokens:
    return Tokens(store, key, journal, clock)


@pytest.fixture
async def owner(provisioning: Provisioning) -> Owner:
    return (await provisioning.add_owner("Acme"))[0]


def part(token: str, number: int) -> Any:
    text = token.split(".")[number]
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def signed(key: Key, claims: Any, algorithm: str = "HS256", secret: bytes | str | None = None) -> str:
    octets = json.dumps(claims).encode()
    return jwt.PyJWS().encode(octets, key.access if secret is None else secret, algorithm)


async def denied(tokens: Tokens, token: str, key: str = "") -> str:
    with pytest.raises(Denied) as caught:
        await tokens.admit(token, key)
    return str(caught.value)


async def test_a_session_lets_its_owner_in_until_it_is_closed(tokens: Tokens, owner: Owner, log: Path) -> None:
    session = await tokens.open_session(owner)
    assert session.expires == int(NOW * 1000) + 100 * 86400 * 1000
    assert part(session.token, 0) == {"typ": "JWT", "alg": "HS256"}
    assert part(session.token, 1)["exp"] == session.expires
    assert str(uuid.UUID(session.key, version=4)) == session.key
    for _ in range(2):
        assert await tokens.admit(session.token, session.key) == Caller(owner, "", session.key)
    other = await tokens.open_session(owner)
    assert other.token != session.token
    for token, key in ((other.token, session.key), (session.token, other.key), (session.token, session.key.upper()), ("", session.key)):
        assert not await tokens.close_session(key, token)
    assert await tokens.close_session(session.key, session.token)
    assert not await tokens.close_session(session.key, session.token)
    assert await denied(tokens, session.token, session.key) == "Invalid User"
    assert (await tokens.admit(other.token, other.key)).owner == owner
    events = [json.loads(line) for line in log.read_text().splitlines()]
    told = [(line["event"], line["owner"]) for line in events if line["event"].startswith("session_")]
    assert told == [("session_opened", owner.owner_id)] * 2 + [("session_closed", owner.owner_id)]


@pytest.mark.filterwarnings("ignore:The HMAC key is 32 bytes long")  # of what is signed here with HS512, to be refused
async def test_what_is_wrong_is_said_in_the_vendors_order(tokens: Tokens, owner: Owner, key: Key, clock: Clock) -> None:
    session = await tokens.open_session(owner, 10.0)
    other = await tokens.open_session(owner)
    head, body, tail = session.token.split(".")
    for bad in (
        "", "x", "a.b.c", session.token[:-2], f"{head}.{body}.", f"{head}.{body[:-4]}.{tail}", "x" * 5000, "\udc80", "ü",
        session.token + "\n", session.token + ".", " " + session.token,
        signed(key, {"exp": session.expires, "o": owner.owner_id}, secret=bytes(32)),
        signed(key, {"exp": session.expires, "o": owner.owner_id}, "HS512"),
        signed(key, {"exp": session.expires, "o": owner.owner_id}, "none", ""),
        signed(key, {"exp": session.expires}), signed(key, [1]), signed(key, {"o": 5}),
        signed(key, {"exp": session.expires, "o": owner.owner_id, "x": "y" * 4000}),
    ):  # fmt: skip
        assert await denied(tokens, bad, session.key) == "Invalid token"
    assert await denied(tokens, session.token) == "Invalid Token or Key"
    for wrong in (str(uuid.uuid4()), "x", "\udc80", "\0", session.key + " ", other.key):
        assert await denied(tokens, session.token, wrong) == "Invalid User"
    for stranger in ("12345678", "", "}:x"):
        assert await denied(tokens, signed(key, {"exp": session.expires, "o": stranger}), session.key) == "Invalid User"
    clock.now += 9.999
    assert await tokens.admit(session.token, session.key)
    clock.now += 0.001
    assert await denied(tokens, session.token, session.key) == "Token Expired"
    assert await denied(tokens, session.token) == "Token Expired"


async def test_a_static_token_lets_its_owner_in_for_one_domain_until_it_is_revoked(
    tokens: Tokens, owner: Owner, clock: Clock, log: Path
) -> None:
    id, token = await tokens.issue(owner.owner_id, "My.Example", 3600.0)
    assert part(token, 1) == {
        "v": 2, "t": "domain", "d": "my.example", "id": id, "o": owner.owner_id, "exp": int(NOW * 1000) + 3_600_000,
    }  # fmt: skip
    every_id, every = await tokens.issue(owner.owner_id, "", None)
    assert "exp" not in part(every, 1)
    for key in ("", "x", str(uuid.uuid4())):
        assert await tokens.admit(token, key) == Caller(owner, "my.example", "")
        assert await tokens.admit(every, key) == Caller(owner, "", "")
    listed = await tokens.tokens(owner.owner_id)
    assert sorted(listed) == sorted([Issued(id, "my.example", int(NOW), int(NOW * 1000) + 3_600_000), Issued(every_id, "", int(NOW), 0)])
    assert not await tokens.close_session("", every)
    clock.now += 3600
    assert await denied(tokens, token) == "Token Expired"
    clock.now = NOW
    for wrong in ("", id.upper(), "\udc80"):
        assert not await tokens.revoke(owner.owner_id, wrong)
    assert await tokens.revoke(owner.owner_id, id)
    assert not await tokens.revoke(owner.owner_id, id)
    assert await denied(tokens, token) == "Not found token"
    assert await tokens.admit(every, "")
    assert [issued.id for issued in await tokens.tokens(owner.owner_id)] == [every_id]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    told = [(line["event"], line["id"]) for line in lines if line["event"].startswith("token_")]
    assert told == [("token_issued", id), ("token_issued", every_id), ("token_revoked", id)]
    assert token not in log.read_text() and every not in log.read_text()


async def test_a_static_token_without_an_end_is_let_in_though_the_clock_goes_on_while_it_is_looked_at(
    store: Store, key: Key, registry: Registry, journal: Journal, owner: Owner
) -> None:
    ticks = itertools.count(NOW, 0.001)
    tokens = Tokens(store, key, journal, lambda: next(ticks))
    _, token = await tokens.issue(owner.owner_id, "mine.example")
    for _ in range(10):
        assert await tokens.admit(token, "") == Caller(owner, "mine.example", "")


async def test_a_static_token_speaks_for_nothing_but_what_it_was_issued_for(
    tokens: Tokens, owner: Owner, provisioning: Provisioning, key: Key
) -> None:
    other, _ = await provisioning.add_owner("Other")
    id, token = await tokens.issue(owner.owner_id, "my.example")
    claims = part(token, 1)
    for change in (
        {"o": other.owner_id},
        {"d": "other.example"},
        {"d": ""},
        {"d": None},
        {"id": str(uuid.uuid4())},
        {"id": None},
        {"id": 5},
    ):
        assert await denied(tokens, signed(key, claims | change)) == "Not found token"
    assert await denied(tokens, signed(key, claims | {"t": "user"})) == "Invalid Token or Key"
    assert await denied(tokens, signed(key, claims | {"v": 1}), id) == "Invalid User"
    assert not await tokens.revoke(other.owner_id, id)
    assert await tokens.admit(token, "")


async def test_a_disabled_or_deleted_owner_is_let_in_by_nothing(
    tokens: Tokens, owner: Owner, provisioning: Provisioning, store: Store
) -> None:
    session = await tokens.open_session(owner)
    _, token = await tokens.issue(owner.owner_id, "")
    await provisioning.set_owner_status(owner.owner_id, False)
    assert await denied(tokens, session.token, session.key) == "Invalid User"
    assert await denied(tokens, token) == "Invalid User"
    await provisioning.set_owner_status(owner.owner_id, True)
    assert await tokens.admit(session.token, session.key) and await tokens.admit(token, "")
    await store.command("DEL", f"{{o:{owner.owner_id}}}")
    assert await denied(tokens, session.token, session.key) == "Invalid User"
    assert await denied(tokens, token) == "Invalid User"
    for call in (tokens.open_session(owner), tokens.issue(owner.owner_id, "")):
        with pytest.raises(UnknownOwner):
            await call


async def test_a_rotated_owners_token_ends_its_sessions_and_no_static_token(tokens: Tokens, provisioning: Provisioning) -> None:
    owner, secret = await provisioning.add_owner("Acme")
    _, static = await tokens.issue(owner.owner_id, "")
    before = [await tokens.open_session(owner), await tokens.open_session(owner, secret=secret)]
    for session in before:
        assert await tokens.admit(session.token, session.key)
    fresh = await provisioning.rotate_token(owner.owner_id)
    late = await tokens.open_session(owner, secret=secret)  # it was verified before, and opened after
    for session in (*before, late):
        assert await denied(tokens, session.token, session.key) == "Invalid User"
    for session in (await tokens.open_session(owner), await tokens.open_session(owner, secret=fresh)):
        assert await tokens.admit(session.token, session.key)
    assert await tokens.admit(static, "")


async def test_an_owner_has_so_many_sessions_and_tokens(tokens: Tokens, owner: Owner, store: Store, clock: Clock) -> None:
    opened = []
    for number in range(MAX_SESSIONS + 2):
        clock.now = NOW + number
        opened.append(await tokens.open_session(owner, 5000.0))
    place = f"{{o:{owner.owner_id}}}:sessions"
    assert await store.command("HLEN", place) == MAX_SESSIONS
    for session in opened[:2]:
        assert await denied(tokens, session.token, session.key) == "Invalid User"
    for session in (opened[2], opened[-1]):
        assert await tokens.admit(session.token, session.key)
    assert await store.command("PEXPIRETIME", place) == opened[-1].expires + 86_400_000
    await tokens.open_session(owner, 10.0)
    assert await store.command("PEXPIRETIME", place) == opened[-1].expires + 86_400_000
    clock.now = NOW + 6000
    assert (await tokens.open_session(owner)).expires == await store.command("PEXPIRETIME", place) - 86_400_000
    assert await store.command("HLEN", place) < MAX_SESSIONS
    clock.now = NOW
    await asyncio.gather(*(tokens.issue(owner.owner_id, "", 10.0) for _ in range(5)))
    await asyncio.gather(*(tokens.issue(owner.owner_id, "") for _ in range(MAX_TOKENS - 5)))
    with pytest.raises(BadValue, match="at most 1000 tokens"):
        await tokens.issue(owner.owner_id, "")
    clock.now += 10
    for _ in range(5):
        await tokens.issue(owner.owner_id, "")
    with pytest.raises(BadValue):
        await tokens.issue(owner.owner_id, "")
    assert await store.command("PTTL", f"{{o:{owner.owner_id}}}:tokens") == -1


@pytest.mark.parametrize(("domain", "lifetime"), [("a b", None), ("[192.0.2.1]", None), ("a.example", 0.0), ("", -1.0), ("", float("nan"))])
async def test_what_cannot_be_issued_is_refused(tokens: Tokens, owner: Owner, domain: str, lifetime: float | None) -> None:
    with pytest.raises(BadValue):
        await tokens.issue(owner.owner_id, domain, lifetime)
    assert await tokens.tokens(owner.owner_id) == []


@pytest.mark.parametrize(
    "record",
    [
        b"", b"0", b"0 ", b"0 {", b"0 5", b"0 []", b"0 {}", b"x {}", b"\xff \xff", b'0 {"domain": ""}', b'0 {"domain": 5, "created": 1}',
        b'0 {"domain": "", "created": "1"}', b'0 {"domain": "", "created": 1e999}', b'x {"domain": "", "created": 1}',
        b'1%s {"domain": "", "created": 1}' % (b"0" * 30), b"0 " + b"[" * 100_000,
    ],
    ids=lambda record: record[:30],
)  # fmt: skip
async def test_a_damaged_record_of_a_token_is_none(tokens: Tokens, owner: Owner, store: Store, record: bytes) -> None:
    (id, token), (other, _) = await tokens.issue(owner.owner_id, ""), await tokens.issue(owner.owner_id, "")
    await store.command("HSET", f"{{o:{owner.owner_id}}}:tokens", id, record)
    await store.command("HSET", f"{{o:{owner.owner_id}}}:tokens", b"\xff", record)
    assert await denied(tokens, token) == "Not found token"
    assert [issued.id for issued in await tokens.tokens(owner.owner_id)] == [other]
    assert await tokens.revoke(owner.owner_id, id)


async def test_a_store_that_came_back_empty_never_says_whose_token_it_is_not(tokens: Tokens, owner: Owner, store: Store) -> None:
    session = await tokens.open_session(owner)
    id, token = await tokens.issue(owner.owner_id, "")
    await store.command("FLUSHALL")
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: tokens.admit(session.token, session.key),
        lambda: tokens.admit(token, ""),
        lambda: tokens.close_session(session.key, session.token),
        lambda: tokens.revoke(owner.owner_id, id),
        lambda: tokens.tokens(owner.owner_id),
        lambda: tokens.issue(owner.owner_id, ""),
        lambda: tokens.open_session(owner),
    ]
    for call in calls:
        with pytest.raises(StoreForeign):
            await call()


async def test_the_store_has_nothing_that_lets_in(tokens: Tokens, owner: Owner, store: Store) -> None:
    session = await tokens.open_session(owner)
    _, token = await tokens.issue(owner.owner_id, "")
    secrets = (session.key, session.token, token, session.token.split(".")[2], token.split(".")[2])
    for part_name in ("sessions", "tokens"):
        for octets in await store.command("HGETALL", f"{{o:{owner.owner_id}}}:{part_name}"):
            assert not any(secret.encode() in octets for secret in secrets)


async def test_a_known_and_an_unknown_key_cost_one_round_trip(
    tokens: Tokens, owner: Owner, store: Store, key: Key, registry: Registry, journal: Journal, clock: Clock
) -> None:
    trips: list[int] = []

    class Counted:
        epoch = store.epoch

        async def many(self, commands: list[Any]) -> list[Any]:
            trips.append(len(commands))
            return await store.many(commands)

    session = await tokens.open_session(owner)
    counted = Tokens(Counted(), key, journal, clock)  # type: ignore[arg-type]
    assert await counted.admit(session.token, session.key)
    assert await denied(counted, session.token, str(uuid.uuid4())) == "Invalid User"
    assert await denied(counted, signed(key, {"exp": session.expires, "o": "12345678"}), session.key) == "Invalid User"
    assert trips == [3, 3, 3]


def test_a_lifetime_is_a_hundred_days() -> None:
    assert token_module.LIFETIME == 100 * 24 * 3600
