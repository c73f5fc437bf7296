"""What is set is kept, sealed, and read back as it was; what cannot be set is said in one line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from relay.accounts import arranging as arranging_module
from relay.accounts.arranging import MAX_DOCUMENT, MAX_DOMAINS, Arranging
from relay.accounts.directory import Directory
from relay.accounts.provisioning import BadValue, Provisioning, UnknownOwner
from relay.accounts.secrets import Key
from relay.accounts.setting import Outfit, Policy, Signer
from relay.accounts.signing import new_key
from relay.journal import Journal
from relay.store.client import Store, StoreForeign
from relay.upstream.route import Choice, Target

HOST = (Choice(Target("mail.example", 587)),)
DOCUMENT: dict[str, Any] = {"provider": "smtp", "options": {"auth": {"user": "ü", "pass": "hunter2"}, "n": 1}, "x": [None, 1.5, True]}


@pytest.fixture
def directory(store: Store, key: Key) -> Directory:
    return Directory(store, key)


def journaled(log: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [{name: line[name] for name in line.keys() - {"ts", "node"}} for line in lines if line["event"] != "owner_added"]


async def test_every_field_of_a_target_and_a_document_comes_back_as_it_was(
    arranging: Arranging, directory: Directory, owner_id: str
) -> None:
    target = Target(
        "mail.example", 2525, "starttls", False, None, "-----BEGIN CERTIFICATE-----", "-----BEGIN PRIVATE KEY-----", "name.example", "user",
        "pass", "login", "ehlo.example", 1.0, 2.0, 3.0, 4, 5.0, 6.0, 7, 8.0, 9.0, True,
    )  # fmt: skip
    assert all(getattr(target, field.name) != field.default for field in fields(Target) if field.name != "ca_file")
    put = await arranging.put_setting(owner_id, "a.example", [Choice(target, 3, 4)], DOCUMENT)
    assert put is not None and put[1]
    found = (await directory.outfit(owner_id)).settings["a.example"]
    assert found == put[0]
    assert found.choices == (Choice(target, 3, 4),)
    assert found.document == DOCUMENT and list(found.document or ()) == list(DOCUMENT)
    assert len(found.id) == 24 and int(found.id, 16)


async def test_a_setting_keeps_its_id_and_says_whether_it_was_modified(
    arranging: Arranging, directory: Directory, owner_id: str, log: Path
) -> None:
    async def put(*given: Any, **more: Any) -> tuple[str, bool] | None:
        done = await arranging.put_setting(owner_id, *given, **more)
        return None if done is None else (done[0].id, done[1])

    assert await put("a.example", HOST, DOCUMENT, must_exist=True) is None
    first = await put("A.Example", HOST, DOCUMENT)
    assert first is not None and first[1]
    id = first[0]
    version = (await directory.outfit(owner_id)).version
    assert await put("a.example", HOST, DOCUMENT) == (id, False)
    assert await put("a.example", HOST, json.loads(json.dumps(DOCUMENT)), must_exist=True) == (id, False)
    assert (await directory.outfit(owner_id)).version == version
    for choices, document in (
        (HOST, dict(reversed(DOCUMENT.items()))),
        (HOST, DOCUMENT | {"x": [None, 1.5, 1]}),
        (HOST, None),
        ((), None),
        ((*HOST, *HOST), None),
        ((Choice(HOST[0].target, 1), *HOST), None),
    ):
        assert await put("a.example", choices, document, must_exist=True) == (id, True)
        assert await put("a.example", choices, document) == (id, False)
    assert await arranging.remove_setting(owner_id, "A.EXAMPLE")
    assert not await arranging.remove_setting(owner_id, "a.example")
    again = await put("a.example", HOST)
    assert again is not None and again[0] != id
    await put("", ())
    assert [line for line in journaled(log) if line["event"] != "setting_put"] == [
        {"event": "setting_removed", "owner": owner_id, "domain": "a.example"}
    ]
    puts = [(line["domain"], line["host"]) for line in journaled(log) if line["event"] == "setting_put"]
    assert len(puts) == 9 and puts[0] == ("a.example", "mail.example") and puts[-1] == ("", "")


async def test_changes_made_at_once_leave_one_id_and_one_of_them_whole(arranging: Arranging, directory: Directory, owner_id: str) -> None:
    done = await asyncio.gather(
        *(arranging.put_setting(owner_id, "a.example", [Choice(Target(f"h{number}.example", 25))], {"n": number}) for number in range(12))
    )
    found = (await directory.outfit(owner_id)).settings["a.example"]
    assert {put[0].id for put in done if put is not None} == {found.id}
    assert found in [put[0] for put in done if put is not None]
    assert found.document is not None and found.choices[0].target.host == f"h{found.document['n']}.example"


async def test_a_domain_is_one_in_all_its_spellings(arranging: Arranging, directory: Directory, owner_id: str) -> None:
    put = await arranging.put_setting(owner_id, "Bücher.Example", HOST, {"a": 1})
    assert put is not None and put[0].domain == "bücher.example"
    again = await arranging.put_setting(owner_id, "xn--bcher-kva.example", HOST, {"a": 2}, must_exist=True)
    assert again is not None and again[0].id == put[0].id
    outfit = await directory.outfit(owner_id)
    assert len(outfit.settings) == 1
    for spelling in ("bücher.example", "XN--Bcher-KVA.example", "bücher.EXAMPLE"):
        assert outfit.setting_for(spelling) is outfit.setting_of(spelling) is not None
    assert outfit.setting_for("other.example") is None is outfit.setting_of("")
    await arranging.set_signer(owner_id, Signer("bücher.example", "s", new_key("ed25519")))
    signed = await directory.outfit(owner_id)
    assert signed.signer_for("xn--bcher-kva.example") is signed.signer_for("bücher.example") is not None
    assert await arranging.remove_signer(owner_id, "xn--bcher-kva.example")
    assert await arranging.remove_setting(owner_id, "BÜCHER.example")


@pytest.mark.parametrize(
    "domain", ["a b", "a..b", ".a", "a.", "[192.0.2.1]", "a@b", "-a.b", "x" * 64 + ".b", "a\0b", "\udc80", "\udc80" * 300, "ﬁ.example"]
)
async def test_what_is_no_domain_is_refused_and_never_found(arranging: Arranging, owner_id: str, domain: str) -> None:
    with pytest.raises(BadValue, match="a domain is"):
        await arranging.put_setting(owner_id, domain, HOST)
    with pytest.raises(BadValue, match="a domain is"):
        await arranging.set_signer(owner_id, Signer(domain, "s", new_key("ed25519")))
    with pytest.raises(BadValue, match="a domain is"):
        await arranging.set_policy(owner_id, Policy("domains", (domain,)))
    assert not await arranging.remove_setting(owner_id, domain)
    assert not await arranging.remove_signer(owner_id, domain)


@pytest.mark.parametrize(
    "change",
    [
        {"ca_file": Path("/etc/passwd")}, {"host": ""}, {"host": "a b"}, {"host": "a\r\nRCPT"}, {"host": "x" * 256}, {"port": 0},
        {"port": 65536},
        {"name": "a\r\nMAIL FROM:<>"}, {"server_name": "a b"}, {"timeout": 0.0}, {"timeout": float("nan")}, {"max_age": float("inf")},
        {"max_connections": 0}, {"max_messages": 0}, {"max_rate": -1.0}, {"max_rate": 1e-308}, {"max_rate": 0.0099},
        {"max_rate": float("inf")}, {"down_seconds": float("nan")}, {"password": "a\0b"},
        {"security": "ssl"}, {"mechanism": "xoauth2"},
    ],
    ids=str,
)  # fmt: skip
async def test_a_target_that_no_session_could_be_made_with_is_refused(arranging: Arranging, owner_id: str, change: dict[str, Any]) -> None:
    with pytest.raises(BadValue) as caught:
        await arranging.put_setting(owner_id, "", [Choice(replace(Target("a.example", 25, password="hunter2"), **change))])
    assert "\n" not in str(caught.value) and "hunter2" not in str(caught.value)


def nested(levels: int) -> Any:
    document: Any = {}
    for level in range(1, levels):
        document = {"in": document} if level % 2 == levels % 2 or level == levels - 1 else [document]
    return document


async def test_documents_and_choices_have_bounds(arranging: Arranging, directory: Directory, owner_id: str) -> None:
    for document in ({"text": "x" * MAX_DOCUMENT}, nested(200), nested(100_001), {"x": float("nan")}, {"x": {1, 2}}, {"x": b"y"}):
        with pytest.raises(BadValue, match="a document"):
            await arranging.put_setting(owner_id, "", HOST, document)
    for choices in (HOST * 21, [Choice(HOST[0].target, -1)], [Choice(HOST[0].target, 0, 0)]):
        with pytest.raises(BadValue):
            await arranging.put_setting(owner_id, "", choices)
    with pytest.raises(BadValue, match="at most"):
        await arranging.put_setting(owner_id, "", [Choice(Target("a.example", 25, ca="x" * 140_000))])
    largest = {"text": "x" * (MAX_DOCUMENT - len('{"text":""}')), "deep": nested(99)}
    largest["text"] = largest["text"][: -len(',"deep":' + json.dumps(largest["deep"], separators=(",", ":")))]
    await arranging.put_setting(owner_id, "", HOST, largest)
    assert (await directory.outfit(owner_id)).settings[""].document == largest


async def test_an_owner_has_so_many_domains_and_octets_and_no_more(
    arranging: Arranging, directory: Directory, owner_id: str, store: Store
) -> None:
    for start in range(0, MAX_DOMAINS, 100):
        await asyncio.gather(*(arranging.put_setting(owner_id, f"d{number}.example", ()) for number in range(start, start + 100)))
    with pytest.raises(BadValue, match="at most 1000 domains"):
        await arranging.put_setting(owner_id, "", HOST)
    await arranging.put_setting(owner_id, "d7.example", HOST)
    await arranging.remove_setting(owner_id, "d8.example")
    await arranging.put_setting(owner_id, "", HOST)
    assert len((await directory.outfit(owner_id)).settings) == MAX_DOMAINS
    size = int(await store.command("HGET", f"{{o:{owner_id}}}", "outsize"))
    assert size == sum(map(len, await store.command("HVALS", f"{{o:{owner_id}}}:settings")))
    await store.command("HSET", f"{{o:{owner_id}}}", "outsize", arranging_module.MAX_OCTETS)
    with pytest.raises(BadValue, match="8 MB in all"):
        await arranging.put_setting(owner_id, "d7.example", HOST, DOCUMENT)
    assert await arranging.remove_setting(owner_id, "d7.example")


async def test_an_owner_that_is_unknown_is_said_to_be_so_only_by_a_store_that_is_ours(
    arranging: Arranging, owner_id: str, store: Store
) -> None:
    signer = Signer("a.example", "s", new_key("ed25519"))
    calls: list[Callable[[str], Awaitable[object]]] = [
        lambda owner: arranging.put_setting(owner, "", HOST),
        lambda owner: arranging.put_setting(owner, "a.example", HOST, must_exist=True),
        lambda owner: arranging.remove_setting(owner, ""),
        lambda owner: arranging.set_policy(owner, Policy()),
        lambda owner: arranging.set_signer(owner, signer),
        lambda owner: arranging.remove_signer(owner, "a.example"),
    ]

    async def fails(owner: str, expected: type[Exception]) -> None:
        for call in calls:
            with pytest.raises(expected):
                await call(owner)

    for owner in ("12345678", "", "}:x", "\udc80"):
        await fails(owner, UnknownOwner)
    await store.command("FLUSHALL")
    await fails(owner_id, StoreForeign)


async def test_a_policy_says_who_may_be_sent_as(arranging: Arranging, directory: Directory, owner_id: str, log: Path) -> None:
    async def with_policy(*given: Any) -> Outfit:
        await arranging.set_policy(owner_id, Policy(*given))
        return await directory.outfit(owner_id)

    await arranging.put_setting(owner_id, "Own.example", HOST)
    assert (await with_policy()).allows("any@one.example")
    own = await with_policy("domains", ("Other.example", "bücher.example", "other.EXAMPLE"), True)
    assert own.policy == Policy("domains", ("other.example", "xn--bcher-kva.example"), True)
    for address in ("a@own.example", "A@OWN.example", "a@other.example", "a@bücher.example", "a@xn--bcher-kva.example", ""):
        assert own.allows(address)
    for address in (
        "a@sub.own.example",
        "a@example",
        "own.example",
        "a@",
        "@",
        "a@own.example.evil.example",
        '"@own.example"@evil.example',
    ):
        assert not own.allows(address) or address == "own.example"
    await arranging.put_setting(owner_id, "", HOST)
    assert not (await directory.outfit(owner_id)).allows("a@"), "the default is no domain"
    listed = await with_policy("addresses", ("News@Own.example", "ä@bücher.example"))
    for address in ("news@own.example", "NEWS@OWN.EXAMPLE", "ä@xn--bcher-kva.example", ""):
        assert listed.allows(address)
    for address in ("new@own.example", "a@own.example", "news@other.example", "@"):
        assert not listed.allows(address)
    for given in (("addresses", ("own.example",)), ("domains", ("a@b.example",)), ("nobody",), ("addresses", ("a@b.example\r\n",))):
        with pytest.raises(BadValue):
            await arranging.set_policy(owner_id, Policy(*given))
    lines = [line for line in journaled(log) if line["event"] == "policy_set"]
    assert lines[1] == {"event": "policy_set", "owner": owner_id, "senders": "domains", "allowed": 2, "checks_from": True}


async def test_no_secret_is_in_the_store_in_clear_or_in_the_log_or_a_repr(
    provisioning: Provisioning, store: Store, key: Key, journal: Journal, log: Path, owner_id: str
) -> None:
    directory = Directory(store, key)
    arranging = Arranging(store, key, directory, journal)
    target = Target("a.example", 465, "tls", username="user", password="hunter2", identity="PEM-hunter2")
    await arranging.put_setting(owner_id, "a.example", [Choice(target)], {"pass": "hunter2"})
    pem = new_key("rsa")
    await arranging.set_signer(owner_id, Signer("a.example", "s", pem))
    body = pem.splitlines()[3]
    for name in await store.command("KEYS", "*"):
        if await store.command("TYPE", name) in (b"hash", "hash"):
            flat = await store.command("HGETALL", name)
            for octets in flat:
                assert b"hunter2" not in octets and body.encode() not in octets
    outfit = await directory.outfit(owner_id)
    for text in (log.read_text(), repr(outfit), repr(arranging), repr(outfit.settings["a.example"].route)):
        assert "hunter2" not in text and body not in text
