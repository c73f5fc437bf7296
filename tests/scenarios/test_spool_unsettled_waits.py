"""The store is away when a message goes into the spool: it does not leave it before its charge is recorded."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from relay.loadkit.script import Script
from tests.store_faults import SHORT_LEASE, scene
from tests.surroundings import until


@pytest.mark.parametrize("is_late", [False, True])
async def test_nothing_leaves_the_spool_unsettled(place: Path, is_late: bool) -> None:
    async with scene(place, SHORT_LEASE if is_late else None, bordered=True) as found:
        assert found.border is not None
        user = await found.add_user(hourly=1)
        found.sink.script = Script.parse(['data first=1 reply="451 4.3.0 not now"'])
        found.border.close_at("settle", "before")
        sent = await found.send(user)
        assert sent.outcome == "taken"
        [entry] = await found.entries()
        assert not entry.is_settled
        await asyncio.sleep(found.rules.lease if is_late else 2)  # it is due, and the smarthost would take it
        assert found.sink.intake.answered == 0
        assert found.relay.events("store_unavailable")
        found.border.open()
        await until(lambda: found.sink.intake.answered == 1)
        assert (await found.until_refused(user)).reply.startswith("451 4.7.0 Hourly sending limit reached (1/1 messages)")
        await found.closed()
        recorded = found.relay.events("settled", "settled_before")
        assert {event["id"] for event in recorded} == {sent.id}
        assert [event["late"] for event in recorded if event["event"] == "settled"] == [is_late]
