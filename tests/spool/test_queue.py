"""What an operator sees and does."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from relay.spool.queue import PAGE
from relay.spool.spool import Counts, Spool
from tests.spool.making import WIRE, Hands, ids, put


async def test_pages_come_oldest_first_and_only_those_asked_for(spool: Spool) -> None:
    await asyncio.gather(*(put(spool, f"m{n}", owner=f"o{n % 2}", user=f"u{n % 4}") for n in range(PAGE + 20)))
    pages = [page async for page in spool.pages()]
    assert [len(page) for page in pages] == [PAGE, 20]
    assert [entry.id for page in pages for entry in page] == [f"m{n}" for n in range(PAGE + 20)]
    assert await ids(spool, owner="o1") == [f"m{n}" for n in range(PAGE + 20) if n % 2]
    assert await ids(spool, owner="o1", user="u0") == []
    assert len(await ids(spool, user="u0")) == (PAGE + 20) / 4
    await spool.hold("m7", "operator")
    assert await ids(spool, which="held") == ["m7"]
    assert len(await ids(spool, which="waiting")) == PAGE + 19


async def test_an_empty_spool_has_no_page(spool: Spool) -> None:
    assert [page async for page in spool.pages()] == []
    assert await spool.counts() == Counts(0, 0, 0, 0, 0, 0, None, 0)


async def test_the_counts_add_up(spool: Spool, clock: Hands) -> None:
    await put(spool, "a", owner="x", in_doubt=True, recipients=2)
    clock.now += 100
    await put(spool, "b", held="disabled")
    await put(spool, "c", claimed_by="me", due=clock.now + 600, in_doubt=True)
    await put(spool, "d", kind="dsn", units=0)
    await spool.keep_charge("u", "z", 1, 1, 0)
    assert await spool.counts() == Counts(2, 1, 1, 2, 1, 1, 100.0, 4 * len(WIRE))
    assert await spool.counts("x") == Counts(1, 0, 0, 1, 0, 0, 100.0, len(WIRE))
    clock.now += 600
    assert (await spool.counts()).claimed == 0


async def test_a_held_entry_waits_for_a_person(spool: Spool, clock: Hands) -> None:
    entry = await put(spool, "a")
    assert await spool.hold("a", "operator")
    assert await spool.due(clock.now, 10) == []
    assert not await spool.retry("a")
    clock.now += 5
    assert await spool.unhold("a")
    assert not await spool.unhold("a")
    assert await spool.due(clock.now, 10) == [replace(entry, due=clock.now)]
    assert not await spool.hold("zz", "operator")


async def test_a_persons_hold_outweighs_the_relays(spool: Spool) -> None:
    await put(spool, "a")
    assert await spool.hold("a", "disabled")
    assert await spool.hold("a", "operator")
    assert await spool.hold("a", "route")
    assert await spool.unhold_user("u", "disabled") == []
    assert await ids(spool, which="held") == ["a"]
    await spool.hold("a", "corrupt")
    found = await spool.find("a")
    assert found is not None and found.held == "operator"


async def test_a_hold_of_meanwhile_stands_when_the_attempt_ends(spool: Spool, other: Spool, clock: Hands) -> None:
    entry = await put(spool, "a")
    await spool.claim(["a"], 60, clock.now + 600)
    assert await other.hold("a", "operator")
    await spool.finish("a", entry.standings, clock.now + 10)
    found = await other.find("a")
    assert found is not None and (found.held, found.claimed_by, found.due) == ("operator", "", clock.now + 10)


async def test_what_is_being_sent_is_not_removed_and_stays_due_when_it_is(spool: Spool, other: Spool, clock: Hands) -> None:
    entry = await put(spool, "a")
    await spool.claim(["a"], 60, clock.now + 600)
    assert await other.remove("a") == "claimed"
    assert await other.retry("a")
    assert await other.flush() == 0
    await other.hold("a", "operator")
    assert await other.unhold("a")
    found = await other.find("a")
    assert found is not None and found.due == clock.now + 600
    clock.now += 60
    assert await other.remove("a") == replace(entry, claimed_by="me", due=clock.now + 540)
    assert await other.remove("a") is None


async def test_an_owner_reaches_only_his_own(spool: Spool) -> None:
    await put(spool, "a", owner="x", due=spool.now() + 50)
    assert not await spool.hold("a", "operator", "y")
    assert not await spool.unhold("a", "y")
    assert not await spool.retry("a", "y")
    assert await spool.remove("a", "y") is None
    assert await spool.flush("y") == 0
    assert await spool.flush("x") == 1
    assert await spool.hold("a", "operator", "x")
    assert await spool.unhold("a", "x")
    assert await spool.retry("a", "x")
    assert await spool.remove("a", "x") is not None


async def test_a_flush_makes_all_due_that_waits(spool: Spool, clock: Hands) -> None:
    for number in range(5):
        await put(spool, f"m{number}", due=clock.now + 100)
    await spool.hold("m3", "operator")
    await put(spool, "doubted", due=clock.now + 100, in_doubt=True)
    assert await spool.flush() == 4
    assert len(await spool.due(clock.now, 10)) == 4
    assert await spool.flush() == 0


async def test_what_was_anothers_user_of_the_same_name_stays_held(spool: Spool, clock: Hands) -> None:
    await put(spool, "his", owner="o1", due=clock.now + 100)
    await put(spool, "hers", owner="o2", due=clock.now + 100)
    for id in ("his", "hers"):
        await spool.hold(id, "disabled")
    assert await spool.unhold_user("u", "disabled", "o2") == ["hers"]
    assert await ids(spool, which="held") == ["his"]


async def test_a_users_mail_can_be_put_off_without_the_others(spool: Spool, clock: Hands) -> None:
    for number in range(3):
        await put(spool, f"m{number}", user=f"u{number % 2}")
    await spool.postpone_user("u0", clock.now + 60)
    assert [entry.id for entry in await spool.due(clock.now, 10)] == ["m1"]


async def test_a_users_mail_goes_on_when_he_may_send_again(spool: Spool, clock: Hands) -> None:
    for number in range(4):
        await put(spool, f"m{number}", user=f"u{number % 2}", due=clock.now + 100)
        await spool.hold(f"m{number}", "disabled")
    await put(spool, "free", user="u0", due=clock.now + 100)
    assert await spool.held_users("disabled") == {"u0", "u1"}
    assert await spool.held_users("route") == set()
    assert await spool.unhold_user("u0", "disabled") == ["m0", "m2"]
    assert [entry.id for entry in await spool.due(clock.now, 10)] == ["m0", "m2"]
    assert await spool.held_users("disabled") == {"u1"}
