"""The only writer: what it makes, changes and takes away, and what holds when it returns."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from relay.accounts.provisioning import BadValue, NameTaken, Provisioning, UnknownOwner, UnknownUser
from relay.accounts.registry import Registry
from relay.accounts.secrets import Key, is_generated_password
from relay.journal import Journal
from relay.quota.ledger import CHANGES, Hold, Ledger, Refusal
from relay.store.client import Store

Change = Callable[[Provisioning, str], Awaitable[object]]

RESTRICTING: dict[str, Change] = {
    "lowered hourly": lambda p, name: p.edit_user(name, hourly=4),
    "lowered total": lambda p, name: p.edit_user(name, total=4),
    "limited at all": lambda p, name: p.edit_user(name, hourly=10**6, total=10**6),
    "disabled": lambda p, name: p.edit_user(name, is_enabled=False),
    "reset": lambda p, name: p.reset_password(name),
    "deleted": lambda p, name: p.delete_user(name),
}


def events(log: Path) -> list[str]:
    return [json.loads(line)["event"] for line in log.read_text().splitlines()]


@pytest.fixture
async def owner_id(provisioning: Provisioning) -> str:
    return (await provisioning.add_owner("Acme"))[0].owner_id


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


@pytest.mark.parametrize("change", RESTRICTING)
async def test_a_change_that_restricts_waits_for_what_is_in_flight(
    provisioning: Provisioning, ledger: Ledger, owner_id: str, change: str
) -> None:
    user, _ = await provisioning.add_user(owner_id, None, None)
    if "lowered" in change:
        await provisioning.edit_user(user.name, hourly=100, total=100)
    hold = await ledger.reserve(user.name, "m1", 1, 1)
    assert isinstance(hold, Hold)
    task = asyncio.ensure_future(RESTRICTING[change](provisioning, user.name))
    await asyncio.sleep(0.15)
    assert not task.done()
    # What begins after the write is judged by the new state.
    later = await ledger.reserve(user.name, "m2", 5, 1)
    assert isinstance(later, Hold) == (change == "limited at all")
    assert (await ledger.settle(user.name, "m1", 1, 1)).outcome == "ok"
    await asyncio.wait_for(task, 1)


async def test_a_change_that_gives_does_not_wait(provisioning: Provisioning, ledger: Ledger, owner_id: str) -> None:
    user, _ = await provisioning.add_user(owner_id, 10, 10)
    await ledger.reserve(user.name, "m1", 1, 1)
    async with asyncio.timeout(0.5):
        await provisioning.edit_user(user.name, hourly=20, total=None, is_enabled=True)


async def test_a_wait_that_is_too_long_is_journaled(provisioning: Provisioning, ledger: Ledger, owner_id: str, log: Path) -> None:
    user, _ = await provisioning.add_user(owner_id, 10, 10)
    await ledger.reserve(user.name, "m1", 1, 1)
    await provisioning.edit_user(user.name, hourly=5)
    assert events(log)[-1] == "change_overtaken"


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
    await ledger.reserve(user.name, "m1", 1, 1)
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
    made = [(await provisioning.add_user(owner_id, 10, 10))[0].name for _ in range(30)]
    await provisioning.edit_user(made[0], is_enabled=False)
    await ledger.reserve(made[1], "m1", 1, 1)
    task = asyncio.create_task(provisioning.set_owner_status(owner_id, False))
    await asyncio.sleep(0.15)
    assert not task.done()
    refused = await ledger.reserve(made[2], "m2", 1, 1)
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
