"""Histories that once broke a rule of the ledger, and would be found by chance only."""

from __future__ import annotations

import pytest

from relay.quota.ledger import Hold, Ledger, Refusal, key
from relay.quota.limit import Rules
from relay.store.client import Store, StoreRefused

CLOCK = "local function clock() return tonumber(redis.call('GET', KEYS[1] .. ':clock')) end\n"
START = 1_800_000_000
RULES = Rules(window=10, lease=4.0, rejected_minimum=2)


async def user_at(store: Store, second: int, hourly: int | str) -> Ledger:
    """A user and its clock."""
    await store.command("HSET", key("ada"), "status", "E", "ostatus", "E", "gen", 1, "hourly", hourly, "total", "")
    await clock(store, second)
    return Ledger(store, RULES, CLOCK)


async def clock(store: Store, second: int) -> None:
    await store.command("SET", f"{key('ada')}:clock", (START + second) * 1_000_000)


async def send(ledger: Ledger, id: str, accepted: int, rejected: int) -> None:
    assert isinstance(await ledger.reserve("ada", id, 1, 1), Hold)
    assert (await ledger.settle("ada", id, 1, accepted, rejected)).outcome == "ok"


async def test_the_instant_is_that_of_the_limit_that_stays_full_longer(store: Store) -> None:
    ledger = await user_at(store, 0, 1)
    await send(ledger, "r1", 0, 1)
    await clock(store, 3)
    await send(ledger, "r2", 0, 1)
    await store.command("HSET", key("ada"), "hourly", 2)
    await clock(store, 5)
    await send(ledger, "s1", 1, 0)
    await send(ledger, "s2", 1, 0)
    await store.command("HSET", key("ada"), "hourly", 1)
    # One send fits when both have left, at 16; one rejection when the first has, at 11.
    answer = await ledger.reserve("ada", "x", 1, 1)
    assert isinstance(answer, Refusal)
    assert (answer.reason, answer.retry_after, answer.at) == ("hourly", 11, START + 16)


async def test_the_instant_waits_for_the_rejected_where_they_leave_last(store: Store) -> None:
    ledger = await user_at(store, 0, 1)
    await send(ledger, "s1", 1, 0)
    await store.command("HSET", key("ada"), "hourly", 2)
    await clock(store, 4)
    for id in ("r1", "r2", "r3", "r4"):
        await send(ledger, id, 0, 1)
    await store.command("HSET", key("ada"), "hourly", 1)
    answer = await ledger.reserve("ada", "x", 1, 1)
    assert isinstance(answer, Refusal)
    assert (answer.reason, answer.at) == ("hourly", START + 15)  # at 11 there is room for the send, but not yet for its rejection
    await clock(store, 11)
    refused = await ledger.reserve("ada", "x", 1, 1)
    assert isinstance(refused, Refusal) and (refused.reason, refused.at) == ("rejected", START + 15)
    await clock(store, 15)
    assert isinstance(await ledger.reserve("ada", "x", 1, 1), Hold)


async def test_a_user_whose_hourly_limit_is_nothing_waits_for_ever(store: Store) -> None:
    ledger = await user_at(store, 0, 0)
    usage = await ledger.usage("ada")
    assert usage is not None and usage.retry_after is None
    answer = await ledger.reserve("ada", "x", 1, 1)
    assert isinstance(answer, Refusal) and (answer.reason, answer.retry_after) == ("never", None)


ADA = key("ada")
DAMAGES = {
    "the log is no log": (("SET", f"{ADA}:log", "x"), ("DEL", f"{ADA}:log")),
    "the log of the rejected is no log": (("SET", f"{ADA}:rlog", "x"), ("DEL", f"{ADA}:rlog")),
    "the counters are none": (("HSET", ADA, "taken", "x"), ()),
}


@pytest.mark.parametrize("is_late", [False, True], ids=["in time", "late"])
@pytest.mark.parametrize("name", DAMAGES)
async def test_a_settle_that_fails_on_a_damaged_book_counts_once_when_it_is_mended(store: Store, name: str, is_late: bool) -> None:
    damage, mend = DAMAGES[name]
    ledger = await user_at(store, 0, 10)
    assert isinstance(await ledger.reserve("ada", "x", 3, 1), Hold)
    counters = await store.command("HGET", ADA, "taken")
    await store.command(*damage)
    if is_late:
        await clock(store, 5)
    for _ in range(2):
        with pytest.raises(StoreRefused):
            await ledger.settle("ada", "x", 3, 2, 1)
        with pytest.raises(StoreRefused):
            await ledger.settle("ada", "x", 3, 2, 1)
    await store.command(*(mend or ("HSET", ADA, "taken", counters)))
    settlement = await ledger.settle("ada", "x", 3, 2, 1)
    assert (settlement.outcome in ("ok", "late"), settlement.taken) == (True, 2)
    usage = await ledger.usage("ada")
    assert usage is not None
    assert (usage.taken, usage.window, usage.rejected, usage.in_flight) == (2, 2, 1, 0)
    assert (await ledger.settle("ada", "x", 3, 2, 1)).outcome == "done"


@pytest.mark.parametrize("name", ["the log is no log", "the log of the rejected is no log"])
async def test_a_reserve_that_fails_on_a_damaged_book_leaves_what_was_held(store: Store, name: str) -> None:
    damage, mend = DAMAGES[name]
    ledger = await user_at(store, 0, 3)
    await send(ledger, "s", 1, 1)
    assert isinstance(await ledger.reserve("ada", "x", 2, 1), Hold)
    saved = await store.command("DUMP", damage[1])
    await store.command("DEL", damage[1])
    await store.command(*damage)
    await clock(store, 12)  # what was sent would leave the window, and the hold has lapsed
    with pytest.raises(StoreRefused):
        await ledger.reserve("ada", "y", 3, 1)
    await store.command(*mend)
    await store.command("RESTORE", damage[1], 0, saved)
    assert (await ledger.settle("ada", "x", 2, 2)).outcome == "late"
    audit = await ledger.audit("ada")
    assert audit is not None and not audit.differences


@pytest.mark.parametrize("second", [6, 10], ids=["renewed", "lapsed"])
async def test_a_reserve_that_fails_on_damaged_holds_leaves_the_others(store: Store, second: int) -> None:
    ledger = await user_at(store, 0, 10)
    assert isinstance(await ledger.reserve("ada", "w", 1, 1), Hold)
    await clock(store, 5)
    assert isinstance(await ledger.reserve("ada", "x", 2, 1), Hold)
    saved = await store.command("DUMP", f"{ADA}:lapsed")
    await store.command("SET", f"{ADA}:lapsed", "x")
    await clock(store, second)
    for _ in range(2):
        with pytest.raises(StoreRefused):
            await ledger.reserve("ada", "x", 2, 1)
    await store.command("RESTORE", f"{ADA}:lapsed", 0, saved, "REPLACE")
    audit = await ledger.audit("ada")
    assert audit is not None and not audit.differences
    assert (await ledger.settle("ada", "x", 2, 2)).outcome == ("ok" if second < 9 else "late")
    assert (await ledger.settle("ada", "w", 1, 1)).outcome == "late"


async def test_a_settle_is_one_whatever_stands_for_the_generation(store: Store) -> None:
    ledger = await user_at(store, 0, 10)
    assert isinstance(await ledger.reserve("ada", "s1", 1, 1), Hold)
    await store.command("HSET", key("ada"), "gen", "")
    settled = await ledger.settle("ada", "s1", 1, 1)
    assert (settled.outcome, settled.taken) == ("ok", 1)
    usage = await ledger.usage("ada")
    assert usage is not None and (usage.taken, usage.in_flight) == (1, 0)
