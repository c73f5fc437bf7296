"""Connections of a user are counted over all workers, and never more than the limit are let in."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from relay.accounts.presence import Presence
from relay.store.client import Argument, Script, Store, StoreUnavailable

KEY = "{u:a}:sessions"


@pytest.fixture
async def stores(store: Store, place: Path) -> AsyncIterator[list[Store]]:
    """Three clients of one store, as three processes have them."""
    others = [Store(f"unix://{place / 'data' / 'store.sock'}") for _ in range(2)]
    yield [store, *others]
    for other in others:
        await other.close()


async def said(store: Store, count: int) -> None:
    """Wait until the store has heard of so many connections of user a."""
    async with asyncio.timeout(5):
        while sum(int(value.split()[1]) for value in await store.command("HVALS", KEY)) != count:
            await asyncio.sleep(0.002)


async def test_over_all_workers_no_more_are_let_in_than_the_limit(stores: list[Store]) -> None:
    workers = [Presence(store, f"w{i}", 3) for i, store in enumerate(stores)]
    answers = [await workers[i % 3].enter("a") for i in range(6)]
    assert answers == [True, True, True, False, False, False]
    assert await workers[0].enter("b")  # others have a limit of their own
    workers[1].leave("a")
    await said(stores[0], 2)
    assert await workers[0].enter("a")
    assert not await workers[1].enter("a")


async def test_never_more_than_the_limit_are_in_whoever_asks_and_leaves_at_once(stores: list[Store]) -> None:
    limit, inside, most, let_in, chance = 7, 0, 0, 0, random.Random(4)
    workers = [Presence(store, f"w{i}", limit) for i, store in enumerate(stores)]

    async def come_and_go(worker: Presence) -> None:
        nonlocal inside, most, let_in
        stays = 0
        while stays < 5:
            if await worker.enter("a"):
                stays, inside, let_in = stays + 1, inside + 1, let_in + 1
                most = max(most, inside)
                await asyncio.sleep(chance.random() / 200)
                inside -= 1
                worker.leave("a")
            else:
                await asyncio.sleep(chance.random() / 500)

    async with asyncio.timeout(60):
        await asyncio.gather(*(come_and_go(workers[i % 3]) for i in range(60)))
    assert most == limit and let_in == 300
    await said(stores[0], 0)
    assert await stores[0].command("EXISTS", KEY) == 0
    assert [await workers[0].enter("a") for _ in range(limit + 1)] == [True] * limit + [False]


async def test_what_a_client_gave_up_waiting_for_is_not_counted(stores: list[Store]) -> None:
    worker, chance = Presence(stores[0], "w", 5), random.Random(5)
    for _ in range(50):
        entering = [asyncio.create_task(worker.enter("a")) for _ in range(3)]
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        for task in entering:
            task.cancel()
        for task in entering:
            with suppress(asyncio.CancelledError):
                if await task:
                    worker.leave("a")
    await said(stores[0], 0)
    assert [await worker.enter("a") for _ in range(6)] == [True] * 5 + [False]


class Moody(Store):
    """A store's client that is away at times, and tells when it has an answer."""

    is_away = False
    on_answer: Callable[[], object] | None = None

    def run(self, script: Script, key: Argument, *arguments: Argument) -> asyncio.Future[Any]:
        """As ever, but for the moods."""
        return asyncio.create_task(self._run(script, key, *arguments))

    async def _run(self, script: Script, key: Argument, *arguments: Argument) -> Any:
        if self.is_away:
            await asyncio.sleep(0.01)
            raise StoreUnavailable("away")
        answer = await super().run(script, key, *arguments)
        if self.on_answer is not None:
            asyncio.get_running_loop().call_soon(self.on_answer)
        return answer


@pytest.fixture
async def moody(store: Store, place: Path) -> AsyncIterator[Moody]:
    client = Moody(f"unix://{place / 'data' / 'store.sock'}")
    yield client
    await client.close()


async def test_who_gives_up_in_the_moment_he_is_let_in_is_not_counted(store: Store, moody: Moody) -> None:
    worker = Presence(moody, "w", 1)
    entering = asyncio.create_task(worker.enter("a"))
    moody.on_answer = entering.cancel
    with pytest.raises(asyncio.CancelledError):
        await entering
    await said(store, 0)
    assert await worker.enter("a")


async def test_everybody_hears_that_the_store_is_away_whenever_he_asked(moody: Moody) -> None:
    worker = Presence(moody, "w", 1)
    moody.is_away = True
    early = asyncio.create_task(worker.enter("a"))
    await asyncio.sleep(0.005)
    async with asyncio.timeout(5):
        answers = await asyncio.gather(early, worker.enter("a"), return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailable] * 2


async def test_what_the_store_missed_it_hears_when_it_is_back(store: Store, moody: Moody) -> None:
    worker = Presence(moody, "w", 1, lease=3.0)
    running = asyncio.create_task(worker.run())
    assert await worker.enter("a")
    moody.is_away = True
    worker.leave("a")
    await asyncio.sleep(0.1)
    moody.is_away = False
    assert not await Presence(store, "other", 1).enter("a")
    async with asyncio.timeout(2.5):  # before the lease would have ended
        while await store.command("EXISTS", KEY):
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait({running})


async def test_a_killed_workers_connections_count_until_its_lease_ends(stores: list[Store]) -> None:
    killed, other = Presence(stores[0], "killed", 2, lease=1.0), Presence(stores[1], "other", 2, lease=1.0)
    assert await killed.enter("a") and await killed.enter("a")
    assert not await other.enter("a")
    await asyncio.sleep(1.05)
    assert await other.enter("a")
    assert await stores[0].command("HKEYS", KEY) == [b"other"]
    assert await killed.enter("b")
    await asyncio.sleep(0.6)
    assert await other.enter("b")
    await asyncio.sleep(0.5)  # its lease has ended, and what others hold keeps the key alive
    assert await other.enter("b")
    await asyncio.sleep(1.1)
    assert await stores[0].command("EXISTS", KEY) == 0


async def test_what_lives_is_renewed_and_a_store_that_lost_it_hears_it_again(stores: list[Store]) -> None:
    worker = Presence(stores[0], "w", 2, lease=0.3)
    assert await worker.enter("a") and await worker.enter("a")
    running = asyncio.create_task(worker.run())
    await asyncio.sleep(0.7)
    assert not await Presence(stores[1], "other", 2, lease=0.3).enter("a")
    await stores[0].command("DEL", KEY)
    await said(stores[0], 2)
    running.cancel()
    await asyncio.wait({running})


async def test_an_older_word_never_undoes_a_newer_one(stores: list[Store]) -> None:
    worker = Presence(stores[0], "w", 5)
    await worker.enter("a")
    await stores[0].command("HSET", KEY, "w", "700 5 99999999999999")  # what a newer call said that was carried out before
    assert await worker.enter("a")
    assert (await stores[0].command("HGET", KEY, "w")).startswith(b"701 2 ")


async def test_what_is_no_entry_of_a_worker_is_removed(stores: list[Store]) -> None:
    await stores[0].command("HSET", KEY, "x", "y", "w", "z")
    assert await Presence(stores[0], "w", 1).enter("a")
    assert await stores[0].command("HKEYS", KEY) == [b"w"]


async def test_a_worker_that_stops_takes_its_connections_along(stores: list[Store]) -> None:
    worker = Presence(stores[0], "w", 2)
    assert await worker.enter("a") and await worker.enter("b")
    worker.leave("b")
    await worker.close()
    assert await stores[0].command("KEYS", "*:sessions") == []
    worker.leave("a")  # too late, and no harm


async def test_without_a_limit_the_store_hears_nothing_and_without_the_store_nobody_is_let_in(place: Path) -> None:
    nowhere = Store(f"unix://{place / 'nothing'}")
    free = Presence(nowhere, "w", 0)
    assert await free.enter("a")
    free.leave("a")
    limited = Presence(nowhere, "w", 1)
    with pytest.raises(StoreUnavailable):
        await limited.enter("a")
    limited.leave("a")
    await limited.close()
    await nowhere.close()


async def test_more_users_than_are_renewed_at_a_time_are_all_renewed(stores: list[Store]) -> None:
    worker = Presence(stores[0], "w", 1, lease=0.6)
    await asyncio.gather(*(worker.enter(f"u{i}") for i in range(250)))
    running = asyncio.create_task(worker.run())
    await asyncio.sleep(1.0)
    assert len(await stores[0].command("KEYS", "*:sessions")) == 250
    running.cancel()
    await asyncio.wait({running})


class Far(Store):
    """A store some way off."""

    def run(self, script: Script, key: Argument, *arguments: Argument) -> asyncio.Future[Any]:
        """Answer a little later."""
        return asyncio.create_task(self._run(script, key, *arguments))

    async def _run(self, script: Script, key: Argument, *arguments: Argument) -> Any:
        answer = await super().run(script, key, *arguments)
        await asyncio.sleep(0.004)
        return answer


async def test_who_comes_and_goes_all_the_time_keeps_nobody_elses_lease_from_being_renewed(stores: list[Store], place: Path) -> None:
    far = Far(f"unix://{place / 'data' / 'store.sock'}")
    here, there = Presence(far, "here", 1, lease=1.0), Presence(stores[0], "there", 1, lease=1.0)
    idle = [f"idle{number}" for number in range(250)]
    renewing = asyncio.create_task(here.run())
    assert all(await asyncio.gather(*map(here.enter, idle)))
    is_over = asyncio.Event()

    async def come_and_go() -> None:
        while not is_over.is_set():
            if await here.enter("busy"):
                here.leave("busy")

    crowd = [asyncio.create_task(come_and_go()) for _ in range(3)]
    began = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() - began < 2.5:
        for user in random.Random(1).sample(idle, 20):
            assert not await there.enter(user)
    is_over.set()
    await asyncio.gather(*crowd)
    renewing.cancel()
    await far.close()


async def test_a_store_that_was_away_for_less_than_a_lease_costs_nobody_his_place(stores: list[Store], moody: Moody) -> None:
    here, there = Presence(moody, "here", 1, lease=1.2), Presence(stores[1], "there", 1, lease=1.2)
    assert await here.enter("a")
    renewing = asyncio.create_task(here.run())
    await asyncio.sleep(0.38)
    moody.is_away = True  # for the renewals at a third of the lease, and at two thirds
    await asyncio.sleep(0.55)
    moody.is_away = False
    for _ in range(12):
        await asyncio.sleep(0.05)
        assert not await there.enter("a")
    renewing.cancel()


class Counting(Store):
    """A store that counts what it is told."""

    told = 0

    def run(self, script: Script, key: Argument, *arguments: Argument) -> asyncio.Future[Any]:
        """As ever."""
        self.told += 1
        return super().run(script, key, *arguments)


@pytest.fixture
async def counting(store: Store, place: Path) -> AsyncIterator[Counting]:
    client = Counting(f"unix://{place / 'data' / 'store.sock'}")
    yield client
    await client.close()


async def test_who_comes_again_and_again_costs_the_store_little_while_there_are_places_enough(store: Store, counting: Counting) -> None:
    worker = Presence(counting, "w", 10)
    for _ in range(300):
        assert await worker.enter("a")
        worker.leave("a")
        await asyncio.sleep(0)
    assert counting.told < 30
    await said(store, 0)
    assert await store.command("EXISTS", KEY) == 0


async def test_a_place_that_is_kept_is_given_to_nobody_twice(stores: list[Store]) -> None:
    here, there = Presence(stores[0], "here", 6), Presence(stores[1], "there", 6)
    assert all([await here.enter("a") for _ in range(3)])
    for _ in range(3):
        here.leave("a")
    assert [await there.enter("a") for _ in range(3)] == [True] * 3
    assert sorted(await asyncio.gather(*(worker.enter("a") for worker in (here, there) * 3))) == [False] * 3 + [True] * 3


async def test_nobody_is_refused_for_a_place_that_another_worker_keeps(stores: list[Store]) -> None:
    here, there = Presence(stores[0], "here", 6), Presence(stores[1], "there", 6)
    assert all([await here.enter("a") for _ in range(3)])
    for _ in range(3):
        here.leave("a")
    assert await asyncio.gather(*(there.enter("a") for _ in range(7))) == [True] * 6 + [False]


async def test_a_place_is_kept_no_longer_than_the_store_is_sure_to_know_of_it(stores: list[Store]) -> None:
    here, there = Presence(stores[0], "here", 2, lease=0.2), Presence(stores[1], "there", 2)
    assert await here.enter("a")
    await asyncio.sleep(0.25)  # nobody renews it
    here.leave("a")
    assert await there.enter("a") and await there.enter("a")
    assert not await here.enter("a")


async def test_what_was_kept_while_the_store_was_away_is_told_when_it_is_back(store: Store, moody: Moody) -> None:
    worker = Presence(moody, "w", 4, lease=1.5)
    running = asyncio.create_task(worker.run())
    assert await worker.enter("a")
    worker.leave("a")
    moody.is_away = True
    await asyncio.sleep(0.4)
    moody.is_away = False
    async with asyncio.timeout(1.0):  # before the lease would have ended
        while await store.command("EXISTS", KEY):
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait({running})
