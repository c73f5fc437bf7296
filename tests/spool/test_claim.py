"""Who works on an entry, for how long, and what becomes of it when he dies."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from relay.spool.spool import Spool
from tests.spool.making import Hands, an_entry, as_all, ids, put


async def test_the_longest_due_comes_first(spool: Spool, clock: Hands) -> None:
    for id, wait in (("late", 50), ("now", 0), ("soon", 10), ("never", 1000)):
        await put(spool, id, due=clock.now + wait)
    assert [entry.id for entry in await spool.due(clock.now + 100, 10)] == ["now", "soon", "late"]
    assert [entry.id for entry in await spool.due(clock.now + 100, 2)] == ["now", "soon"]
    assert await spool.due(clock.now - 1, 10) == []


async def test_only_one_process_gets_an_entry(spool: Spool, other: Spool, clock: Hands) -> None:
    names = [f"m{number}" for number in range(50)]
    await asyncio.gather(*(put(spool, name) for name in names))
    claims = await asyncio.gather(*(door.claim([name], 60, clock.now + 600) for name in names for door in (spool, other)))
    assert sorted(entry.id for claimed in claims for entry in claimed) == sorted(names)


async def test_a_claim_returns_entries_as_they_are_now(spool: Spool, clock: Hands) -> None:
    entry = await put(spool, "a")
    assert await spool.claim(["zz", "a", "a"], 60, clock.now + 600) == [replace(entry, claimed_by="me", due=clock.now + 600)]
    assert await spool.find("a") == replace(entry, claimed_by="me", due=clock.now + 600)
    assert await spool.due(clock.now + 601, 10) == []


async def test_the_held_and_the_unsettled_are_not_claimed(spool: Spool, clock: Hands) -> None:
    await put(spool, "held", held="operator")
    await put(spool, "unsettled", is_settled=False)
    await put(spool, "report", is_settled=False, units=0, kind="dsn")
    assert [entry.id for entry in await spool.due(clock.now, 10)] == ["unsettled", "report"]
    claimed = await spool.claim(["held", "unsettled", "report"], 60, clock.now + 600)
    assert [entry.id for entry in claimed] == ["report"]


async def test_a_lapsed_claim_counts_as_none(spool: Spool, other: Spool, clock: Hands) -> None:
    await put(spool, "a")
    await spool.claim(["a"], 60, clock.now + 30)
    clock.now += 59
    assert await other.due(clock.now, 10) == []
    assert await other.claim(["a"], 60, clock.now) == []
    clock.now += 1
    assert [entry.id for entry in await other.due(clock.now, 10)] == ["a"]
    assert len(await other.claim(["a"], 60, clock.now + 600)) == 1
    assert not await spool.renew("a", 60)
    assert await other.renew("a", 60)


async def test_a_renewed_claim_lasts(spool: Spool, other: Spool, clock: Hands) -> None:
    await put(spool, "a")
    await spool.claim(["a"], 60, clock.now)
    clock.now += 50
    assert await spool.renew("a", 60)
    clock.now += 50
    assert await other.claim(["a"], 60, clock.now) == []
    assert not await spool.renew("gone", 60)


async def test_a_released_entry_is_free(spool: Spool, other: Spool, clock: Hands) -> None:
    await put(spool, "a")
    await spool.claim(["a"], 60, clock.now + 600)
    await other.release("a", clock.now)
    assert await other.due(clock.now + 1000, 10) == []
    await spool.release("a", clock.now + 5)
    assert [entry.due for entry in await other.due(clock.now + 5, 10)] == [clock.now + 5]


async def test_the_claim_of_a_put_lasts_until_the_entry_is_due(spool: Spool, other: Spool, clock: Hands) -> None:
    await put(spool, "a", claimed_by="me", due=clock.now + 600)
    clock.now += 599
    assert await other.due(clock.now + 10, 10) == []
    clock.now += 1
    assert len(await other.due(clock.now, 10)) == 1


async def test_the_claims_of_a_dead_process_are_dropped(spool: Spool, other: Spool, clock: Hands) -> None:
    await put(spool, "a")
    doubted = await put(spool, "b", in_doubt=True)
    await put(other, "c", claimed_by="other", due=clock.now + 600)
    await spool.claim(["b"], 60, clock.now + 600)
    assert await other.claimants() == {"me", "other"}
    assert await other.release_claims("me") == [replace(doubted, due=clock.now + 600)]
    assert await other.release_claims("") == []
    assert await other.claimants() == {"other"}
    assert [entry.id for entry in await other.due(clock.now + 600, 10)] == ["a", "b"]


async def test_closing_drops_the_claims_and_keeps_what_is_due(spool: Spool, other: Spool, clock: Hands) -> None:
    await put(spool, "a")
    await spool.claim(["a"], 60, clock.now + 600)
    await spool.close()
    assert await other.claimants() == set()
    found = await other.find("a")
    assert found is not None and found.due == clock.now + 600


async def test_who_comes_too_late_takes_nothing_back(spool: Spool, other: Spool, clock: Hands) -> None:
    entry = await put(spool, "a", recipients=3)
    await spool.claim(["a"], 60, clock.now)
    clock.now += 61
    await other.claim(["a"], 60, clock.now + 600)
    first, second, third = entry.standings
    done, failed = replace(first, state="delivered"), replace(second, state="failed")
    assert await spool.finish("a", [done, second, third], clock.now + 5)
    assert await spool.finish("a", [first, failed, third], clock.now + 5)
    found = await other.find("a")
    assert found is not None
    assert (found.standings, found.claimed_by, found.due) == ((done, failed, third), "other", clock.now + 600)
    assert await other.finish("a", as_all(entry, "delivered"), None)
    assert not await spool.finish("a", as_all(entry, "delivered"), None)


async def test_the_oldest_with_something_to_wait_for_expire_first(spool: Spool, clock: Hands) -> None:
    for number in range(3):
        await put(spool, f"m{number}")
        clock.now += 10
    await put(spool, "held", held="operator")
    failed = await put(spool, "failed")
    await spool.finish("failed", as_all(failed, "failed"), clock.now)
    await spool.claim(["m1"], 60, clock.now)
    assert [entry.id for entry in await spool.expiring(clock.now - 10, 10)] == ["m0", "m2"]
    assert [entry.id for entry in await spool.expiring(clock.now - 30, 10)] == ["m0"]
    assert [entry.id for entry in await spool.expiring(clock.now, 10)] == ["m0", "m2"]


async def test_a_report_written_with_a_claim_is_its_own(spool: Spool, clock: Hands) -> None:
    entry = await put(spool, "a")
    await spool.finish("a", as_all(entry, "reported"), None, [(an_entry("d", clock.now, kind="dsn", units=0), b"", b"x")])
    assert [entry.id for entry in await spool.claim(["a", "d"], 60, clock.now)] == ["d"]
    assert await ids(spool) == ["d"]
