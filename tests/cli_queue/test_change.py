"""relay queue retry, hold, release, remove, flush: what an operator does to the queue is done, on record, and no more than that."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from relay.spool.entry import Entry
from relay.spool.spool import Spool
from tests.cli_queue.conftest import events, put
from tests.shell import Shell


async def found(spool: Spool, id: str) -> Entry:
    entry = await spool.find(id)
    assert entry is not None
    return entry


async def test_messages_are_tried_now_and_what_cannot_be_is_named(relay: Shell, spool: Spool) -> None:
    await put(spool, "a1")
    await put(spool, "a2", held="operator")
    await put(spool, "a3")
    await put(spool, "a4", claimed="somebody")
    ran = await relay("retry", "a1", "never", "a2", "a3", "a4", "a1")
    assert ran.status == 1
    assert ran.out.splitlines() == ["a1: due now", "a3: due now", "a4: being sent right now"]
    assert ran.faults == ["relay: never: no such message in the queue", "relay: a2: held (operator); release it first"]
    assert [(await found(spool, id)).due <= spool.now() for id in ("a1", "a2", "a3", "a4")] == [True, False, True, False]


async def test_messages_are_held_and_released(relay: Shell, spool: Spool, place: Path) -> None:
    await put(spool, "a1")
    await put(spool, "a2", held="disabled")
    held = (await relay("hold", "a1", "a2", "--json")).json
    assert [(row["id"], row["held"], row["next_try"]) for row in held] == [("a1", "operator", None), ("a2", "operator", None)]
    assert (await relay("hold", "a1")).out == "a1: held\n"
    assert (await relay("release", "a1", "a2")).out == "a1: released, due now\na2: released, due now\n"
    ran = await relay("release", "a1", "--json")
    assert (ran.status, ran.out, ran.faults) == (1, "[]\n", ["relay: a1: not held"])
    record = [(line["event"], line["id"], line["reason"]) for line in events(place)]
    assert record == [
        ("held", "a1", "operator"), ("held", "a2", "operator"), ("unheld", "a1", "operator"), ("unheld", "a2", "operator"),
    ]  # fmt: skip


@pytest.mark.parametrize("reason", ["disabled", "route", "corrupt", "undeliverable"])
async def test_the_operator_ends_any_hold(relay: Shell, spool: Spool, place: Path, reason: str) -> None:
    await put(spool, "a1", held=reason)  # type: ignore[arg-type]
    assert (await relay("release", "a1", "--json")).json[0]["state"] == "waiting"
    assert [(line["event"], line["reason"]) for line in events(place)] == [("unheld", reason)]


async def test_a_corrupt_message_stays_held_as_corrupt(relay: Shell, spool: Spool, place: Path) -> None:
    await put(spool, "a1", held="corrupt")
    ran = await relay("hold", "a1")
    assert (ran.status, ran.faults) == (1, ["relay: a1: held already (corrupt)"])
    assert events(place) == []


async def test_a_removal_says_what_is_lost_asks_and_is_on_record(relay: Shell, spool: Spool, place: Path) -> None:
    await put(spool, "a1", states=("waiting", "delivered", "failed"))
    await put(spool, "a2", sender="", kind="dsn")
    ran = await relay("remove", "a1", "a2", "never", said="y\n")
    assert ran.status == 1 and ran.faults == ["relay: never: no such message in the queue"]
    lines = ran.out.splitlines()
    assert lines[0] == (
        "a1: message from <app@example.com> of app; 2 of 3 recipients will get neither it nor a report: r0@example.net, r2@example.net"
    )
    assert lines[1].startswith("a2: report from <> of app; 1 of 1 recipients")
    assert lines[2].startswith("Remove 2 for good? [y/N]")
    assert lines[-2:] == ["a1: removed, 2 recipients discarded", "a2: removed, 1 recipients discarded"]
    assert await spool.find("a1") is None and await spool.find("a2") is None
    record = [(line["event"], line["id"], line["recipients"], line["reason"]) for line in events(place)]
    assert record == [
        ("discarded", "a1", ["r0@example.net", "r2@example.net"], "operator"), ("discarded", "a2", ["r0@example.net"], "operator"),
    ]  # fmt: skip


@pytest.mark.parametrize("said", ["n\n", "\n", ""])
async def test_without_a_yes_nothing_is_removed(relay: Shell, spool: Spool, place: Path, said: str) -> None:
    await put(spool, "a1")
    ran = await relay("remove", "a1", said=said)
    assert ran.status == 1 and ran.faults[-1] == "relay: nothing was removed"
    assert await spool.find("a1") is not None and events(place) == []


async def test_only_with_yes_nobody_is_asked(relay: Shell, spool: Spool) -> None:
    await put(spool, "a1")
    await put(spool, "a2")
    assert (await relay("remove", "a1", "--yes")).out == "a1: removed, 1 recipients discarded\n"
    ran = await relay("remove", "a2", "--json")
    assert (ran.status, ran.out, ran.faults) == (2, "", ["relay: --json does not ask: it needs --yes"])
    assert (await relay("remove", "a2", "--json", "--yes")).json == [{"id": "a2", "discarded": ["r0@example.net"]}]


async def test_a_message_that_is_being_sent_or_taken_is_not_removed(relay: Shell, spool: Spool, place: Path) -> None:
    await put(spool, "busy", claimed="somebody")
    await put(spool, "new", units=1, age=0.0)
    await put(spool, "a1")
    ran = await relay("remove", "--yes", "busy", "new", "a1")
    assert (ran.status, len(ran.faults)) == (1, 2)
    assert "busy: being sent right now, not removed" in ran.faults[0] and "new: being taken right now" in ran.faults[1]
    assert [line["id"] for line in events(place)] == ["a1"]
    assert await spool.find("busy") is not None and await spool.find("new") is not None and await spool.charges() == []


async def test_what_is_removed_unsettled_is_charged_all_the_same(relay: Shell, spool: Spool) -> None:
    await put(spool, "a1", units=3)
    await relay("remove", "--yes", "a1")
    assert await spool.charges() == [("app", "a1", 3, 3, 0)]


async def test_a_flush_has_all_that_is_not_held_tried_now(relay: Shell, spool: Spool) -> None:
    await put(spool, "a1")
    await put(spool, "a2", held="operator")
    await put(spool, "b1", owner="87654321")
    await put(spool, "b2", owner="87654321")
    assert (await relay("flush", "--owner", "12345678")).out == "1 due now\n"
    assert (await relay("flush", "--json")).json == {"flushed": 2}
    assert (await found(spool, "a2")).due > spool.now() + 500


async def test_where_the_journal_is_no_file_the_record_is_on_standard_error(spool: Spool, config: Path, place: Path) -> None:
    config.write_text(f'[data]\ndirectory = "{place / "data"}"\n')
    await put(spool, "a1")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "relay", "queue", "remove", "a1", "--json", "--yes", "--config", str(config), stdout=-1, stderr=-1
    )
    out, err = await process.communicate()
    assert (process.returncode, out) == (0, b'[{"id": "a1", "discarded": ["r0@example.net"]}]\n')
    line = json.loads(err)
    assert (line["event"], line["id"], line["recipients"], line["reason"]) == ("discarded", "a1", ["r0@example.net"], "operator")
