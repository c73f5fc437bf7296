"""A worker is frozen until the lease of its message has ended, and another worker has used the place that came free."""

from __future__ import annotations

import asyncio
from pathlib import Path

from relay.loadkit.caller import Caller
from relay.loadkit.script import Script
from tests.account import Sent
from tests.store_faults import SHORT_LEASE, Settings, merged, scene
from tests.surroundings import resume, stop, until

TWO: Settings = merged(SHORT_LEASE, {"smtp": {"workers": 2}})


async def test_a_message_still_being_uploaded_is_not_sent_under_its_lapsed_hold(place: Path) -> None:
    async with scene(place, TWO) as found:
        user = await found.add_user(hourly=1)
        [(_, caller, pid), (_, other, _)] = await found.dial_each(user)
        mark = "frozen@load.example"
        found.sent.append(Sent(mark, user.name, ("to@load.example",), "refused"))
        caller._transport.write(f"MAIL FROM:<{mark}>\r\nRCPT TO:<to@load.example>\r\nDATA\r\n".encode())
        assert [answer.code for answer in await caller._hear(3)] == [250, 250, 354]
        stop(pid)
        caller._transport.write(b"Subject: frozen\r\n\r\nx\r\n.\r\n")
        await asyncio.sleep(found.rules.lease)
        assert (await found.send(user, caller=other)).outcome == "taken"
        resume(pid)
        code = await _code(caller)
        assert code in (421, 451)
        await other.quit()
        assert found.sink.intake.answered == 1
        await found.closed()
        assert not found.relay.events("overdraft")


async def test_a_message_that_the_smarthost_took_meanwhile_is_charged_late_and_as_an_overdraft(place: Path) -> None:
    async with scene(place, merged(TWO, {"retry": {"doubt_seconds": 15}})) as found:
        found.sink.script = Script.parse(["dot first=1 stall=0.3"])
        user = await found.add_user(hourly=1)
        [(_, caller, pid), (_, other, _)] = await found.dial_each(user)
        sending = asyncio.create_task(found.send(user, caller=caller))
        await until(lambda: found.sink.replies[354] == 1)
        await asyncio.sleep(0.1)
        stop(pid)
        await asyncio.sleep(found.rules.lease)
        assert (await found.send(user, caller=other)).outcome == "taken"
        resume(pid)
        assert (await sending).outcome == "taken"
        overdraft = await found.relay.await_event("overdraft")
        assert (overdraft["id"], overdraft["units"]) == (found.sent[0].id, 1)
        assert [(event["id"], event["late"]) for event in found.relay.events("settled")] == [(found.sent[0].id, True)]
        for one in (caller, other):
            await one.quit()
        await found.closed()
        assert found.sink.intake.answered == 2
        assert (await found.relay.usage(user))["sent_total"] == 2


async def _code(caller: Caller) -> int:
    answers = await caller._hear(1)
    return answers[0].code if answers else 0
