"""A smarthost answers as if commands were wrong: that is between it and the relay, and never held against the client."""

from __future__ import annotations

import asyncio
from pathlib import Path

from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from tests.running import running


async def test_a_faultless_client_is_not_closed_for_what_the_smarthost_says(place: Path, sink: Sink) -> None:
    sink.script = Script.parse(['rcpt reply="555 5.5.4 no such parameter"'])
    async with running(place / "relay", sink.port, workers=1) as relay:
        user = await relay.add_user()
        replies = await asyncio.to_thread(relay.send, user, 30)
        assert set(replies) == {"555 5.5.4 upstream said: no such parameter"}
        usage = await relay.usage(user)
        assert (usage["sent_total"], usage["in_flight"], usage["rejected_in_window"]) == (0, 0, 30)
