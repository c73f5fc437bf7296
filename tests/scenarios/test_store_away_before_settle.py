"""The store is away between the smarthost's 250 and the settle: the client hears 250, and the charge is kept until it is recorded."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.store_faults import SHORT_LEASE, Scene, scene, second_node
from tests.surroundings import kill, resume, stop


async def _is_kept(found: Scene, id: str, user: str) -> None:
    """The charge is in the vault, and who looks at the journal is told."""
    alarm = found.relay.events("charge_kept")[-1]
    assert (alarm["id"], alarm["alarm"]) == (id, True)
    assert not found.relay.events("charge_at_risk")
    assert [event["at"] for event in found.relay.events("taken") if event["id"] == id] == [0]
    assert await found.charges() == [(user, id, 1, 1, 0)]


async def test_a_store_that_is_silent_for_a_while_records_the_charge_when_it_speaks_again(place: Path) -> None:
    async with scene(place) as found:
        user = await found.add_user(hourly=1)
        store = found.store_process
        found.at_dot = partial(stop, store)
        sent = await found.send(user)
        assert sent.outcome == "taken"
        await _is_kept(found, sent.id, user.name)
        resume(store)
        # What it had not read when it was stopped it carries out now, though nobody waits for the answer any more.
        settled = await found.relay.await_event("settled_before")
        assert (settled["id"], settled["units"]) == (sent.id, 1)
        assert settled["at"] > 0
        assert (await found.send(user)).reply.startswith("451 4.7.0 Hourly sending limit reached (1/1 messages)")
        await found.closed()
        assert not found.relay.events("overdraft")


async def test_a_store_that_was_killed_records_the_charge_when_it_is_started_again(place: Path) -> None:
    async with scene(place, own_store=True) as found:
        assert found.store is not None
        user = await found.add_user()
        found.at_dot = partial(kill, found.store.pid)
        sent = await found.send(user)
        assert sent.outcome == "taken"
        await _is_kept(found, sent.id, user.name)
        await found.store.end()
        await found.store.start()
        assert (await _recorded(found))["id"] == sent.id
        await found.until_taken(user)
        await found.closed()


async def test_an_embedded_store_that_was_killed_is_started_again_and_records_the_charge(place: Path) -> None:
    async with scene(place) as found:
        user = await found.add_user()
        store = found.store_process

        def hit() -> None:
            kill(store)
            assert found.relay.process is not None
            stop(found.relay.process.pid)  # so that it does not start it again before the settle

        found.at_dot = hit
        sent = await found.send(user)
        assert sent.outcome == "taken"
        await _is_kept(found, sent.id, user.name)
        assert found.relay.process is not None
        resume(found.relay.process.pid)
        assert (await _recorded(found))["id"] == sent.id
        await found.until_taken(user)
        await found.closed()


@pytest.mark.parametrize("is_taken_elsewhere", [False, True])
async def test_after_the_lease_the_charge_is_late_and_an_overdraft_if_it_exceeds_the_limit(place: Path, is_taken_elsewhere: bool) -> None:
    async with scene(place, SHORT_LEASE, bordered=True) as found, second_node(found) as other:
        assert found.border is not None
        user = await found.add_user(hourly=1)
        found.at_dot = found.border.close
        sent = await found.send(user)
        assert sent.outcome == "taken"
        if is_taken_elsewhere:
            refused = await found.send(user, relay=other)
            assert refused.reply.startswith("451 4.7.0 Sending limit taken by messages in flight"), refused
        await asyncio.sleep(found.rules.lease)
        if is_taken_elsewhere:
            assert (await found.send(user, relay=other)).outcome == "taken"
        found.border.open()
        assert (await _recorded(found))["late"]
        overdrafts = [event["id"] for event in found.relay.events("overdraft")]
        assert overdrafts == ([sent.id] if is_taken_elsewhere else [])
        used = 2 if is_taken_elsewhere else 1
        assert (await found.send(user)).reply.startswith(f"451 4.7.0 Hourly sending limit reached ({used}/1 messages)")
        await found.closed()


async def _recorded(found: Scene) -> dict[str, Any]:
    settled = await found.relay.await_event("settled")
    assert not found.relay.events("settled_before")
    return settled
