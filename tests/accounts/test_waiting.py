"""What takes something away waits: nothing let in before can be taken once it was answered."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from relay.accounts.provisioning import Provisioning, UnknownUser
from relay.accounts.user import user_key
from relay.quota.ledger import CHANGES, Hold, Ledger
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


@pytest.mark.parametrize("change", RESTRICTING)
async def test_a_change_that_restricts_waits_for_what_is_in_flight(
    provisioning: Provisioning, ledger: Ledger, owner_id: str, change: str
) -> None:
    user, _ = await provisioning.add_user(owner_id, None, None)
    if "lowered" in change:
        await provisioning.edit_user(user.name, hourly=100, total=100)
    hold = await ledger.reserve(user.name, "m1", 1, user.generation)
    assert isinstance(hold, Hold)
    task = asyncio.ensure_future(RESTRICTING[change](provisioning, user.name))
    await asyncio.sleep(0.15)
    assert not task.done()
    # What begins after the write is judged by the new state.
    later = await ledger.reserve(user.name, "m2", 5, user.generation)
    assert isinstance(later, Hold) == (change == "limited at all")
    assert (await ledger.settle(user.name, "m1", 1, 1)).outcome == "ok"
    await asyncio.wait_for(task, 1)


async def test_a_change_that_only_gives_does_not_wait(provisioning: Provisioning, ledger: Ledger, owner_id: str) -> None:
    user, _ = await provisioning.add_user(owner_id, 10, 10)
    await ledger.reserve(user.name, "m1", 1, user.generation)
    async with asyncio.timeout(0.5):
        await provisioning.edit_user(user.name, hourly=None, total=None, is_enabled=True)


REPEATED: dict[str, tuple[Change, Change]] = {
    "disabled twice": (RESTRICTING["disabled"], RESTRICTING["disabled"]),
    "lowered twice": (lambda p, name: p.edit_user(name, hourly=1), lambda p, name: p.edit_user(name, hourly=1)),
    "lowered, then raised a little": (lambda p, name: p.edit_user(name, hourly=1), lambda p, name: p.edit_user(name, hourly=2)),
    "disabled, then lowered": (RESTRICTING["disabled"], lambda p, name: p.edit_user(name, total=5)),
    "reset twice": (RESTRICTING["reset"], RESTRICTING["reset"]),
    "deleted twice": (RESTRICTING["deleted"], RESTRICTING["deleted"]),
}


@pytest.mark.parametrize("changes", REPEATED)
async def test_a_change_made_while_another_waits_is_not_answered_before_it(
    provisioning: Provisioning, ledger: Ledger, owner_id: str, changes: str
) -> None:
    user, _ = await provisioning.add_user(owner_id, 1000, 1000)
    for id in ("m1", "m2", "m3"):
        assert isinstance(await ledger.reserve(user.name, id, 1, user.generation), Hold)
    tasks = []
    for change in REPEATED[changes]:
        tasks.append(asyncio.ensure_future(change(provisioning, user.name)))
        await asyncio.sleep(0.1)
    assert not any(task.done() for task in tasks)
    for id in ("m1", "m2", "m3"):
        await ledger.settle(user.name, id, 1, 1)
    # Of two removals the second may find the user gone.
    answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 1)
    assert not [answer for answer in answers if isinstance(answer, Exception) and not isinstance(answer, UnknownUser)]


async def test_an_owner_disabled_twice_waits_twice(provisioning: Provisioning, ledger: Ledger, owner_id: str) -> None:
    user, _ = await provisioning.add_user(owner_id, 10, 10)
    await ledger.reserve(user.name, "m1", 1, user.generation)
    tasks = []
    for _ in range(2):
        tasks.append(asyncio.create_task(provisioning.set_owner_status(owner_id, False)))
        await asyncio.sleep(0.1)
    assert not any(task.done() for task in tasks)
    await ledger.settle(user.name, "m1", 1, 1)
    assert await asyncio.wait_for(asyncio.gather(*tasks), 1) == [1, 1]


@pytest.mark.parametrize("is_clock_still", [False, True])
async def test_a_change_waits_for_no_hold_that_a_worker_has_checked_anew_at_once(
    provisioning: Provisioning, ledger: Ledger, store: Store, owner_id: str, log: Path, is_clock_still: bool
) -> None:
    user, _ = await provisioning.add_user(owner_id, 1000, 1000)
    if is_clock_still:  # the store's clock was set back: the user's time stands
        await store.command("HSET", user_key(user.name), "last", (int(time.time()) + 3600) * 1_000_000)
    ids = [f"m{number}" for number in range(8)]
    for id in ids:
        assert isinstance(await ledger.reserve(user.name, id, 1, user.generation), Hold)
    changes = asyncio.Queue[str | None]()

    async def listen() -> None:
        async for name in store.subscribe(CHANGES):
            changes.put_nowait(name)

    async def work() -> None:
        while await changes.get():
            for id in ids:
                assert isinstance(await ledger.reserve(user.name, id, 1, user.generation), Hold)

    listening = asyncio.create_task(listen())
    assert await changes.get() is None  # it listens
    working = asyncio.create_task(work())
    for limit in range(900, 880, -1):
        async with asyncio.timeout(0.8):
            await provisioning.edit_user(user.name, hourly=limit)
    for task in (listening, working):
        task.cancel()
    await asyncio.wait({listening, working})
    assert "change_overtaken" not in events(log)


async def test_a_hold_checked_anew_before_its_wait_begins_is_not_waited_for(
    provisioning: Provisioning, ledger: Ledger, store: Store, owner_id: str
) -> None:
    user, _ = await provisioning.add_user(owner_id, 10, 10)
    await ledger.reserve(user.name, "m1", 1, user.generation)
    before = await ledger.open_holds(user.name)
    await ledger.reserve(user.name, "m1", 1, user.generation)
    assert await ledger.wait_for_change({user.name: before}, 0.5)
    assert not await ledger.wait_for_change({user.name: await ledger.open_holds(user.name)}, 0.1)


async def test_a_wait_that_is_too_long_is_journaled(provisioning: Provisioning, ledger: Ledger, owner_id: str, log: Path) -> None:
    user, _ = await provisioning.add_user(owner_id, 10, 10)
    await ledger.reserve(user.name, "m1", 1, user.generation)
    await provisioning.edit_user(user.name, hourly=5)
    assert events(log)[-1] == "change_overtaken"
