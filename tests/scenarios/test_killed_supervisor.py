"""The supervisor is killed with mail in the spool: its processes end, and the next start sends everything."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from pathlib import Path

from relay.loadkit.script import Script
from tests.store_faults import Settings, scene
from tests.surroundings import is_alive, until


async def test_the_next_start_sends_what_is_in_the_spool(place: Path) -> None:
    async with scene(place) as found:
        found.sink.script = Script.parse(["connect drop"])
        user = await found.add_user()
        caller = await found.dial(user)
        for _ in range(10):
            assert (await found.send(user, caller=caller)).outcome == "taken"
        await caller.quit()
        assert found.relay.process is not None
        pids = [*found.relay.workers().values(), found.store_process]
        found.relay.process.kill()
        await found.relay.process.wait()
        await until(lambda: not any(is_alive(pid) for pid in pids), 20, what="its processes have ended")
        assert [entry.attempts > 0 and not entry.claimed_by for entry in await found.entries()] == [True] * 10
        found.sink.script = Script()
        await found.relay.start()
        await until(lambda: found.sink.intake.answered == 10, 20)
        await found.closed()
        assert found.sink.intake.answered == (await found.relay.usage(user))["sent_total"] == 10
        assert not found.relay.events("killed_in_flight", "in_doubt")


async def test_a_message_on_its_way_is_answered_and_charged_once_though_the_next_relay_has_begun(place: Path) -> None:
    patient: Settings = {"smtp": {"drain_seconds": 9}, "upstream": {"forward_deadline_seconds": 8, "timeout_seconds": 8}}
    async with scene(place, patient) as found:
        found.sink.script = Script.parse(["dot first=1 stall=5"])
        user = await found.add_user(hourly=1)
        sending = asyncio.create_task(found.send(user))
        await until(lambda: found.sink.replies[354] == 1)
        killed = found.relay.process
        assert killed is not None
        old = found.relay.workers()["smtp-0"]
        killed.kill()
        await until(
            lambda: not is_alive(killed.pid) and not _is_listening(found.relay.smtp) and not _is_listening(found.relay.api),
            what="the old ones hear nobody new",
        )
        await found.relay.start()
        assert is_alive(old)  # it drains yet, and its store went away under it
        assert (await sending).outcome == "taken"
        await until(lambda: not is_alive(old))
        await killed.wait()
        assert (await found.send(user)).outcome == "refused"
        await found.closed()
        assert found.sink.intake.answered == (await found.relay.usage(user))["sent_total"] == 1


def _is_listening(port: int) -> bool:
    with closing(socket.socket()) as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
