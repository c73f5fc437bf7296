"""The store is restarted with an evicting policy under a running relay: it is not used, and nobody's password is called wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path

from relay.loadkit.sink import Sink
from tests.running import free_port, running, store_server
from tests.talking import try_login


async def test_a_store_that_came_back_evicting_is_refused_until_it_is_fit_again(place: Path, sink: Sink) -> None:
    port = free_port()
    place.joinpath("store").mkdir()
    url = f"[store]\nurl = 'redis://127.0.0.1:{port}'\n"
    async with (
        store_server(port, place / "store", "maxmemory-policy noeviction\n") as first,
        running(place / "relay", sink.port, url) as relay,
    ):
        user = await relay.add_user()
        assert (await asyncio.to_thread(relay.send, user))[0].startswith("250 ")
        first.kill()
        await first.wait()
        async with store_server(port, place / "store", "maxmemory-policy allkeys-random\n"):
            assert (await asyncio.to_thread(try_login, relay, user))[0] == 454
            assert "allkeys-random" in (await relay.await_event("store_foreign"))["error"]
            assert (await relay.get("/readyz"))[0] == 503
        async with store_server(port, place / "store", "maxmemory-policy noeviction\n"):
            assert (await asyncio.to_thread(relay.send, user))[0].startswith("250 ")
