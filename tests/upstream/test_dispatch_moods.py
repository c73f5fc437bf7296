"""Smarthosts in every mood at once, and many users: what is said of each message is what became of it, and nobody gets one twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

import pytest

from relay.loadkit.script import Script
from relay.mail.verdict import Deferred, Delivered, Failed, Verdict
from relay.upstream.smarthost import Message
from tests.upstream.conftest import ONE, Fleet, OpeningFleet, envelope

MOODS = """
connect p=0.1 drop
connect p=0.1 reply='421 4.3.2 closed'
connect p=0.02 stall=forever
ehlo p=0.1 drop
mail p=0.05 reply='421 4.3.2 bye' close
mail p=0.05 drop
mail p=0.01 stall=forever
rcpt p=0.05 reply='450 4.2.0 busy'
rcpt p=0.03 reply='550 5.1.1 no'
rcpt p=0.05 drop
data p=0.05 drop
data p=0.01 stall=forever
dot p=0.05 drop
dot p=0.05 drop=after
dot p=0.05 reply='451 4.3.0 later'
dot p=0.01 stall=forever
dot p=0.2 stall=0.05
""".strip().splitlines()


async def send(fleet: Fleet, number: int, pause: float = 0.0) -> Verdict:
    """Offer one message that can be told from all others."""
    message = Message(b"Received: from x by y; now\r\n", b"Subject: <%d>\r\n\r\nhello\r\n" % number)
    await asyncio.sleep(pause)
    attempt = await fleet.dispatch.forward(fleet.route, f"u{number % 5}", envelope(), message, fleet.terms(deadline=1.5, is_split=True))
    return attempt.verdicts[ONE]


@pytest.mark.parametrize("without", [(), ("CHUNKING",), ("PIPELINING", "CHUNKING")], ids=["chunking", "pipelined", "stepwise"])
@pytest.mark.parametrize("priorities", [(1, 2, 3), (0, 0, 1)])
async def test_every_message_is_where_it_is_said_to_be(
    open_fleet: OpeningFleet, priorities: tuple[int, ...], without: tuple[str, ...]
) -> None:
    fields = {"max_connections": 4, "down_seconds": 0.1, "timeout": 0.5, "max_messages": 20}
    async with open_fleet(3, *MOODS, priorities=priorities, fields=fields, manners={"without": without}) as fleet:
        dice = Random(7)
        verdicts = await asyncio.gather(*(send(fleet, number, 3 * dice.random()) for number in range(300)))
        taken = Counter(
            line for sink in fleet.sinks for one in sink.messages if one.answered for line in (one.content or b"").split(b"\r\n")[1:2]
        )
        for number, verdict in enumerate(verdicts):
            copies = taken[b"Subject: <%d>" % number]
            match verdict:
                case Delivered():
                    assert copies == 1
                case Deferred(_, in_doubt):
                    assert copies <= in_doubt
                case Failed():
                    assert copies == 0
        assert sum(isinstance(verdict, Delivered) for verdict in verdicts) > 40
        for sink in fleet.sinks:
            sink.script = Script()
        await asyncio.sleep(0.5)  # those that are down are left alone for a while
        for number in range(3):
            await send(fleet, 1000 + number)
        assert isinstance(await send(fleet, 2000), Delivered)
