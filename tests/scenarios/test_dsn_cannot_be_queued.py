"""There is no room for a report: what it speaks of stays in the spool, and is reported on, once, when there is room again."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

from tests.smarthost_faults import World, opened

THREE = ("one@example.net", "bad@example.net", "two@example.net")
ROOM = 200_000
"""Octets that the spool's log may still grow by: enough for a claim, not for a report that returns the whole message."""


async def test_the_original_stays_until_its_report_is_durable(place: Path) -> None:
    async with opened(place) as world:
        world.script('rcpt match=bad* reply="550 5.1.1 no such user"')
        heard, pid = await _send_into_a_full_spool(world)
        await world.relay.await_event("spool_unavailable")
        await asyncio.sleep(1.5)  # it insists
        [entry] = await world.entries()
        assert (entry.id, entry.kind) == (heard, "mail")
        assert [standing.state for standing in entry.standings] == ["delivered", "failed", "delivered"]
        assert world.relay.events("reported") == []
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        evidence = await world.account()
        mark = world.sent[0].mark
        assert [copy.failed for copy in world.reports(mark)] == [("bad@example.net",)]
        assert [world.count(mark, name) for name in THREE] == [1, 0, 1]
        assert len([event for event in evidence.events if event["event"] == "reported"]) == 1
        assert all(event["alarm"] for event in evidence.events if event["event"] == "spool_unavailable")


async def _send_into_a_full_spool(world: World) -> tuple[str, int]:
    """Send a message one recipient of which is refused; the retry process has no room for the report on it."""
    pid = world.relay.workers()["retry-0"]
    log = world.relay.folder / "data" / "spool.db-wal"
    # The limit must stand before retry comes to the entry, a second after it was put: a message's room is known beforehand.
    size = 900_000
    limit = log.stat().st_size + size + ROOM + 100_000
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    heard = await world.send(*THREE, options="RET=FULL", size=size)
    assert heard.reply.startswith("250 ")
    assert log.stat().st_size < limit - 50_000, "the entry itself was to fit"
    return heard.id, pid
