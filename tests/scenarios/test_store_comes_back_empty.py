"""The store loses all its data: 454 and 451 and an alarm, never 535, until a person adopts it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

from relay.loadkit.sink import Sink
from tests.running import Relay, User, running
from tests.talking import logged_in, offer, try_login


async def test_an_empty_store_is_never_taken_for_wrong_credentials(place: Path, sink: Sink) -> None:
    async with running(place / "relay", sink.port) as relay:
        user = await relay.add_user()
        client = await asyncio.to_thread(logged_in, relay, user)
        assert (await asyncio.to_thread(offer, client))[0] == 250
        shutil.rmtree(relay.folder / "data" / "appendonlydir")
        os.kill(relay.store_pid(), signal.SIGKILL)
        await relay.await_event("store_started")

        code, text = await asyncio.to_thread(offer, client)
        assert (code, text[:5]) == (451, b"4.3.0")
        for _ in range(3):
            code, text = await asyncio.to_thread(try_login, relay, user)
            assert (code, text[:5]) == (454, b"4.7.0")
        assert (await relay.await_event("store_foreign"))["alarm"]
        status, body = await relay.get("/readyz")
        assert (status, "empty" in body) == (503, True)
        client.close()
        assert sink.intake.answered == 1

        await relay.stop()
        adopting = await asyncio.create_subprocess_exec(*_adopt(relay.config), stderr=asyncio.subprocess.PIPE)
        _, err = await adopting.communicate()
        assert adopting.returncode == 75, err  # the embedded store runs only with its relay

        await relay.start()  # refuses all the same, and says why
        code, text = await asyncio.to_thread(try_login, relay, user)
        assert code == 454
        adopting = await asyncio.create_subprocess_exec(*_adopt(relay.config))
        assert await adopting.wait() == 0
        await relay.stop()
        await relay.start()
        code, text = await asyncio.to_thread(try_login, relay, user)
        assert code == 535  # now it is known that there is no such user
        fresh = await _add_user_anew(relay)
        assert (await asyncio.to_thread(relay.send, fresh))[0].startswith("250 ")


async def test_a_store_flushed_while_connections_are_open_is_noticed_at_the_first_miss(place: Path, sink: Sink) -> None:
    async with running(place / "relay", sink.port) as relay:
        user = await relay.add_user()
        client = await asyncio.to_thread(logged_in, relay, user)
        await _flush(relay.folder / "data" / "store.sock")
        assert (await asyncio.to_thread(offer, client))[0] == 451
        assert (await asyncio.to_thread(try_login, relay, user))[0] == 454
        client.close()


def _adopt(config: Path) -> list[str]:
    return [sys.executable, "-m", "relay", "ledger", "adopt", "--config", str(config)]


async def _add_user_anew(relay: Relay) -> User:
    await relay.add_owner()
    return await relay.add_user()


async def _flush(path: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"FLUSHALL\r\n")
    assert await reader.readline() == b"+OK\r\n"
    writer.close()
