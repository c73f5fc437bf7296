"""The smarthost fails in every way at once, message by message: whatever becomes of each, the account closes over all of them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

from tests.smarthost_faults import Heard, opened

WAVES, WAVE = 5, 40
SEED = 20_26
MOODS = (
    'rcpt match=bad* reply="550 5.1.1 no such user"',
    'rcpt p=0.05 reply="450 4.2.0 busy"',
    "connect p=0.02 drop",
    "ehlo p=0.02 garbage",
    'mail p=0.03 reply="421 4.3.2 going down" close',
    'mail p=0.02 reply="552 5.3.4 not from you"',
    "rcpt p=0.02 twice",
    "rcpt p=0.02 drop",
    'data p=0.03 reply="451 4.3.0 not now"',
    "data p=0.03 drop",
    "dot p=0.04 drop",
    "dot p=0.03 drop=after",
    "dot p=0.03 garbage",
    "dot p=0.03 twice",
    'dot p=0.04 reply="451 4.3.0 try again"',
    'dot p=0.03 reply="554 5.6.0 not that"',
    "dot p=0.03 stall=2.5",
    "dot p=0.02 stall=forever",
)
CALM = MOODS[0]


async def test_whatever_a_smarthost_does_the_account_closes(place: Path) -> None:
    dice = random.Random(SEED)
    upstream = {"down_seconds": 0.02, "max_connections": 5}
    async with opened(place, sink={"seed": SEED}, upstream=upstream, retry={"max_connections": 5}) as world:
        world.script(*MOODS)
        heard: list[Heard] = []
        for _ in range(WAVES):
            heard += await asyncio.gather(*(world.send(*_recipients(dice)) for _ in range(WAVE)))
        await asyncio.sleep(2)  # retry meets its moods too
        world.script(CALM)
        world.hang_up()
        evidence = await world.account(held=None, timeout=30)  # it refuses reports too
    codes = Counter(one.reply[:3] for one in heard)
    events = Counter(event["event"] for event in evidence.events)
    print(f"replies {dict(codes)}, events {dict(events)}, copies {len(evidence.copies)}")
    assert set(codes) <= {"250", "550", "552", "554"}
    assert codes["250"] > WAVES * WAVE / 2
    assert min(events[name] for name in ("in_doubt", "deferred", "delivered", "reported")) > 0


def _recipients(dice: random.Random) -> tuple[str, ...]:
    """One to three, now and then one that nobody knows among them."""
    names = [f"r{number}@example.net" for number in range(dice.choice((1, 1, 2, 3)))]
    if dice.random() < 0.15:
        names[-1] = "bad@example.net"
    return tuple(names)
