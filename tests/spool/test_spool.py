"""Messages taken, finished and withdrawn; charges kept."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from relay.spool.fault import EntryCorrupt, SpoolUnavailable
from relay.spool.spool import Spool
from tests.spool.making import PREFIX, WIRE, Hands, an_entry, as_all, ids, put


async def test_an_entry_comes_back_as_it_was_put(spool: Spool, path: Path, clock: Hands) -> None:
    entry = await put(spool, "a", recipients=3, is_settled=False, in_doubt=True, origin="z", kind="dsn", claimed_by="me")
    assert await spool.find("a") == entry
    assert await spool.content("a") == (PREFIX, WIRE)
    await spool.close()
    again = Spool(path, "me2", 0, clock)
    assert await again.find("a") == replace(entry, claimed_by="")
    assert await again.content("a") == (PREFIX, WIRE)
    await again.close()


async def test_a_large_message_with_a_thousand_recipients_comes_back(spool: Spool) -> None:
    wire = bytes(range(256)) * 40_000
    entry = an_entry("a", spool.now(), recipients=1000)
    await spool.put(entry, b"", wire)
    assert await spool.find("a") == entry
    assert await spool.content("a") == (b"", wire)


async def test_many_puts_at_once_are_all_there_in_few_commits(spool: Spool) -> None:
    await asyncio.gather(*(put(spool, f"m{number}", recipients=1 + number % 3) for number in range(1000)))
    assert len(set(await ids(spool))) == 1000
    assert (await spool.counts()).octets == 1000 * len(WIRE)


async def test_a_put_of_an_id_that_is_there_fails_alone(spool: Spool) -> None:
    await put(spool, "a")
    outcomes = await asyncio.gather(*(put(spool, id) for id in ("b", "a", "c")), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(an_entry("x", 0)), SpoolUnavailable, type(an_entry("x", 0))]
    assert await ids(spool) == ["a", "b", "c"]


async def test_a_put_that_is_a_bug_fails_alone_and_as_itself(spool: Spool) -> None:
    wrong = replace(an_entry("b", 0), user=object())  # type: ignore[arg-type]
    outcomes = await asyncio.gather(put(spool, "a"), spool.put(wrong, b"", b""), put(spool, "c"), return_exceptions=True)
    assert isinstance(outcomes[1], TypeError)
    assert await ids(spool) == ["a", "c"]


async def test_a_finish_with_the_wrong_number_of_standings_is_refused(spool: Spool) -> None:
    entry = await put(spool, "a", recipients=2)
    with pytest.raises(ValueError, match="1 standings for 2 recipients"):
        await spool.finish("a", entry.standings[:1], None)
    assert await spool.find("a") == entry


async def test_a_finished_entry_is_gone_with_its_content(spool: Spool, path: Path) -> None:
    entry = await put(spool, "a", recipients=2)
    await put(spool, "b")
    delivered, failed = as_all(entry, "delivered")[0], as_all(entry, "discarded")[1]
    assert await spool.finish("a", [delivered, failed], None)
    assert await ids(spool) == ["b"]
    with pytest.raises(EntryCorrupt, match="not in the spool"):
        await spool.content("a")
    db = sqlite3.connect(path)
    assert [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("entry", "standing", "content")] == [1, 1, 1]
    db.close()


async def test_an_entry_that_owes_something_stays_with_its_standings(spool: Spool, clock: Hands) -> None:
    entry = await put(spool, "a", recipients=2, claimed_by="me")
    standings = [as_all(entry, "delivered")[0], replace(entry.standings[1], reply="450 4.2.1 é later", in_doubt=True)]
    assert await spool.finish("a", standings, clock.now + 60, attempts=3, is_warned=True)
    assert await spool.find("a") == replace(
        entry, standings=tuple(standings), due=clock.now + 60, attempts=3, is_warned=True, claimed_by=""
    )
    assert await spool.finish("a", standings, None, held="route")
    assert await spool.find("a") == replace(
        entry, standings=tuple(standings), due=clock.now + 60, attempts=3, is_warned=True, claimed_by="", held="route"
    )


async def test_a_reply_of_undecodable_octets_is_recorded(spool: Spool) -> None:
    entry = await put(spool, "a")
    reply = b"450 4.2.1 \xff\xfe later".decode("utf-8", "surrogateescape")
    assert await spool.finish("a", [replace(entry.standings[0], reply=reply)], None)
    found = await spool.find("a")
    assert found is not None and found.standings[0].reply == "450 4.2.1 ?? later"


async def test_a_report_is_inserted_in_the_commit_that_removes_its_original(spool: Spool) -> None:
    entry = await put(spool, "a")
    report = an_entry("d", spool.now(), kind="dsn", origin="a", units=0)
    assert await spool.finish("a", as_all(entry, "reported"), None, [(report, b"", b"report")])
    assert await ids(spool) == ["d"]
    assert await spool.find("d") == report
    assert await spool.content("d") == (b"", b"report")


async def test_what_is_no_more_there_gets_no_report(spool: Spool) -> None:
    entry = await put(spool, "a")
    await spool.remove("a")
    report = an_entry("d", spool.now(), kind="dsn", origin="a", units=0)
    assert not await spool.finish("a", as_all(entry, "reported"), None, [(report, b"", b"report")])
    assert await ids(spool) == []


async def test_a_report_that_cannot_be_inserted_leaves_the_original(spool: Spool) -> None:
    entry = await put(spool, "a")
    await put(spool, "d")
    report = an_entry("d", spool.now(), kind="dsn", origin="a", units=0)
    with pytest.raises(SpoolUnavailable):
        await spool.finish("a", as_all(entry, "reported"), None, [(report, b"", b"report")])
    assert await spool.find("a") == entry


async def test_two_finishes_at_once_do_not_both_report(spool: Spool) -> None:
    entry = await put(spool, "a")
    reports = [(an_entry(id, spool.now(), kind="dsn", units=0), b"", b"") for id in ("d1", "d2")]
    calls = [spool.finish("a", as_all(entry, "reported"), None, [report]) for report in reports]
    assert sorted(await asyncio.gather(*calls)) == [False, True]
    assert len(await ids(spool)) == 1


async def test_a_withdrawn_entry_is_gone(spool: Spool) -> None:
    await put(spool, "a")
    assert await spool.withdraw("a")
    assert not await spool.withdraw("a")
    assert await ids(spool) == []


async def test_a_cancelled_caller_leaves_the_others_alone(spool: Spool) -> None:
    tasks = [asyncio.create_task(put(spool, f"m{number}")) for number in range(100)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert {f"m{number}" for number in range(1, 100, 2)} <= set(await ids(spool))


async def test_closing_finishes_what_is_queued(path: Path, clock: Hands) -> None:
    spool = Spool(path, "me", 0, clock)
    tasks = [asyncio.create_task(put(spool, f"m{number}")) for number in range(200)]
    await asyncio.sleep(0)
    await spool.close()
    await spool.close()
    assert len(await asyncio.gather(*tasks)) == 200
    with pytest.raises(SpoolUnavailable, match="closed"):
        await spool.find("m1")
    with pytest.raises(SpoolUnavailable, match="closed"):
        await put(spool, "late")
    again = Spool(path, "me", 0, clock)
    assert len(await ids(again)) == 200
    await again.close()


async def test_charges_are_kept_until_forgotten(spool: Spool, other: Spool) -> None:
    await spool.keep_charge("u", "b", 2, 1, 0)
    await spool.keep_charge("u", "a", 1, 1, 0)
    await spool.keep_charge("u", "b", 2, 2, 0)
    assert await other.charges() == [("u", "a", 1, 1, 0), ("u", "b", 2, 2, 0)]
    await other.forget_charges(["a", "c"])
    assert await spool.charges() == [("u", "b", 2, 2, 0)]


async def test_unsettled_holds_are_known_until_marked(spool: Spool) -> None:
    await put(spool, "a", is_settled=False, user="x", recipients=2, units=2)
    await put(spool, "b", is_settled=True)
    await put(spool, "d", is_settled=False, units=0, kind="dsn")
    assert await spool.unsettled() == [("x", "a", 2, 2)]
    assert await spool.charged(["a", "b", "c", "d"]) == {"a": ("x", 2, 2), "b": ("u", 1, 1)}
    await asyncio.gather(spool.mark_settled(["a"]), spool.mark_settled(["zz", "d"]), spool.mark_settled([]))
    assert await spool.unsettled() == []
    found = await spool.find("a")
    assert found is not None and found.is_settled
