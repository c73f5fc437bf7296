"""A refusal says when: waited out, it is right to the second."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

from relay.loadkit.sink import Sink
from tests.running import running
from tests.talking import logged_in, offer

WINDOW = "[quota]\nwindow_seconds = 4\n"


async def test_the_message_fits_at_the_second_that_was_said_and_not_a_second_before(place: Path, sink: Sink) -> None:
    async with running(place / "relay", sink.port, WINDOW) as relay:
        user = await relay.add_user(hourly=2)
        client = await asyncio.to_thread(logged_in, relay, user)
        for _ in range(2):
            assert (await asyncio.to_thread(offer, client))[0] == 250
        code, text = await asyncio.to_thread(offer, client)
        heard = time.time()
        found = re.search(rb"retry-after=(\d+) at=(\S+)$", text)
        assert code == 451 and found is not None, text
        said = int(found[1])
        assert 3 <= said <= 5
        while (await asyncio.to_thread(offer, client))[0] == 451:
            await asyncio.sleep(0.1)  # on one connection, only so many refusals are answered
        waited = time.time() - heard
        assert said - 1 <= waited <= said + 0.2, (said, waited)
        await asyncio.to_thread(client.quit)
