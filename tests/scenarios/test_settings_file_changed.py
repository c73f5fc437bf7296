"""The configuration file is edited under a running relay, and a worker dies: the new worker counts as the others do."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from relay.loadkit.sink import Sink
from tests.running import running
from tests.talking import until_reply


async def test_a_worker_that_is_restarted_keeps_to_the_settings_its_relay_was_started_with(place: Path, sink: Sink) -> None:
    async with running(place / "relay", sink.port, "[quota]\nwindow_seconds = 3600\n", workers=1) as relay:
        user = await relay.add_user(hourly=3)
        await asyncio.to_thread(relay.send, user, 3)
        relay.config.write_text(relay.config.read_text().replace("window_seconds = 3600", "window_seconds = 1"))
        os.kill(relay.workers()["smtp-0"], signal.SIGKILL)
        await relay.await_event("worker_died")
        await asyncio.sleep(1.5)  # longer than the window that the file now says
        assert (await until_reply(relay, user)).startswith("451 4.7.0 Hourly sending limit reached (3/3 messages)")
        assert sink.intake.answered == 3
