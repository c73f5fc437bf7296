"""A worker, or the whole relay, is killed while a charge waits for the store: it is recorded once, before anything is reserved."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.store_faults import scene
from tests.surroundings import kill_all, kill_worker


@pytest.mark.parametrize("is_power_lost", [False, True])
async def test_the_next_start_records_the_charge_from_the_vault(place: Path, is_power_lost: bool) -> None:
    async with scene(place, bordered=True) as found:
        assert found.border is not None
        user = await found.add_user(hourly=1)
        found.at_dot = found.border.close
        sent = await found.send(user)
        assert sent.outcome == "taken"
        await found.relay.await_event("charge_kept")
        await kill_all(found.relay)
        if is_power_lost:  # what was not synced is gone: all but spool and store
            shutil.rmtree(found.relay.folder / "data" / "holds")
        assert await found.charges() == [(user.name, sent.id, 1, 1, 0)]
        found.border.open()
        before = len(found.relay.events())
        await found.relay.start()
        names = [event["event"] for event in found.relay.events()[before:]]
        assert names.index("settled") < names.index("worker_started")
        settled = found.relay.events("settled")
        assert [(event["id"], event["units"], event["late"]) for event in settled] == [(sent.id, 1, False)]
        assert (await found.send(user)).reply.startswith("451 4.7.0 Hourly sending limit reached (1/1 messages)")
        await found.closed()


async def test_a_killed_workers_charge_is_recorded_before_anyone_reserves(place: Path) -> None:
    async with scene(place, {"smtp": {"workers": 2}}, bordered=True) as found:
        assert found.border is not None
        user = await found.add_user()
        found.at_dot = found.border.close
        [(mine, caller, _), (_, theirs, _)] = await found.dial_each(user)
        sent = await found.send(user, caller=caller)
        assert sent.outcome == "taken"
        await found.relay.await_event("charge_kept")
        name = next(line["worker"] for line in found.relay.events("worker_started") if line["incarnation"] == mine)
        assert await kill_worker(found.relay, name) == mine
        assert (await found.send(user, caller=theirs)).reply.startswith("451 4.3.0 ")
        place_of_settle = len(found.border.seen)
        found.border.open()
        await found.until_taken(user, caller=theirs)
        await theirs.quit()
        settled = found.relay.events("settled")
        assert [event["id"] for event in settled] == [sent.id]
        asked = found.border.seen[place_of_settle:]
        first_reserve = next(i for i, one in enumerate(asked) if one.kind == "reserve")
        assert ("settle", sent.id) in asked[:first_reserve]
        await found.closed()
