"""Neither the store nor the spool can record a charge: the client hears 250, it is kept in memory and told of, and recorded later."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.store_faults import scene
from tests.surroundings import fill, kill_worker, small_disk


@pytest.mark.parametrize("is_killed", [False, True])
async def test_the_charge_is_at_risk_and_recorded_when_the_store_is_back(place: Path, is_killed: bool) -> None:
    with small_disk(place / "spool", "4m") as disk:
        async with scene(place, {"spool": {"directory": str(disk)}}, bordered=True) as found:
            assert found.border is not None
            user = await found.add_user(hourly=1)
            filler = fill(disk)
            found.at_dot = found.border.close
            sent = await found.send(user)
            assert sent.outcome == "taken"
            alarm = await found.relay.await_event("charge_at_risk")
            assert (alarm["id"], alarm["alarm"]) == (sent.id, True)
            assert not found.relay.events("charge_kept")
            if is_killed:  # what it held in memory it had written to the table of its holds before
                await kill_worker(found.relay, "smtp-0")
            found.border.open()
            assert (await found.relay.await_event("settled"))["id"] == sent.id
            filler.unlink()
            end = await found.until_refused(user)
            assert end.reply.startswith("451 4.7.0 Hourly sending limit reached (1/1 messages)")
            await found.closed()
