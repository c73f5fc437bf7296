"""The store is away when a message asks for its place: the client hears 451, nothing is sent and nothing is charged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.store_faults import scene
from tests.surroundings import until


async def test_without_the_store_no_new_message_is_accepted_and_none_is_charged(place: Path) -> None:
    async with scene(place, bordered=True) as found:
        assert found.border is not None
        user = await found.add_user()
        caller = await found.dial(user)
        assert (await found.send(user, caller=caller)).outcome == "taken"
        found.border.close()
        for _ in range(3):
            assert (await found.send(user, caller=caller)).reply == "451 4.3.0 Temporary backend failure, try again later"
        assert (await found.send(user)).reply.startswith("454 4.7.0 ")
        found.border.open()
        await found.until_taken(user, caller=caller)
        await caller.quit()
        assert found.sink.intake.answered == (await found.relay.usage(user))["sent_total"] == 2
        assert not found.relay.events("charge_kept", "charge_at_risk")
        await found.closed()


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_place_that_was_given_and_never_heard_of_is_given_back(place: Path, when: str) -> None:
    async with scene(place, bordered=True) as found:
        assert found.border is not None
        user = await found.add_user(hourly=1)
        caller = await found.dial(user)
        found.border.close_at("reserve", when)
        assert (await found.send(user, caller=caller)).reply.startswith("451 4.3.0 ")
        async with found.ledger() as ledger:
            assert len(await ledger.open_holds(user.name)) == (when == "after")
        found.border.open()
        # It takes the whole limit: it can only be taken once what was held is free again.
        await found.until_taken(user, caller=caller)
        await caller.quit()
        await until(lambda: found.sink.intake.answered == 1)
        await found.closed()
