"""A password that was right before is asked for cheaply, and is let in by nothing but what the store says now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from relay.accounts.provisioning import Provisioning
from relay.accounts.registry import Registry
from relay.accounts.secrets import Key
from relay.accounts.throttle import Throttle
from relay.accounts.user import User
from relay.store.client import Argument, Script, Store
from tests.accounts.conftest import Limits

ADDRESS = "192.0.2.1"


class Overheard(Store):
    """A store that keeps the names of its commands."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked: list[str] = []

    def command(self, *command: Argument) -> asyncio.Future[Any]:
        """As ever."""
        self.asked.append(str(command[0]))
        return super().command(*command)

    def run(self, script: Script, key: Argument, *arguments: Argument) -> asyncio.Future[Any]:
        """As ever."""
        self.asked.append("script")
        return super().run(script, key, *arguments)


@dataclass
class Entry:
    """A worker's way in, with a user who has come in by it before."""

    store: Overheard
    registry: Registry
    throttle: Throttle
    name: str
    password: str
    waits: list[int] = field(default_factory=list)

    async def enter(self, password: str, address: str = ADDRESS) -> User | None:
        """What a session does."""
        with self.throttle.attempt(address, self.name) as attempt:
            user = await self.registry.verify_user(self.name, password, attempt)
            if attempt.wait:
                self.waits.append(attempt.wait)
            elif user is None:
                await attempt.failed()
            else:
                attempt.succeeded()
            return user


@pytest.fixture
async def entry(store: Store, place: Path, key: Key, provisioning: Provisioning) -> AsyncIterator[Entry]:
    owner, _ = await provisioning.add_owner("Acme")
    user, password = await provisioning.add_user(owner.owner_id, None, None)
    client = Overheard(f"unix://{place / 'data' / 'store.sock'}")
    client.epoch = store.epoch
    made = Entry(client, Registry(client, key), Throttle(client, Limits()), user.name, password)
    assert await made.enter(password)
    await client.command("PING")  # what was told of the first time is over
    client.asked.clear()
    yield made
    await client.close()


async def test_it_costs_two_plain_questions_and_leaves_nothing(entry: Entry, store: Store) -> None:
    assert await entry.enter(entry.password)
    assert entry.store.asked == ["HMGET", "EXISTS"]
    assert await store.command("KEYS", "{t:*") == []


async def test_a_reset_password_and_a_disabled_user_hold_from_the_answer_on(entry: Entry, provisioning: Provisioning) -> None:
    await provisioning.edit_user(entry.name, is_enabled=False)
    user = await entry.enter(entry.password)
    assert user is not None and not user.is_enabled
    await provisioning.edit_user(entry.name, is_enabled=True, hourly=7)
    user = await entry.enter(entry.password)
    assert user is not None and user.is_enabled and user.hourly == 7
    fresh = await provisioning.reset_password(entry.name)
    assert await entry.enter(entry.password) is None
    assert await entry.enter(fresh)
    await provisioning.delete_user(entry.name)
    assert await entry.enter(fresh) is None


async def test_failures_of_the_name_are_forgotten_and_those_of_the_address_stay(entry: Entry) -> None:
    for _ in range(3):
        assert not [guess for guess in [await entry.enter("guess"), await entry.enter("guess")] if guess]
        await entry.enter(entry.password)
    assert len(entry.waits) == 1  # six failures: the address has to wait
    assert await entry.enter(entry.password, "192.0.2.2")


async def test_an_address_that_has_to_wait_does_not_learn_which_password_is_right(entry: Entry) -> None:
    for _ in range(3):
        await entry.enter("guess")
    assert [await entry.enter(password) for password in ("guess", entry.password)] == [None, None]
    assert entry.waits == [20, 20]


async def test_among_guesses_that_come_together_the_right_one_is_heard_only_before_those_that_bar_it(entry: Entry) -> None:
    guesses = [f"guess{number}" for number in range(20)]
    assert not any(await asyncio.gather(*map(entry.enter, [*guesses, entry.password])))
    assert len(entry.waits) == 18


async def test_a_former_password_does_not_take_back_guesses_at_the_new_one(entry: Entry, provisioning: Provisioning) -> None:
    await provisioning.reset_password(entry.name)
    for password in ("guess", entry.password, "guess", entry.password, "guess", entry.password):
        assert await entry.enter(password) is None
    assert entry.waits == [20, 20, 20]


async def test_a_slow_hash_is_spared_only_while_it_is_the_same(entry: Entry, provisioning: Provisioning, key: Key) -> None:
    owner, _ = await provisioning.add_owner("Acme")
    await provisioning.import_user(owner.owner_id, "brought", "a person's", None, None)
    entry.name = "brought"
    assert await entry.enter("a person's")
    entry.store.asked.clear()
    assert await entry.enter("a person's")
    assert entry.store.asked == ["HMGET", "EXISTS"]
    await provisioning.delete_user("brought")
    await provisioning.import_user(owner.owner_id, "brought", "another's", None, None)
    assert await entry.enter("a person's") is None
    assert await entry.enter("another's")
