"""The retry process is killed while it sends: one copy beyond the first at most, and on record."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from relay.loadkit.script import Script
from tests.store_faults import scene
from tests.surroundings import kill, until


@pytest.mark.parametrize(("is_taken", "copies"), [(True, 2), (False, 1)])
async def test_what_was_being_sent_is_tried_again_after_the_doubt(place: Path, is_taken: bool, copies: int) -> None:
    async with scene(place) as found:
        found.sink.script = Script.parse(['data first=1 reply="451 4.3.0 not now"', *([] if is_taken else ["dot first=1 stall=forever"])])
        user = await found.add_user()
        retry = found.relay.workers()["retry-0"]
        if is_taken:
            found.at_dot = partial(kill, retry)
        sent = await found.send(user)
        assert sent.outcome == "taken"
        if not is_taken:
            await until(lambda: found.sink.replies[354] == 1)
            await asyncio.sleep(0.3)
            kill(retry)
        killed = await found.relay.await_event("killed_in_flight")
        assert (killed["id"], killed["recipients"]) == (sent.id, ["to@load.example"])
        await until(lambda: found.sink.intake.answered == copies, 15)
        delivered = await found.relay.await_event("delivered")
        assert delivered["id"] == sent.id
        await found.closed()
        assert found.sink.intake.answered == copies
        assert len(found.relay.events("killed_in_flight")) == 1
