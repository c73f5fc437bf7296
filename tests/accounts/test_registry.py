"""Looking up, verifying, listing."""

from __future__ import annotations

import asyncio

import pytest

from relay.accounts import registry as registry_module
from relay.accounts.provisioning import Provisioning
from relay.accounts.registry import Registry
from relay.accounts.secrets import Key
from relay.accounts.user import User, user_key
from relay.store.client import Store, StoreForeign


async def names(registry: Registry, owner_id: str) -> list[str]:
    return [entry.user.name async for page in registry.user_pages(owner_id) for entry in page]


async def test_a_user_is_verified_by_its_password_alone(provisioning: Provisioning, registry: Registry) -> None:
    owner, _ = await provisioning.add_owner("Acme")
    user, password = await provisioning.add_user(owner.owner_id, 10, None)
    assert user == User(user.name, owner.owner_id, True, user.generation, 10, None)
    assert await registry.verify_user(user.name, password) == user
    assert await registry.find_user(user.name) == user
    for wrong in ("", password[:-1], password + "x", password.swapcase(), "\udc80"):
        assert await registry.verify_user(user.name, wrong) is None
    for name in ("", "smtp000000000", "{u:x}", "a b", "\0", user.name + "}", user.name.upper()):
        assert await registry.verify_user(name, password) is None
        assert await registry.find_user(name) is None


async def test_a_user_that_an_older_version_wrote_is_verified(
    provisioning: Provisioning, registry: Registry, key: Key, store: Store
) -> None:
    """It kept the whole of the keyed hash, and said of what kind it is."""
    owner, _ = await provisioning.add_owner("Acme")
    user, password = await provisioning.add_user(owner.owner_id, 10, None)
    whole = key.hash_password(user.name, password)
    for stored, verified in ((whole, user), (whole[:-1] + b"x", None), (whole[:31], None), (whole[:1], None), (b"", None)):
        await store.command("HSET", user_key(user.name), "kind", "h", "hash", stored)
        assert await registry.verify_user(user.name, password) == verified
    fresh = await provisioning.reset_password(user.name)
    assert await registry.verify_user(user.name, password) is None
    assert await registry.verify_user(user.name, fresh)


async def test_an_account_is_small_and_in_one_piece_whatever_its_password(provisioning: Provisioning, store: Store) -> None:
    """The store keeps a hash of small values in one piece of memory, and a third of it is what a table of them would need."""
    owner, _ = await provisioning.add_owner("Acme")
    user, _ = await provisioning.add_user(owner.owner_id, 10_000, 1_000_000)
    assert await store.command("MEMORY", "USAGE", user_key(user.name)) <= 256
    await provisioning.import_user(owner.owner_id, "billing.app", "x y" * 42, 10_000, 1_000_000)
    assert await store.command("OBJECT", "ENCODING", user_key("billing.app")) == b"listpack"


async def test_an_owner_is_verified_by_its_token_alone(provisioning: Provisioning, registry: Registry) -> None:
    owner, token = await provisioning.add_owner("Acme", "poweremail")
    assert await registry.verify_owner(owner.owner_id, token) == owner
    assert await registry.find_owner(owner.owner_id) == owner
    for owner_id, wrong in ((owner.owner_id, ""), (owner.owner_id, token + "x"), ("", token), ("12345678", token), ("}:users", token)):
        assert await registry.verify_owner(owner_id, wrong) is None


async def test_an_imported_password_is_verified_and_remembered_until_it_changes(provisioning: Provisioning, registry: Registry) -> None:
    owner, _ = await provisioning.add_owner("Acme")
    await provisioning.import_user(owner.owner_id, "billing.app", "hunter2 is not random", 5, 5)
    for _ in range(2):
        assert await registry.verify_user("billing.app", "hunter2 is not random")
        assert await registry.verify_user("billing.app", "hunter2") is None
    fresh = await provisioning.reset_password("billing.app")
    assert await registry.verify_user("billing.app", "hunter2 is not random") is None
    assert await registry.verify_user("billing.app", fresh)


async def test_a_brought_name_takes_the_slow_hash_whether_it_exists_or_not(provisioning: Provisioning, registry: Registry) -> None:
    loop = asyncio.get_running_loop()
    owner, _ = await provisioning.add_owner("Acme")
    await provisioning.import_user(owner.owner_id, "billing.app", "hunter2", 5, 5)
    took = {}
    for name in ("billing.app", "nobody.here", "smtp123456789"):
        begin = loop.time()
        for _ in range(3):
            assert await registry.verify_user(name, "wrong") is None
        took[name] = loop.time() - begin
    assert 0.4 < took["billing.app"] / took["nobody.here"] < 2.5
    assert took["smtp123456789"] < took["nobody.here"]


async def test_another_owners_user_is_unknown(provisioning: Provisioning, registry: Registry) -> None:
    one, _ = await provisioning.add_owner("One")
    two, _ = await provisioning.add_owner("Two")
    user, password = await provisioning.add_user(one.owner_id, 1, 1)
    assert await registry.find_user(user.name, one.owner_id) == user
    assert await registry.find_user(user.name, two.owner_id) is None
    assert await registry.find_entry(user.name, two.owner_id) is None
    entry = await registry.find_entry(user.name, one.owner_id)
    assert entry is not None and entry.password == password and entry.is_switched_on
    assert await names(registry, two.owner_id) == []


async def test_users_are_listed_over_many_pages_in_the_order_of_their_creation(
    provisioning: Provisioning, registry: Registry, store: Store
) -> None:
    owner, _ = await provisioning.add_owner("Acme")
    made = [(await provisioning.add_user(owner.owner_id, 1, 1))[0].name for _ in range(20)]
    fields = ("owner", owner.owner_id, "status", "E", "ostatus", "E", "gen", "1", "hourly", "", "total", "")
    for i in range(registry_module.PAGE * 2 + 50):  # all with one score: only the members tell them apart
        await store.command("HSET", f"{{u:bulk{i}}}", *fields)
        await store.command("ZADD", f"{{o:{owner.owner_id}}}:users", "1", f"bulk{i}")
    listed = await names(registry, owner.owner_id)
    assert listed[-20:] == made
    assert len(listed) == len(set(listed)) == registry_module.PAGE * 2 + 70


async def test_an_index_entry_without_a_user_is_skipped_and_repaired_when_it_is_old(
    provisioning: Provisioning, registry: Registry, store: Store
) -> None:
    one, _ = await provisioning.add_owner("One")
    two, _ = await provisioning.add_owner("Two")
    user, _ = await provisioning.add_user(one.owner_id, 1, 1)
    foreign, _ = await provisioning.add_user(two.owner_id, 1, 1)
    index = f"{{o:{one.owner_id}}}:users"
    await store.command("ZADD", index, "1000", "smtp111111111", "1001", foreign.name, "99999999999999", "smtp222222222")
    assert await names(registry, one.owner_id) == [user.name]
    assert await store.command("ZRANGE", index, 0, -1) == [user.name.encode(), b"smtp222222222"]
    assert await names(registry, two.owner_id) == [foreign.name]


async def test_owners_are_listed_and_a_half_made_one_is_skipped(provisioning: Provisioning, registry: Registry, store: Store) -> None:
    made = [(await provisioning.add_owner(name))[0] for name in ("One", "Zwei", "Três")]
    await store.command("ZADD", "relay:owners", "5", "98765432")
    assert [owner async for page in registry.owner_pages() for owner in page] == made
    assert await store.command("ZSCORE", "relay:owners", "98765432") is None


async def test_a_store_that_came_back_empty_never_says_unknown(provisioning: Provisioning, registry: Registry, store: Store) -> None:
    owner, token = await provisioning.add_owner("Acme")
    user, password = await provisioning.add_user(owner.owner_id, 1, 1)
    await store.command("FLUSHALL")
    for call in (
        registry.verify_user(user.name, password),
        registry.find_user(user.name),
        registry.verify_owner(owner.owner_id, token),
        registry.find_owner(owner.owner_id),
        names(registry, owner.owner_id),
        provisioning.edit_user(user.name, hourly=5),
        provisioning.add_user(owner.owner_id, 1, 1),
        provisioning.delete_user(user.name),
        provisioning.rotate_token(owner.owner_id),
    ):
        with pytest.raises(StoreForeign):
            await call


async def test_no_secret_is_in_the_store_in_clear_and_every_value_is_small(provisioning: Provisioning, store: Store, key: Key) -> None:
    owner, token = await provisioning.add_owner("Acme")
    user, password = await provisioning.add_user(owner.owner_id, 10**12, None)
    await provisioning.import_user(owner.owner_id, "app", "a password of thirty-two octets", 1, 1)
    for name in (f"{{u:{user.name}}}", "{u:app}", f"{{o:{owner.owner_id}}}"):
        flat = await store.command("HGETALL", name)
        values = list(flat.values()) if isinstance(flat, dict) else flat[1::2]
        for value in values:
            assert len(value) <= 64
            assert token.encode() not in value and password.encode() not in value and b"thirty-two" not in value
        assert await store.command("OBJECT", "ENCODING", name) == b"listpack"
