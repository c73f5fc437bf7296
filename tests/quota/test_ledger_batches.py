"""What is asked of one book at once is carried out as if it were asked one after the other; against the same model, in the same histories.

RELAY_EXAMPLES=3000 makes a long run.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from relay.quota.ledger import Hold, Ledger, Refusal, Settlement, key
from relay.quota.limit import Rules
from relay.quota.post import MOST
from relay.store.client import Store, StoreUnavailable
from tests.quota.book import SECOND
from tests.quota.side import PICK, STEPS, UNITS, USERS, Side
from tests.quota.test_ledger_machine import LedgerMachine
from tests.store.proxy import Proxy

Answer = Hold | Refusal | Settlement
Asked = tuple[Callable[[], Awaitable[Answer]], Callable[[Any], None]]
"""A call, and what its answer must stand."""
KINDS = st.sampled_from(["reserve", "reserve", "again", "stale", "settle", "settle", "settle", "reject", "release", "replay", "stranger"])


class BatchMachine(LedgerMachine):
    """The machine, with many operations at once among its rules."""

    @rule(user=USERS, asked=st.lists(st.tuples(KINDS, PICK, UNITS), min_size=2, max_size=9), step=STEPS)
    def many_things_are_asked_at_once(self, user: int, asked: list[tuple[str, int, int]], step: int) -> None:
        side = self._side(user)
        self._go(side, side.raw + step)
        # Whoever is first leaves alone; all the others share the next call.
        operations = [self._settling(side, "stranger", 1, 1, 0)]
        operations += [operation for kind, pick, units in asked if (operation := self._operation(side, kind, pick, units)) is not None]
        for answer, (_, check) in zip(self.do(_together([call for call, _ in operations])), operations, strict=True):
            check(answer)

    def _operation(self, side: Side, kind: str, pick: int, units: int) -> Asked | None:
        if kind == "reserve":
            return self._reserving(side, self._new_id(side, units), units, side.book.generation)
        if kind == "stale":
            return self._reserving(side, self._new_id(side, units), units, side.book.generation - 1)
        if kind == "stranger":
            return self._settling(side, "stranger", units, units, 0)
        ids = side.settled if kind == "replay" else side.known
        if not ids:
            return None
        id = list(ids)[-1 - pick % min(len(ids), 8)]
        units = ids[id]
        lapsed = side.book.lapsed.get(id)
        if lapsed is not None and lapsed.lapsed + self.counting.keep_lapsed * SECOND <= max(side.raw, side.book.last):
            return None  # it may be pruned by now, or not
        if kind == "again":
            return self._reserving(side, id, units, side.book.generation)
        accepted = {"settle": units, "replay": units, "reject": pick % units, "release": 0}[kind]
        return self._settling(side, id, units, accepted, units - accepted if kind == "reject" else 0)

    def _reserving(self, side: Side, id: str, units: int, generation: int) -> Asked:
        expected = side.book.reserve(side.raw, id, units, generation, int(self.counting.lease * SECOND))

        def check(answer: Any) -> None:
            if expected.reason == "ok":
                assert isinstance(answer, Hold) and answer[:4] == (side.name, id, units, generation)
            else:
                assert isinstance(answer, Refusal), (answer, expected)
                self._compare(side, answer, expected)

        return lambda: self.ledger.reserve(side.name, id, units, generation), check

    def _settling(self, side: Side, id: str, units: int, accepted: int, rejected: int) -> Asked:
        book = side.book
        outcome, is_overdraft = book.settle(side.raw, id, accepted, rejected)
        at, sums, commit = book.last, (book.sent(), book.ever()), book.taken[-1:]
        if id in side.known:
            side.settled[id] = side.known.pop(id)

        def check(answer: Any) -> None:
            assert (answer.outcome, answer.is_overdraft) == (outcome, is_overdraft)
            if outcome == "gone":
                return
            assert (answer.at, answer.window, answer.taken) == (at, *sums)
            if accepted and outcome in ("ok", "late"):
                side.heard.append((answer.at, commit[0]))
                self._check_promise(side)

        return lambda: self.ledger.settle(side.name, id, units, accepted, rejected), check


async def _together(calls: list[Callable[[], Awaitable[Answer]]]) -> list[Answer]:
    return list(await asyncio.gather(*[call() for call in calls]))


def test_what_is_asked_at_once_is_answered_as_if_it_were_asked_one_by_one(url: str) -> None:
    class Machine(BatchMachine):
        pass

    Machine.url = url
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=int(os.environ.get("RELAY_EXAMPLES", "150")), stateful_step_count=30, deadline=None, database=None,
            suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink], print_blob=False,
        ),
    )  # fmt: skip


async def test_operations_of_one_user_share_calls_which_carry_so_many_at_most(store: Store) -> None:
    await store.command("HSET", key("ada"), "status", "E", "ostatus", "E", "gen", 1, "hourly", 5000, "total", "")
    ledger, count = Ledger(store, Rules()), 2 * MOST + 44
    await ledger.settle("ada", "none", 1, 0)  # the script is known from here on
    await store.command("CONFIG", "RESETSTAT")
    holds = await asyncio.gather(*(ledger.reserve("ada", str(number), 1, 1) for number in range(count)))
    assert all(isinstance(hold, Hold) for hold in holds) and await _calls(store) == 4
    settled = await asyncio.gather(*(ledger.settle("ada", str(number), 1, 1) for number in range(count)))
    assert [settlement.taken for settlement in settled] == list(range(1, count + 1)) and await _calls(store) == 8
    audit = await ledger.audit("ada")
    assert audit is not None and audit.differences == () and audit.records == count


async def test_where_the_store_does_not_answer_those_that_wait_fail_with_those_on_their_way(store: Store, place: Path) -> None:
    await store.command("HSET", key("ada"), "status", "E", "ostatus", "E", "gen", 1, "hourly", 10, "total", "")
    proxy = Proxy(str(place / "data" / "store.sock"))
    client = Store(await proxy.start(), timeout=0.5)
    ledger = Ledger(client, Rules())
    try:
        await ledger.settle("ada", "none", 1, 0)
        proxy.mode = "withhold"
        began = time.monotonic()
        calls = [ledger.reserve("ada", str(number), 1, 1) for number in range(5)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, StoreUnavailable) for answer in answers)
        assert time.monotonic() - began < 2 * 0.5 * 5  # and not one after the other
        proxy.mode = "pass"
        assert await ledger.open_holds("ada") == {}
    finally:
        proxy.mode = "pass"
        await client.close()
        await proxy.stop()


async def test_a_caller_that_gives_up_does_not_disturb_the_others(store: Store) -> None:
    await store.command("HSET", key("ada"), "status", "E", "ostatus", "E", "gen", 1, "hourly", 10, "total", "")
    ledger = Ledger(store, Rules())
    calls = [ledger.reserve("ada", str(number), 1, 1) for number in range(4)]
    calls[0].cancel()
    calls[2].cancel()
    assert [hold.id for hold in (await calls[1], await calls[3]) if isinstance(hold, Hold)] == ["1", "3"]
    assert sorted(await ledger.open_holds("ada")) == ["0:1", "1:1", "2:1", "3:1"]  # they were asked for all the same


async def _calls(store: Store) -> int:
    """How many scripts were run."""
    text = (await store.command("INFO", "commandstats")).decode()
    return sum(int(line.partition("calls=")[2].partition(",")[0]) for line in text.splitlines() if line.startswith("cmdstat_eval"))
