"""The disk is full, under store and spool both: temporary replies, no acknowledgement lost, and well again when there is space."""

from __future__ import annotations

import asyncio
from pathlib import Path

from relay.loadkit.script import Script
from tests.store_faults import scene
from tests.surroundings import fill, small_disk, until


async def test_a_full_disk_under_store_and_spool_costs_no_acknowledgement(place: Path) -> None:
    with small_disk(place / "relay" / "data", "24m") as disk:
        async with scene(place) as found:
            user = await found.add_user()
            found.sink.script = Script.parse(["connect drop", "ehlo drop", "mail drop"])
            assert (await found.send(user, size=20_000)).outcome == "taken"
            filler = fill(disk)
            caller = await found.dial(user)
            for _ in range(5):
                sent = await found.send(user, caller=caller, size=20_000)
                assert sent.reply.startswith(("451 4.3.0 ", "452 4.3.1 ")), sent
                await asyncio.sleep(0.1)
            filler.unlink()
            await found.until_taken(user, 20, caller)
            await caller.quit()
            found.sink.script = Script()
            await until(lambda: found.sink.intake.answered == 2, 20)
            await found.closed(timeout=20)


async def test_a_full_disk_under_the_spool_alone_is_452_and_mail_the_smarthost_takes_flows(place: Path) -> None:
    with small_disk(place / "spool", "8m") as disk:
        async with scene(place, {"spool": {"directory": str(disk)}}) as found:
            user = await found.add_user()
            down = Script.parse(["connect drop", "ehlo drop", "mail drop"])
            found.sink.script = down
            caller = await found.dial(user)
            assert (await found.send(user, caller=caller, size=50_000)).outcome == "taken"
            filler = fill(disk)
            for _ in range(3):
                sent = await found.send(user, caller=caller, size=50_000)
                assert sent.reply == "452 4.3.1 Insufficient system storage, try again later"
            assert found.relay.events("spool_unavailable")[0]["alarm"]
            found.sink.script = Script()
            await found.until_taken(user, caller=caller)
            found.sink.script = down
            filler.unlink()
            await found.until_taken(user, caller=caller)
            await caller.quit()
            found.sink.script = Script()
            await until(lambda: found.sink.intake.answered == 3, 20)
            await found.closed()
