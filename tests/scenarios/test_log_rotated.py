"""The mail log is moved away while mail comes in: from the signal on, lines go into a new one, and none is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from relay.loadkit.sink import Sink
from tests.running import Relay, running


def lines(path: Path, *names: str) -> list[dict[str, Any]]:
    return [event for event in map(json.loads, path.read_text().splitlines()) if event["event"] in names]


async def hang_up(relay: Relay, number: int = signal.SIGHUP) -> None:
    assert relay.process is not None
    relay.process.send_signal(number)
    await relay.await_event("reloaded")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
async def test_every_message_is_in_one_log_or_the_other(place: Path, sink: Sink, number: int) -> None:
    async with running(place / "relay", sink.port, workers=2) as relay:
        user, processes = await relay.add_user(), relay.workers()
        taken: list[str] = []

        async def send() -> None:
            while not relay.journal.exists() or len(taken) < 30:
                taken.extend(await asyncio.to_thread(relay.send, user))

        sending = [asyncio.create_task(send()) for _ in range(4)]
        while len(taken) < 10:
            await asyncio.sleep(0.01)
        moved = relay.journal.rename(relay.folder / "journal.log.1")
        await hang_up(relay, number)
        await asyncio.gather(*sending)
        for pid in processes.values():  # each has let go of what was moved
            async with asyncio.timeout(10):
                while any(os.path.realpath(link) == str(moved) for link in Path(f"/proc/{pid}/fd").iterdir()):
                    await asyncio.sleep(0.05)
        told = len(lines(moved, "taken")), len(lines(relay.journal, "taken"))
        taken.extend(await asyncio.to_thread(relay.send, user))
        assert len(lines(moved, "taken")) == told[0] and len(lines(relay.journal, "taken")) == told[1] + 1
        assert sum(told) + 1 == len([reply for reply in taken if reply.startswith("250 ")]) == len(taken)
        assert lines(moved, "worker_died", "bug") == lines(relay.journal, "worker_died", "bug") == []


async def test_what_cannot_be_opened_anew_leaves_the_old_log_in_use(place: Path, sink: Sink) -> None:
    async with running(place / "relay", sink.port) as relay:
        processes = relay.workers()
        moved = relay.journal.rename(relay.folder / "journal.log.1")
        relay.journal.mkdir()
        assert relay.process is not None
        relay.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(10):
            while len(lines(moved, "journal_not_reopened")) < 1 + len(processes):
                await asyncio.sleep(0.05)
        relay.journal.rmdir()  # which the command that makes a user would write to
        assert (await asyncio.to_thread(relay.send, await relay.add_user()))[0].startswith("250 ")
        assert all("Is a directory" in told["error"] for told in lines(moved, "journal_not_reopened")) and lines(moved, "taken")
