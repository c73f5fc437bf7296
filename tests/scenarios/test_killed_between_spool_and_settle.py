"""A worker is killed after its message is in the spool and before it is settled: charged once, delivered once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from relay.loadkit.script import Script
from tests.store_faults import scene
from tests.surroundings import kill_worker, resume, stop, until


@pytest.mark.parametrize("rule", ['data first=1 reply="451 4.3.0 not now"', 'rcpt first=1 reply="450 4.2.0 busy"'])
async def test_what_is_in_the_spool_is_charged_once_and_delivered(place: Path, rule: str) -> None:
    async with scene(place, {"smtp": {"drain_seconds": 5}, "store": {"timeout_seconds": 3}}) as found:
        found.sink.script = Script.parse([rule])
        user = await found.add_user(hourly=1)
        store = found.store_process
        caller = await found.dial(user)
        async with found.spool() as spool:
            # The store stops as soon as the entry is in the spool: the smarthost's reply waits until it is stopped.
            found.sink.script = Script.parse([rule + " stall=0.4"])
            sending = asyncio.create_task(found.send(user, caller=caller))
            await until(lambda: found.sink.replies[220] > 0, what="the smarthost is asked")
            stop(store)

            async def is_spooled() -> bool:
                return (await spool.counts()).waiting + (await spool.counts()).claimed == 1

            await until(is_spooled)
        await kill_worker(found.relay, "smtp-0")
        assert (await sending).outcome == "silent"
        resume(store)
        await until(lambda: found.sink.intake.answered == 1, 20)
        await found.closed()
        [entry] = [event for event in found.relay.events("settled", "settled_before") if event["units"]]
        assert (await found.relay.usage(user))["sent_total"] == 1
        [copy] = found.sink.messages
        assert copy.sender == found.sent[0].mark
        assert found.relay.events("delivered")[0]["id"] == entry["id"]
