"""The store is cut off while it settles: whether it did or not, the client hears 250 and the message is charged once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.store_faults import SHORT_LEASE, scene

CASES = [("before", "settled"), ("after", "settled_before")]


@pytest.mark.parametrize(("when", "event"), CASES)
async def test_a_settle_whose_answer_is_lost_is_repeated_until_answered(place: Path, when: str, event: str) -> None:
    async with scene(place, bordered=True) as found:
        assert found.border is not None
        user = await found.add_user()
        found.border.close_at("settle", when)
        sent = await found.send(user)
        assert sent.outcome == "taken"
        assert await found.charges() == [(user.name, sent.id, 1, 1, 0)]
        found.border.open()
        assert (await found.relay.await_event(event))["id"] == sent.id
        await found.until_taken(user)
        assert (await found.relay.usage(user))["sent_total"] == 2
        await found.closed()


@pytest.mark.parametrize(("when", "event"), CASES)
async def test_repeated_after_the_lease_it_is_charged_once_all_the_same(place: Path, when: str, event: str) -> None:
    async with scene(place, SHORT_LEASE, bordered=True) as found:
        assert found.border is not None
        user = await found.add_user(hourly=1)
        found.border.close_at("settle", when)
        sent = await found.send(user)
        assert sent.outcome == "taken"
        await asyncio.sleep(found.rules.lease)
        found.border.open()
        recorded = await found.relay.await_event(event)
        assert (recorded["id"], recorded.get("late", False)) == (sent.id, when == "before")
        assert (await found.send(user)).reply.startswith("451 4.7.0 Hourly sending limit reached (1/1 messages)")
        await found.closed()
        assert not found.relay.events("overdraft")
