"""The store's server is killed again and again under mail: what was taken is charged once, what was refused is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from relay.loadkit.caller import Unwelcome
from tests.running import User
from tests.store_faults import Scene, scene
from tests.surroundings import kill, until


@pytest.mark.parametrize("own_store", [False, True])
async def test_killed_under_mail_and_started_again_it_has_every_charge(place: Path, own_store: bool) -> None:
    async with scene(place, {"smtp": {"workers": 2}}, own_store=own_store) as found:
        users = [await found.add_user(hourly=1_000_000) for _ in range(2)]
        over = asyncio.Event()
        clients = [asyncio.create_task(_chat(found, user, over)) for user in users * 2]
        for _ in range(3):
            await asyncio.sleep(0.4)
            await _kill_store(found)
        await asyncio.sleep(0.3)
        over.set()
        await asyncio.gather(*clients)
        for user in users:
            await found.until_taken(user)
        outcomes = {sent.outcome for sent in found.sent}
        assert outcomes <= {"taken", "refused"}, outcomes  # no worker died: everybody was answered
        assert all(sent.reply[:3] in ("451", "454") for sent in found.sent if sent.outcome == "refused")
        await found.closed()


async def _kill_store(found: Scene) -> None:
    if found.store is not None:
        await found.store.end()
        await asyncio.sleep(0.2)
        await found.store.start()
        return
    count = len(found.relay.events("store_started"))
    kill(found.store_process)
    await until(lambda: len(found.relay.events("store_started")) > count)


async def _chat(found: Scene, user: User, over: asyncio.Event) -> None:
    caller = None
    while not over.is_set():
        if caller is None or not caller.is_usable:
            try:
                caller = await found.dial(user)
            except Unwelcome:
                await asyncio.sleep(0.05)
                continue
        if (await found.send(user, caller=caller)).outcome != "taken":
            await asyncio.sleep(0.02)
    if caller is not None:
        await caller.quit()
