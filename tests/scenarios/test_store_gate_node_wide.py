"""A charge waits to be recorded: no process of the node reserves before it is, and another worker's mail is refused until then."""

from __future__ import annotations

from pathlib import Path

from tests.store_faults import scene
from tests.surroundings import resume, stop, until


async def test_no_other_worker_reserves_before_a_kept_charge_is_recorded(place: Path) -> None:
    async with scene(place, {"smtp": {"workers": 2}}, bordered=True) as found:
        assert found.border is not None
        user = await found.add_user()
        [(mine, caller, pid), (_, theirs, _)] = await found.dial_each(user)
        found.at_dot = found.border.close
        sent = await found.send(user, caller=caller)
        assert sent.outcome == "taken"
        await found.relay.await_event("charge_kept")
        stop(pid)  # it cannot record it now
        found.border.open()
        before = found.border.count("reserve")
        for _ in range(2):
            assert (await found.send(user, caller=theirs)).reply.startswith("451 4.3.0 ")
        assert found.border.count("reserve") == before
        resume(pid)
        settled = await found.relay.await_event("settled")
        assert settled["id"] == sent.id and sent.id.startswith(mine)
        await found.until_taken(user, caller=theirs)
        await caller.quit()
        await theirs.quit()
        await until(lambda: found.sink.intake.answered == 2)
        await found.closed()
