"""The only writer: what it makes, changes and takes away, and what holds when it returns."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.accounts.provisioning import _CREATE as CREATE
from relay.accounts.provisioning import _JOIN as JOIN
from relay.accounts.provisioning import BadValue, NameTaken, Provisioning, UnknownOwner, UnknownUser
from relay.accounts.registry import Registry
from relay.accounts.secrets import Key, is_generated_password
from relay.accounts.user import IN_THE_MAKING, user_key
from relay.journal import Journal
from relay.quota.ledger import CHANGES, Hold, Ledger, Refusal
from relay.store.client import Argument, Script, Store


def events(log: Path) -> list[str]:
    return [json.loads(line)["event"] for line in log.read_text().splitlines()]


@pytest.fixture
async def heard(store: Store) -> AsyncIterator[list[str]]:
    """The names of changed users, as the workers hear them."""
    names: list[str] = []
    stands = asyncio.Event()

    async def listen() -> None:
        async for name in store.subscribe(CHANGES):
            stands.set()
            if name is not None:
                names.append(name)

    task = asyncio.create_task(listen())
    await stands.wait()
    yield names
    task.cancel()
    await asyncio.wait({task})


async def test_an_edit_changes_what_is_given_and_leaves_the_rest(
    provisioning: Provisioning, registry: Registry, owner_id: str, heard: list[str]
) -> None:
    user, password = await provisioning.add_user(owner_id, 10, 100)
    assert (await provisioning.edit_user(user.name)).hourly == 10
    await asyncio.sleep(0.05)
    assert heard == []
    changed = await provisioning.edit_user(user.name, owner_id=owner_id, hourly=20)
    assert (changed.hourly, changed.total, changed.is_enabled) == (20, 100, True)
    changed = await provisioning.edit_user(user.name, total=None)
    assert (changed.hourly, changed.total) == (20, None)
    assert not (await provisioning.edit_user(user.name, is_enabled=False)).is_enabled
    assert (await provisioning.edit_user(user.name, is_enabled=True)).is_enabled
    assert await registry.verify_user(user.name, password) == changed
    await asyncio.sleep(0.05)
    assert heard == [user.name] * 4


@pytest.mark.parametrize("limit", [0, -1, 10**12 + 1])
async def test_a_limit_is_a_positive_number_or_none(provisioning: Provisioning, owner_id: str, limit: int) -> None:
    user, _ = await provisioning.add_user(owner_id, None, 10**12)
    for call in (
        provisioning.add_user(owner_id, limit, 1),
        provisioning.add_user(owner_id, 1, limit),
        provisioning.edit_user(user.name, hourly=limit),
        provisioning.edit_user(user.name, total=limit),
        provisioning.import_user(owner_id, "x", "y", limit, 1),
    ):
        with pytest.raises(BadValue):
            await call


async def test_another_owners_user_is_as_unknown_as_one_that_never_was(
    provisioning: Provisioning, registry: Registry, owner_id: str
) -> None:
    other, _ = await provisioning.add_owner("Other")
    user, password = await provisioning.add_user(owner_id, 10, 10)
    for name in (user.name, "smtp000000000", "no such/name"):
        for call in (
            provisioning.edit_user(name, owner_id=other.owner_id, hourly=1),
            provisioning.reset_password(name, owner_id=other.owner_id),
            provisioning.delete_user(name, owner_id=other.owner_id),
        ):
            with pytest.raises(UnknownUser, match="unknown user"):
                await call
    assert await registry.verify_user(user.name, password) == user


async def test_a_session_of_a_deleted_user_is_not_one_of_the_next_user_of_that_name(
    provisioning: Provisioning, registry: Registry, ledger: Ledger, owner_id: str
) -> None:
    other, _ = await provisioning.add_owner("Other")
    old = await provisioning.import_user(owner_id, "bob", "old password", 10, 100)
    await provisioning.delete_user("bob")
    new = await provisioning.import_user(other.owner_id, "bob", "new password", 10, 100)
    assert await registry.verify_user("bob", "new password") == new
    refused = await ledger.reserve("bob", "m1", 1, old.generation)
    assert isinstance(refused, Refusal) and refused.reason == "stale"
    assert isinstance(await ledger.reserve("bob", "m2", 1, new.generation), Hold)


class SlowStore:
    """The same store; before and after an account is created, or before its owner's status is given to it, it takes a while."""

    def __init__(self, store: Store, before: float, after: float, joining: float) -> None:
        self._store, self._before, self._after, self._joining = store, before, after, joining

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def run(self, script: Script, key: str, *args: Argument) -> object:
        await asyncio.sleep(self._before if script is CREATE else self._joining if script is JOIN else 0)
        answer: object = await self._store.run(script, key, *args)
        await asyncio.sleep(self._after if script is CREATE else 0)
        return answer


@pytest.mark.parametrize(("before", "after", "joining"), [(0.3, 0.3, 0.0), (0.0, 0.3, 0.0), (0.0, 0.0, 0.3), (0.3, 0.0, 0.3)])
async def test_a_user_in_the_making_is_never_enabled_once_the_disabling_of_its_owner_was_answered(
    provisioning: Provisioning, store: Store, key: Key, registry: Registry, ledger: Ledger, journal: Journal, owner_id: str,
    before: float, after: float, joining: float,
) -> None:  # fmt: skip
    slow: Any = SlowStore(store, before, after, joining)
    making = asyncio.create_task(Provisioning(slow, key, registry, ledger, journal).import_user(owner_id, "carol", "x", 10, 10))
    await asyncio.sleep(0.2)  # the password's hash takes some of it
    await provisioning.set_owner_status(owner_id, False)
    while not making.done():
        found = await registry.find_user("carol")
        assert found is None or not found.is_enabled
        if found is not None:
            refused = await ledger.reserve("carol", "m1", 1, found.generation)
            assert isinstance(refused, Refusal) and refused.reason == "disabled"
        await asyncio.sleep(0.02)
    assert not (await making).is_enabled
    await provisioning.set_owner_status(owner_id, True)
    found = await registry.find_user("carol")
    assert found is not None and found.is_enabled


async def test_a_user_left_in_the_making_by_a_crash_is_enabled_by_an_edit(
    provisioning: Provisioning, registry: Registry, store: Store, owner_id: str
) -> None:
    user, password = await provisioning.add_user(owner_id, 10, 10)
    await store.command("HSET", user_key(user.name), "ostatus", IN_THE_MAKING)
    found = await registry.verify_user(user.name, password)
    assert found is not None and not found.is_enabled
    assert (await provisioning.edit_user(user.name, is_enabled=True)).is_enabled
    assert await registry.verify_user(user.name, password) == user


@pytest.mark.parametrize("text", ["\ud800", "smtp\udcff23456789", "a b", "\0"])
async def test_what_is_not_even_text_is_as_unknown_as_any_name(
    provisioning: Provisioning, registry: Registry, owner_id: str, text: str
) -> None:
    user, _ = await provisioning.add_user(owner_id, 10, 10)
    for name, owner in ((text, None), (text, owner_id), (text, text), (user.name, text)):
        for call in (
            provisioning.edit_user(name, owner_id=owner, hourly=1),
            provisioning.reset_password(name, owner_id=owner),
            provisioning.delete_user(name, owner_id=owner),
        ):
            with pytest.raises(UnknownUser) as caught:
                await call
            str(caught.value).encode()
        assert await registry.find_user(name, owner) is None
        assert await registry.find_entry(name, owner) is None
    for making in (
        provisioning.add_user(text, 1, 1),
        provisioning.import_user(text, "app", "secret", 1, 1),
        provisioning.set_owner_status(text, False),
        provisioning.rotate_token(text),
    ):
        with pytest.raises(UnknownOwner):
            await making
    for refused in (provisioning.import_user(owner_id, text, "secret", 1, 1), provisioning.add_owner(f"\ud800{text}")):
        with pytest.raises(BadValue):
            await refused
    assert await registry.verify_user(text, text) is None
    assert await registry.verify_owner(text, text) is None
    assert await registry.find_owner(text) is None
    assert [page async for page in registry.user_pages(text)] == []
    assert await registry.find_user(user.name) == user


async def test_an_empty_owner_id_reaches_nobodys_user(provisioning: Provisioning, registry: Registry, owner_id: str) -> None:
    user, _ = await provisioning.add_user(owner_id, 10, 10)
    with pytest.raises(UnknownUser):
        await provisioning.edit_user(user.name, owner_id="", hourly=1)
    assert await registry.find_user(user.name) == user


async def test_a_reset_gives_a_new_password_and_a_new_generation(provisioning: Provisioning, registry: Registry, owner_id: str) -> None:
    user, old = await provisioning.add_user(owner_id, 10, 10)
    new = await provisioning.reset_password(user.name, owner_id=owner_id)
    assert new != old and is_generated_password(new)
    assert await registry.verify_user(user.name, old) is None
    found = await registry.verify_user(user.name, new)
    assert found is not None and found.generation == user.generation + 1


async def test_a_deleted_user_leaves_nothing_and_is_not_brought_back(
    provisioning: Provisioning, registry: Registry, ledger: Ledger, store: Store, owner_id: str
) -> None:
    user, _ = await provisioning.add_user(owner_id, 10, 10)
    await ledger.reserve(user.name, "m1", 1, user.generation)
    await ledger.settle(user.name, "m1", 1, 1)
    await provisioning.delete_user(user.name, owner_id=owner_id)
    for call in (provisioning.edit_user(user.name, hourly=5), provisioning.reset_password(user.name), provisioning.delete_user(user.name)):
        with pytest.raises(UnknownUser):
            await call
    await provisioning.set_owner_status(owner_id, False)
    assert await store.command("KEYS", f"*{user.name}*") == []
    assert await store.command("ZCARD", f"{{o:{owner_id}}}:users") == 0
    assert await registry.find_user(user.name) is None


async def test_an_owners_status_reaches_all_its_users_and_keeps_their_own(
    provisioning: Provisioning, registry: Registry, ledger: Ledger, owner_id: str, heard: list[str]
) -> None:
    users = [(await provisioning.add_user(owner_id, 10, 10))[0] for _ in range(30)]
    made = [user.name for user in users]
    await provisioning.edit_user(made[0], is_enabled=False)
    await ledger.reserve(made[1], "m1", 1, users[1].generation)
    task = asyncio.create_task(provisioning.set_owner_status(owner_id, False))
    await asyncio.sleep(0.15)
    assert not task.done()
    refused = await ledger.reserve(made[2], "m2", 1, users[2].generation)
    assert isinstance(refused, Refusal) and refused.reason == "disabled"
    await ledger.settle(made[1], "m1", 1, 0)
    assert await task == 30
    assert set(heard) == set(made)
    entries = [entry async for page in registry.user_pages(owner_id) for entry in page]
    assert not any(entry.user.is_enabled for entry in entries)
    assert [entry.user.name for entry in entries if not entry.is_switched_on] == [made[0]]
    await provisioning.set_owner_status(owner_id, True)
    entries = [entry async for page in registry.user_pages(owner_id) for entry in page]
    assert [entry.user.name for entry in entries if not entry.user.is_enabled] == [made[0]]


async def test_users_made_while_their_owner_changes_have_its_status_in_the_end(
    provisioning: Provisioning, registry: Registry, owner_id: str
) -> None:
    async def make() -> None:
        for _ in range(20):
            await provisioning.add_user(owner_id, 1, 1)

    async def flip(*statuses: bool) -> None:
        for status in statuses:
            await provisioning.set_owner_status(owner_id, status)

    for last in (False, True):
        await asyncio.gather(make(), make(), flip(True, False, True), flip(False, True, False), make())
        owner = await registry.find_owner(owner_id)
        entries = [entry async for page in registry.user_pages(owner_id) for entry in page]
        assert owner is not None
        assert {entry.user.is_enabled for entry in entries} == {owner.is_enabled}
        await provisioning.set_owner_status(owner_id, last)
        assert {entry.user.is_enabled async for page in registry.user_pages(owner_id) for entry in page} == {last}


async def test_a_user_of_a_disabled_owner_is_born_disabled(provisioning: Provisioning, owner_id: str) -> None:
    await provisioning.set_owner_status(owner_id, False)
    user, _ = await provisioning.add_user(owner_id, 1, 1)
    assert not user.is_enabled


async def test_a_rotated_token_is_the_only_one(provisioning: Provisioning, registry: Registry) -> None:
    owner, old = await provisioning.add_owner("Acme")
    new = await provisioning.rotate_token(owner.owner_id)
    assert await registry.verify_owner(owner.owner_id, old) is None
    assert await registry.verify_owner(owner.owner_id, new) == owner


async def test_a_name_is_never_given_twice(provisioning: Provisioning, registry: Registry, store: Store, owner_id: str) -> None:
    other, _ = await provisioning.add_owner("Other")
    await provisioning.import_user(owner_id, "app", "one", 1, 1)
    with pytest.raises(NameTaken):
        await provisioning.import_user(owner_id, "app", "two", 1, 1)
    with pytest.raises(NameTaken):
        await provisioning.import_user(other.owner_id, "app", "two", 1, 1)
    assert await registry.verify_user("app", "one")
    assert await store.command("ZCARD", f"{{o:{other.owner_id}}}:users") == 0
    assert await store.command("ZCARD", f"{{o:{owner_id}}}:users") == 1
    answers = await asyncio.gather(*(provisioning.import_user(owner_id, "race", str(i), 1, 1) for i in range(4)), return_exceptions=True)
    assert sum(isinstance(answer, NameTaken) for answer in answers) == 3


@pytest.mark.parametrize(
    ("name", "password"),
    [("", "x"), ("a b", "x"), ("{x}", "x"), ("ok", ""), ("ok", "x" * 129), ("ok", "a\nb"), ("smtp123456789", "human"), ("é", "x")],
)
async def test_what_cannot_be_imported_is_refused(provisioning: Provisioning, owner_id: str, name: str, password: str) -> None:
    with pytest.raises(BadValue) as caught:
        await provisioning.import_user(owner_id, name, password, 1, 1)
    assert len(password) < 2 or password not in str(caught.value)


async def test_an_unknown_owner_gets_no_users(provisioning: Provisioning, store: Store) -> None:
    for call in (
        provisioning.add_user("12345678", 1, 1),
        provisioning.set_owner_status("12345678", False),
        provisioning.rotate_token("}"),
    ):
        with pytest.raises(UnknownOwner):
            await call
    assert await store.command("KEYS", "*12345678*") == []


@pytest.mark.parametrize(("name", "profile"), [("", ""), ("x" * 65, ""), ("a\nb", ""), ("ok", "nobody's")])
async def test_an_owner_needs_a_name_and_a_known_profile(provisioning: Provisioning, name: str, profile: str) -> None:
    with pytest.raises(BadValue):
        await provisioning.add_owner(name, profile)


async def test_without_recoverable_passwords_none_is_kept(
    store: Store, key: Key, registry: Registry, ledger: Ledger, journal: Journal
) -> None:
    provisioning = Provisioning(store, key, registry, ledger, journal, is_recoverable=False)
    owner, _ = await provisioning.add_owner("Acme")
    user, _ = await provisioning.add_user(owner.owner_id, 1, 1)
    await provisioning.import_user(owner.owner_id, "app", "secret", 1, 1)
    await provisioning.reset_password(user.name)
    entries = [entry async for page in registry.user_pages(owner.owner_id) for entry in page]
    assert [entry.password for entry in entries] == [None, None]


async def test_no_secret_reaches_the_journal(provisioning: Provisioning, owner_id: str, log: Path) -> None:
    owner, token = await provisioning.add_owner("Other")
    user, password = await provisioning.add_user(owner_id, 1, 1)
    await provisioning.import_user(owner_id, "app", "from elsewhere", 1, 1)
    secrets = [
        token,
        password,
        "from elsewhere",
        await provisioning.reset_password(user.name),
        await provisioning.rotate_token(owner.owner_id),
    ]
    text = log.read_text()
    assert not any(secret in text for secret in secrets)
