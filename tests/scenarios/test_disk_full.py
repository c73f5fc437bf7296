"""The disk is full, under store and spool both: temporary replies, no acknowledgement lost, and well again when there is space."""

from __future__ import annotations

import asyncio
from pathlib import Path

from relay.loadkit.script import Script
from tests.store_faults import scene
from tests.surroundings import fill, small_disk, until

DOWN = ["connect drop", "ehlo drop", "mail drop"]


async def test_a_full_disk_under_store_and_spool_costs_no_acknowledgement(place: Path) -> None:
    with small_disk(place / "relay" / "data", "24m") as disk:
        async with scene(place) as found:
            user = await found.add_user()
            found.sink.script = Script.parse(DOWN)
            caller = await found.dial(user)
            filler = fill(disk, leave=400_000)
            while (sent := await found.send(user, caller=caller, size=50_000)).outcome == "taken":
                assert len(found.sent) < 100
            for _ in range(5):
                assert sent.reply.startswith(("451 4.3.0 ", "452 4.3.1 ")), sent
                await asyncio.sleep(0.1)
                sent = await found.send(user, caller=caller, size=50_000)
            filler.unlink()
            await found.until_taken(user, 25, caller)
            await caller.quit()
            found.sink.script = Script()
            await found.closed(timeout=25)
            assert found.sink.intake.answered == sum(one.outcome == "taken" for one in found.sent) > 1
            assert not found.relay.events("worker_died")


async def test_what_is_in_the_spool_goes_out_once_though_the_disk_is_full_when_the_smarthost_is_back(place: Path) -> None:
    with small_disk(place / "spool", "8m") as disk:
        async with scene(place, {"spool": {"directory": str(disk)}}) as found:
            user = await found.add_user()
            found.sink.script = Script.parse(DOWN)
            for _ in range(4):
                assert (await found.send(user, size=50_000)).outcome == "taken"
            filler = fill(disk)
            found.sink.script = Script()
            await asyncio.sleep(2)
            filler.unlink()
            await until(lambda: found.sink.intake.answered == 4, 20)
            await found.closed()
            assert found.sink.intake.answered == 4
            assert not found.relay.events("in_doubt", "killed_in_flight", "reported")


async def test_a_full_disk_under_the_spool_alone_is_452_and_mail_the_smarthost_takes_flows(place: Path) -> None:
    with small_disk(place / "spool", "8m") as disk:
        async with scene(place, {"spool": {"directory": str(disk)}}) as found:
            user = await found.add_user()
            down = Script.parse(DOWN)
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
