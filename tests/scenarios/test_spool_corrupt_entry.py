"""One entry of the spool is damaged on the disk: it is held for a person, and the others go on."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from relay.loadkit.script import Script
from tests.store_faults import scene
from tests.surroundings import until

DAMAGE = {
    "content": "UPDATE content SET wire = CAST(replace(wire, 'quick', 'quack') AS BLOB) WHERE seq = (SELECT seq FROM entry WHERE id = ?)",
    "standing": "UPDATE standing SET state = 'somewhere' WHERE seq = (SELECT seq FROM entry WHERE id = ?)",
}


@pytest.mark.parametrize("where", DAMAGE)
async def test_a_damaged_entry_is_held_and_shown_and_the_others_go_out(place: Path, where: str) -> None:
    async with scene(place) as found:
        found.sink.script = Script.parse(["connect drop"])
        user = await found.add_user()
        sent = [await found.send(user) for _ in range(3)]
        assert [one.outcome for one in sent] == ["taken"] * 3
        await found.relay.stop()
        victim = sent[1].id
        with closing(sqlite3.connect(found.spool_file)) as db, db:
            assert db.execute(DAMAGE[where], (victim,)).rowcount == 1
        found.sink.script = Script()
        await found.relay.start()
        await until(lambda: found.sink.intake.answered == 2, 15)
        alarm = await found.relay.await_event("entry_corrupt")
        assert (alarm["id"], alarm["alarm"]) == (victim, True)
        assert {message.sender for message in found.sink.messages} == {sent[0].mark, sent[2].mark}
        [shown] = await found.relay.cli("queue", "list")
        assert (shown["id"], shown["held"]) == (victim, "corrupt")
        await found.closed(held=1)
        assert len(found.relay.events("entry_corrupt")) == 1
