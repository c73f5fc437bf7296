"""The API process is killed: mail goes on all the while, and the API is back by itself."""

from __future__ import annotations

from pathlib import Path

from tests.store_faults import scene
from tests.surroundings import kill, until


async def test_mail_goes_on_and_the_api_comes_back(place: Path) -> None:
    async with scene(place) as found:
        user = await found.add_user()
        caller = await found.dial(user)
        old = found.relay.workers()["api-0"]
        kill(old)
        for _ in range(20):
            assert (await found.send(user, caller=caller)).outcome == "taken"
        await caller.quit()
        died = await found.relay.await_event("worker_died")
        assert died["worker"] == "api-0"
        await until(lambda: found.relay.workers().get("api-0", old) != old)
        assert (await found.relay.usage(user))["sent_total"] == 20
        await found.closed()
        assert not found.relay.events("killed_in_flight", "in_doubt")
