"""An upload is dribbled until its lease is nearly over: the message is refused, or reserves anew; never sent under a lapsed hold."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from relay.loadkit.caller import Caller
from relay.loadkit.script import Script
from tests.account import Outcome, Sent
from tests.running import User
from tests.store_faults import Scene, Settings, scene
from tests.surroundings import until

SHORT: Settings = {"smtp": {"data_deadline_seconds": 2}, "upstream": {"forward_deadline_seconds": 1}, "quota": {"lease_seconds": 5.5}}


async def test_an_upload_longer_than_its_deadline_is_refused_and_costs_nothing(place: Path) -> None:
    async with scene(place, SHORT) as found:
        user = await found.add_user(hourly=1)
        caller = await found.dial(user)
        code = await _dribble(found, user, caller, 8)
        assert code in (0, 421, 451)
        await found.until_taken(user)
        assert found.sink.intake.answered == 1
        assert len(found.sink.messages) == 1
        await found.closed()


@pytest.mark.parametrize("is_store_there", [True, False])
async def test_a_lease_that_may_end_before_the_spool_has_the_message_is_reserved_anew_or_it_is_refused(
    place: Path, is_store_there: bool
) -> None:
    async with scene(place, SHORT, bordered=True) as found:
        assert found.border is not None
        user = await found.add_user(hourly=1)
        found.sink.script = Script.parse(["mail stall=forever"])
        caller = await found.dial(user)
        dribbling = asyncio.create_task(_dribble(found, user, caller, 1.5))
        await until(lambda: found.sink.replies[220] > 0)
        assert len(found.relay.events("taken")) == 0
        if not is_store_there:
            found.border.close()
        code = await dribbling
        found.sink.script = Script()
        if is_store_there:
            [taken] = found.relay.events("taken")
            assert code == 250
            assert found.border.count("reserve", taken["id"]) == 2
            assert (await found.send(user)).reply.startswith("451 4.7.0 Hourly sending limit reached (1/1 messages)")
        else:
            assert code == 451
            assert await found.entries() == []
            found.border.open()
            await found.until_taken(user)
        await until(lambda: found.sink.intake.answered == 1)
        await found.closed()


async def _dribble(found: Scene, user: User, caller: Caller, seconds: float) -> int:
    """Upload a message over so many seconds; returns the code of the last reply, 0 without one."""
    mark = f"slow{len(found.sent)}@load.example"
    place = len(found.sent)
    found.sent.append(Sent(mark, user.name, ("to@load.example",), "silent"))
    write = caller._transport.write
    write(f"MAIL FROM:<{mark}>\r\nRCPT TO:<to@load.example>\r\nDATA\r\n".encode())
    assert [answer.code for answer in await caller._hear(3)] == [250, 250, 354]
    end = time.monotonic() + seconds
    write(b"Subject: slow\r\n\r\n")
    while time.monotonic() < end and caller.is_usable:
        write(b"x\r\n")
        await asyncio.sleep(0.1)
    is_whole = caller.is_usable
    if is_whole:
        write(b".\r\n")
    answers = await caller._hear(1)
    code, text = (answers[0].code, answers[0].text) if answers else (0, "")
    outcome: Outcome = "taken" if code == 250 else "refused" if code else "silent" if is_whole else "unsent"
    found.sent[place] = Sent(mark, user.name, ("to@load.example",), outcome, text.split()[1] if code == 250 else "", f"{code} {text}")
    return code
