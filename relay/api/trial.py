"""Tests of smarthosts that owners ask for: so many at a time, each on record."""

from __future__ import annotations

from fastapi import HTTPException

from relay.api.rooms import Rooms
from relay.upstream.route import Target
from relay.upstream.trial import Trial, try_out

AT_ONCE = 3
"""Tests that one owner may have under way: each is a connection from this host to one that the owner names."""
BUSY = "Too many tests are under way, try again in a few seconds"


async def test_for(rooms: Rooms, owner_id: str, target: Target, sender: str, recipient: str, by: str) -> Trial:
    """Try a smarthost for an owner; `by` is the door it asked at. Raises HTTPException (429)."""
    if rooms.testing.get(owner_id, 0) >= AT_ONCE:
        raise HTTPException(429, BUSY, {"Retry-After": "5"})
    rooms.testing[owner_id] = rooms.testing.get(owner_id, 0) + 1
    try:
        trial = await try_out(target, rooms.guard, rooms.hostname, sender, recipient, rooms.settings.test_budget_seconds)
    finally:
        rooms.testing[owner_id] -= 1
        if not rooms.testing[owner_id]:
            del rooms.testing[owner_id]
    rooms.journal.event("smarthost_tested", owner=owner_id, host=str(target), stage=trial.stage, by=by)
    return trial
