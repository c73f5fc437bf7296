"""The store loses all its data with mail in the spool: nothing of it goes out or is lost, and after `adopt` all is accounted for."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

from relay.loadkit.script import Script
from tests.account import Evidence, assert_account
from tests.copies import read_copy
from tests.evidence import read_kept
from tests.store_faults import Scene, scene
from tests.surroundings import until


async def test_spooled_mail_waits_for_a_person_and_is_sent_when_told(place: Path) -> None:
    async with scene(place, bordered=True) as found:
        assert found.border is not None
        user = await found.add_user()
        found.sink.script = Script.parse(["connect drop", "ehlo drop", "mail drop"])
        caller = await found.dial(user)
        settled = await found.send(user, caller=caller)
        found.border.close_at("settle", "before")
        loose = await found.send(user, caller=caller)  # its charge is kept, and the store will not know its hold
        assert (settled.outcome, loose.outcome) == ("taken", "taken")
        await _empty(found)
        found.border.open()
        found.sink.script = Script()
        assert (await found.send(user, caller=caller)).reply.startswith("451 4.3.0 ")
        assert (await found.send(user)).reply.startswith("454 4.7.0 ")
        assert (await found.relay.await_event("store_foreign"))["alarm"]
        await asyncio.sleep(1.5)
        assert (found.sink.intake.answered, len(await found.entries())) == (0, 2)  # who may send is not known

        await _adopt(found)
        await found.relay.stop()
        await found.relay.start()
        # Its user is not there any more: a person decides.
        await until(lambda: len(found.relay.events("held")) == 2, 15)
        assert {(event["id"], event["reason"]) for event in found.relay.events("held")} == {
            (settled.id, "disabled"),
            (loose.id, "disabled"),
        }
        # There is no book left to write its charge in, which is on record.
        assert {(event["id"], event["reason"]) for event in found.relay.events("released")} == {(loose.id, "gone")}
        assert not found.relay.events("settled", "settled_before")
        assert await found.charges() == []
        copies = [read_copy(message) for message in found.sink.messages if message.answered]
        kept = await read_kept([found.relay.folder / "data"])
        assert_account(Evidence(found.sent, found.relay.events(), copies, kept))
        assert not found.relay.events("bug")


async def _empty(found: Scene) -> None:
    assert found.store is not None
    await found.store.end()
    shutil.rmtree(found.store.folder / "appendonlydir")
    await found.store.start()


async def _adopt(found: Scene) -> None:
    adopting = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "relay", "ledger", "adopt", "--config", str(found.relay.config), stdout=asyncio.subprocess.DEVNULL
    )
    assert await adopting.wait() == 0
