"""The spool's disk is below its reserve: what needs the spool is refused with 452, what the smarthost takes at once still flows."""

from __future__ import annotations

from pathlib import Path

from relay.loadkit.script import Script
from tests.store_faults import scene

FULL = "452 4.3.1 Insufficient system storage, try again later"


async def test_mail_the_smarthost_takes_flows_and_the_rest_is_refused_uncharged(place: Path) -> None:
    async with scene(place, {"spool": {"reserve_bytes": 1 << 53}}) as found:
        user = await found.add_user()
        assert (await found.send(user)).outcome == "taken"
        found.sink.script = Script.parse(['rcpt match=bad* reply="550 5.1.1 no such user"'])
        # One refused, one accepted: without the spool the dot is not sent.
        assert (await found.send(user, "good", "bad")).reply == FULL
        assert found.sink.intake.answered == 1
        # All refused: that needs no spool.
        assert (await found.send(user, "bad")).reply.startswith("550 5.1.1 ")
        found.sink.script = Script.parse(['data reply="451 4.3.0 not now"'])
        assert (await found.send(user)).reply == FULL
        found.sink.script = Script.parse(["connect drop", "ehlo drop", "mail drop"])
        assert (await found.send(user)).reply == FULL
        found.sink.script = Script()
        await found.until_taken(user)
        assert (await found.relay.usage(user))["sent_total"] == found.sink.intake.answered == 2
        assert found.relay.events("spool_unavailable")
        await found.closed()
