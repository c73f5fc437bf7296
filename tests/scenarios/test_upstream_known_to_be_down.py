"""The smarthost lets every connection hang: the first message waits for it until the deadline, those after it not at all."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.smarthost_faults import DEADLINE, SLACK, opened


async def test_nobody_waits_for_a_smarthost_that_is_known_to_be_down(place: Path) -> None:
    async with opened(place, upstream={"down_seconds": 4}) as world:
        world.script("connect stall=forever")
        first = await world.send()
        assert first.reply.endswith(" Queued")
        assert DEADLINE - 0.1 < first.seconds < DEADLINE + SLACK
        later = await asyncio.gather(*(world.send() for _ in range(6)))
        assert all(one.reply.endswith(" Queued") and one.seconds < DEADLINE / 2 for one in later)
        world.script()
        world.hang_up()
        await world.account()
        assert [world.count(one.mark) for one in (first, *later)] == [1] * 7
