"""A message is delayed beyond retry.warn_after_seconds: its sender is told so, once, and the message goes on being tried."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.smarthost_faults import opened


async def test_a_sender_is_warned_of_a_delay_once_where_that_is_set(place: Path) -> None:
    async with opened(place, retry={"expire_seconds": 60, "warn_after_seconds": 1}) as world:
        world.script('rcpt match=to@* reply="450 4.2.0 busy"')
        heard = await world.send()
        await world.await_told(heard.id, "reported")
        tries = len(world.told(heard.id, "deferred"))
        async with asyncio.timeout(10):
            while len(world.told(heard.id, "deferred")) < tries + 2:
                await asyncio.sleep(0.05)
        assert [event["action"] for event in world.told(heard.id, "reported")] == ["delayed"]
        world.script()
        await world.account()
        assert world.count(heard.mark) == 1
        warnings = [message for message in world.answered if message.sender == ""]
        assert [(message.recipients, b"Action: delayed" in (message.content or b"")) for message in warnings] == [((heard.mark,), True)]
