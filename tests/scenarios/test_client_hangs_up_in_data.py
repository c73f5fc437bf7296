"""A client hangs up in the middle of its message: nothing is charged, nothing is sent, nothing is kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.smarthost_faults import opened


async def test_half_a_message_leaves_nothing_behind(place: Path) -> None:
    async with opened(place) as world:
        await asyncio.gather(*(world.leave(is_whole=False) for _ in range(5)))
        while len(world.relay.events("released")) < 5:
            await asyncio.sleep(0.02)
        assert {event["reason"] for event in world.relay.events("released")} == {"aborted"}
        assert await world.entries() == []
        await world.account()
        assert await world.charged() == 0
        assert world.sink.messages == []
        heard = await world.send()
        assert heard.reply.startswith("250 ")
        await world.account()
