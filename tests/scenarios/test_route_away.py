"""One owner's smarthost is away and much of his mail waits: another owner's mail is not held up by it, spooled or not."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.running import User, free_port
from tests.smarthost_faults import World, opened
from tests.upstreams import set_upstream

MANY = 120


async def send_at_once(world: World, user: User, count: int) -> None:
    """Send so many messages, ten at a time."""
    for _ in range(count // 10):
        heard = await asyncio.gather(*(world.send(user=user) for _ in range(10)))
        assert all(one.reply.endswith(" Queued") for one in heard)


async def test_mail_of_others_goes_on_within_a_second(place: Path) -> None:
    gone = free_port()
    async with opened(place, guard={"allow_networks": ["127.0.0.0/8"], "allow_ports": [gone]}) as world:
        await set_upstream(world.relay, gone)
        await send_at_once(world, world.user, MANY)
        world.relay.owner = ""
        world.others.append(other := await world.relay.add_user())

        world.script('rcpt first=1 reply="450 4.2.0 busy"')
        began = time.monotonic()
        heard = await world.send(user=other)
        assert heard.reply.endswith(" Queued")
        delivered = await world.await_told(heard.id, "delivered")
        assert time.monotonic() - began < 0.3 + 1.0 + 0.5  # the first wait, the promise, and a machine that is busy
        assert delivered["attempts"] == 2
        assert world.count(heard.mark) == 1

        waiting = [entry for entry in await world.entries() if entry.user != other.name]
        assert len(waiting) == MANY
        assert sum(entry.attempts > 1 for entry in waiting) < MANY / 4  # one attempt now and then
        assert {bool(entry.held) for entry in waiting} == {False}
