"""A worker is killed while the smarthost has the final dot of a message of which it refused one recipient."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from relay.loadkit.script import Script
from tests.store_faults import scene
from tests.surroundings import kill, until


async def test_those_in_doubt_are_tried_again_after_the_doubt_and_the_refused_one_is_reported(place: Path) -> None:
    async with scene(place) as found:
        found.sink.script = Script.parse(['rcpt match=bad* reply="550 5.1.1 no such user"'])
        user = await found.add_user()
        found.at_dot = partial(kill, found.relay.workers()["smtp-0"])
        sent = await found.send(user, "good", "bad")
        assert sent.outcome == "silent"
        killed = await found.relay.await_event("killed_in_flight")
        assert killed["recipients"] == ["good@load.example"]
        [entry] = await found.entries()
        assert [(one.state, one.in_doubt) for one in entry.standings] == [("waiting", True), ("failed", False)]
        assert found.sink.intake.answered == 1
        reported = await found.relay.await_event("reported")
        assert (reported["id"], reported["recipients"], reported["action"]) == (killed["id"], ["bad@load.example"], "failed")
        await until(lambda: found.sink.intake.answered == 3, 15, what="a second copy and the report")
        copies = [message.recipients for message in found.sink.messages if message.sender == sent.mark]
        assert copies == [("good@load.example",)] * 2  # one of them beyond the first, and on record
        assert (await found.relay.usage(user))["sent_total"] == 1
        await found.closed()
