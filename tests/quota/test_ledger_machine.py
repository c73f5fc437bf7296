"""The ledger against a model of it: random histories of reserves, settles, replays, lapses, clock steps and edits.

The model (tests/quota/book.py) is written from the design. After each call its answer is the only one accepted, and after each step
the book in the store is read raw (no script, no side effect) and compared; the ledger's own recount must find nothing then either,
with all records kept, some or none. RELAY_EXAMPLES=3000 makes a long run.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from relay.quota.ledger import Hold, Ledger, Refusal, Settlement, key
from relay.quota.limit import Rules
from relay.store.client import Script, Store
from tests.quota.audit import examine
from tests.quota.book import SECOND, Book, Expected
from tests.quota.side import LIMITS, PICK, STEPS, TOTALS, UNITS, USERS, Side

T = TypeVar("T")
START = 1_800_000_000 * SECOND + 123_457
CLOCK = "local function clock() return tonumber(redis.call('GET', KEYS[1] .. ':clock')) end\n"
PARTS = ("", ":log", ":rlog", ":open", ":lapsed", ":settles")
CLONE = Script.of(
    "for _, p in ipairs({'', ':log', ':rlog', ':open', ':lapsed', ':settles'}) do redis.call('COPY', KEYS[1] .. p, ARGV[1] .. p) end"
)

_names = itertools.count()


class LedgerMachine(RuleBasedStateMachine):
    """Two users' books and their models."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = self.do(_open(self.url))
        self.sides: list[Side] = []
        self.touched: set[int] = set()

    def do(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    def ask(self, call: Callable[..., Awaitable[T]], *given: Any) -> T:
        """Make a call where a loop runs."""

        async def asked() -> T:
            return await call(*given)

        return self.do(asked())

    def teardown(self) -> None:
        self.do(self.store.close())
        self.loop.close()

    @initialize(
        resolution=st.sampled_from([1, 1, 2, 3]), limits=st.lists(st.tuples(LIMITS, TOTALS), min_size=2, max_size=2),
        minimum=st.integers(2, 6), records=st.sampled_from([1000, 4, 1, 0]),
    )  # fmt: skip
    def begin(self, resolution: int, limits: list[tuple[int | None, int | None]], minimum: int, records: int) -> None:
        self.counting = Rules(
            window=10, resolution=resolution, lease=4.0, keep_lapsed=60.0,
            rejected_factor=1.5, rejected_minimum=minimum, rejected_unlimited=6, records=records,
        )  # fmt: skip
        self.ledger = Ledger(self.store, self.counting, CLOCK)
        example = next(_names)
        for number, (hourly, total) in enumerate(limits):
            side = Side(f"m{example}.{number}", Book(self.counting, hourly, total), START)
            self.sides.append(side)
            self._create(side)

    def _create(self, side: Side) -> None:
        book = side.book
        fields: list[str | int] = ["status", "E", "ostatus", "E", "gen", 1, "hourly", _limit(book.hourly), "total", _limit(book.total)]
        self.do(self.store.many([("HSET", key(side.name), *fields), ("SET", f"{key(side.name)}:clock", side.raw)]))

    def _side(self, number: int) -> Side:
        self.touched.add(number)
        return self.sides[number]

    def _set(self, side: Side, *fields: str | int) -> None:
        if side.book.exists:
            self.do(self._hset(side, fields))

    async def _hset(self, side: Side, fields: tuple[str | int, ...]) -> None:
        await self.store.command("HSET", key(side.name), *fields)

    # -- time

    @rule(user=USERS, step=STEPS)
    def time_passes(self, user: int, step: int) -> None:
        self._go(self._side(user), self.sides[user].raw + step)

    @rule(user=USERS, step=st.sampled_from([1, SECOND, 5 * SECOND, 15 * SECOND]))
    def the_clock_is_set_back(self, user: int, step: int) -> None:
        self._go(self._side(user), self.sides[user].raw - step)

    @rule(user=USERS, early=st.sampled_from([0, 0, 1, SECOND]))
    @precondition(lambda self: any(side.promised for side in self.sides))
    def the_instant_a_refusal_named_comes(self, user: int, early: int) -> None:
        side = self._side(user)
        if side.promised > side.raw:
            self._go(side, side.promised - early)

    def _go(self, side: Side, raw: int) -> None:
        side.raw = raw
        self.do(self._set_clock(side.name, raw))

    async def _set_clock(self, name: str, raw: int) -> None:
        await self.store.command("SET", f"{key(name)}:clock", raw)

    # -- reserve

    @rule(user=USERS, units=UNITS)
    def a_message_is_reserved(self, user: int, units: int) -> None:
        side = self._side(user)
        self._reserve(side, self._new_id(side, units), units)

    @rule(user=USERS, units=UNITS, count=st.integers(2, 6), step=STEPS)
    def many_messages_are_sent(self, user: int, units: int, count: int, step: int) -> None:
        side = self._side(user)
        for _ in range(count):
            id = self._new_id(side, units)
            self._reserve(side, id, units, is_probed=False)
            self._settle(side, id, units, units, 0)
            self._go(side, side.raw + min(step, 2 * SECOND))

    @rule(user=USERS, units=UNITS, count=st.integers(1, 3))
    def the_smarthost_rejects_some(self, user: int, units: int, count: int) -> None:
        side = self._side(user)
        for _ in range(count):
            id = self._new_id(side, units)
            self._reserve(side, id, units, is_probed=False)
            self._settle(side, id, units, 0, units)

    @rule(user=USERS, pick=PICK)
    def a_message_is_reserved_again(self, user: int, pick: int) -> None:
        side = self._side(user)
        if side.known:
            id = _choose(side.known, pick)
            self._reserve(side, id, side.known[id])

    @rule(user=USERS, units=UNITS)
    def a_session_has_an_old_password(self, user: int, units: int) -> None:
        side = self._side(user)
        self._reserve(side, self._new_id(side, units), units, generation=side.book.generation - 1)

    @rule(user=USERS, units=UNITS, step=STEPS, repeats=st.booleans())
    def the_reply_to_a_reserve_is_lost(self, user: int, units: int, step: int, repeats: bool) -> None:
        side = self._side(user)
        id = self._new_id(side, units)
        self._reserve(side, id, units)
        self._go(side, side.raw + step)
        if repeats:
            self._reserve(side, id, units)
        else:
            self._settle(side, id, units, 0, 0)

    def _new_id(self, side: Side, units: int) -> str:
        id = f"i{len(side.known) + len(side.settled)}"
        side.known[id] = units
        return id

    def _reserve(self, side: Side, id: str, units: int, generation: int | None = None, is_probed: bool = True) -> None:
        generation = side.book.generation if generation is None else generation
        expected = side.book.reserve(side.raw, id, units, generation, int(self.counting.lease * SECOND))
        before = time.monotonic()
        answer = self.ask(self.ledger.reserve, side.name, id, units, generation)
        if isinstance(answer, Hold):
            assert expected.reason == "ok", expected
            assert (answer.user, answer.id, answer.units, answer.generation) == (side.name, id, units, generation)
            assert before + self.counting.lease <= answer.expires <= time.monotonic() + self.counting.lease
            return
        self._compare(side, answer, expected)
        if expected.instant:
            side.promised = answer.at * SECOND if answer.at else 0
            if is_probed and expected.reason in ("hourly", "rejected"):
                self._probe(side, units, generation, expected)

    def _compare(self, side: Side, answer: Refusal, expected: Expected) -> None:
        assert answer.reason == expected.reason, expected
        if expected.used is not None:
            assert (answer.used, answer.limit) == (expected.used, expected.limit)
        if expected.instant:
            assert answer.retry_after == max(0, -(-(expected.instant - side.raw) // SECOND))
            assert answer.at == -(-expected.instant // SECOND)
        else:
            assert answer.retry_after is answer.at is None

    def _probe(self, side: Side, units: int, generation: int, expected: Expected) -> None:
        """See on a copy of the book that the instant named is the first at which the same reserve succeeds."""
        copy, instant = f"{side.name}~", expected.instant
        self.do(self.store.many([("DEL", *(key(copy) + part for part in PARTS)), ("SET", f"{key(copy)}:clock", side.raw)]))
        self.ask(self.store.run, CLONE, key(side.name), key(copy))
        if side.book.open:
            # An upper bound: all in flight are taken now, and at the instant there is room.
            for id, hold in side.book.open.items():
                assert self.ask(self.ledger.settle, copy, id, hold.units, hold.units).outcome == "ok"
        else:
            self.do(self._set_clock(copy, instant - 1))
            early = self.ask(self.ledger.reserve, copy, "probe", units, generation)
            assert isinstance(early, Refusal) and early.at == instant // SECOND and early.retry_after == (1 if side.raw < instant else 0)
        self.do(self._set_clock(copy, instant))
        due = self.ask(self.ledger.reserve, copy, "probe", units, generation)
        # What is in flight may exhaust the total limit, and then it is never.
        assert isinstance(due, Hold) or (due.reason == "total" and side.book.open), due

    # -- settle

    @rule(user=USERS, pick=PICK, accepted=st.sampled_from([4, 4, 4, 0, 1, 2]), rejected=st.sampled_from([0, 0, 1, 4]))
    def a_message_is_settled(self, user: int, pick: int, accepted: int, rejected: int) -> None:
        side = self._side(user)
        if side.known:
            id = _choose(side.known, pick)
            units = side.known[id]
            accepted = min(accepted, units)
            self._settle(side, id, units, accepted, min(rejected, units - accepted))

    @rule(user=USERS, pick=PICK, step=STEPS)
    def the_reply_to_a_settle_is_lost(self, user: int, pick: int, step: int) -> None:
        side = self._side(user)
        if side.known:
            id = _choose(side.known, pick)
            units = side.known[id]
            self._settle(side, id, units, units, 0)
            self._go(side, side.raw + step)
            self._settle(side, id, units, units, 0)

    @rule(user=USERS, pick=PICK, accepted=st.integers(0, 4))
    def a_settle_is_replayed(self, user: int, pick: int, accepted: int) -> None:
        side = self._side(user)
        if side.settled:
            id = _choose(side.settled, pick)
            self._settle(side, id, side.settled[id], min(accepted, side.settled[id]), 0)

    @rule(user=USERS, units=UNITS)
    def an_unknown_id_is_settled(self, user: int, units: int) -> None:
        self._settle(self._side(user), "stranger", units, units, 0)

    def _settle(self, side: Side, id: str, units: int, accepted: int, rejected: int) -> None:
        book = side.book
        hold = book.open.get(id) or book.lapsed.get(id)
        at = max(side.raw, book.last)
        if hold is not None and id in book.lapsed and hold.lapsed + self.counting.keep_lapsed * SECOND <= at:
            answer = self.ask(self.ledger.settle, side.name, id, units, accepted, rejected)
            if answer.outcome == "done":  # pruned, as it may be by now
                del book.lapsed[id]
            expected = book.settle(side.raw, id, accepted, rejected)
        else:
            expected = book.settle(side.raw, id, accepted, rejected)
            answer = self.ask(self.ledger.settle, side.name, id, units, accepted, rejected)
        self._check_settlement(side, answer, expected, accepted)
        if id in side.known:
            side.settled[id] = side.known.pop(id)

    def _check_settlement(self, side: Side, answer: Settlement, expected: tuple[str, bool], accepted: int) -> None:
        book = side.book
        assert (answer.outcome, answer.is_overdraft) == expected
        if answer.outcome == "gone":
            return
        assert answer.at == book.last
        assert (answer.window, answer.taken) == (book.sent(), book.ever())
        if accepted and answer.outcome in ("ok", "late"):
            side.heard.append((answer.at, book.taken[-1]))
            self._check_promise(side)

    def _check_promise(self, side: Side) -> None:
        """No window that ends with the latest commit holds more than a limit under which its units were let in, overdrafts apart."""
        latest = side.heard[-1][0]
        assert all(a <= b for (a, _), (b, _) in itertools.pairwise(side.heard))
        inside = [commit for at, commit in side.heard if at >= latest - self.counting.window * SECOND and not commit.is_late]
        if inside and all(commit.admitted is not None for commit in inside):
            assert sum(commit.units for commit in inside) <= max(commit.admitted or 0 for commit in inside)
        ever = [commit for _, commit in side.heard if not commit.is_late]
        if ever and all(commit.admitted_total is not None for commit in ever):
            assert sum(commit.units for commit in ever) <= max(commit.admitted_total or 0 for commit in ever)

    # -- edits

    @rule(user=USERS, hourly=LIMITS)
    def the_hourly_limit_is_edited(self, user: int, hourly: int | None) -> None:
        side = self._side(user)
        side.book.hourly = hourly
        self._set(side, "hourly", _limit(hourly))

    @rule(user=USERS, total=TOTALS)
    def the_total_limit_is_edited(self, user: int, total: int | None) -> None:
        side = self._side(user)
        side.book.total = total
        self._set(side, "total", _limit(total))

    @rule(user=USERS, of_owner=st.booleans(), is_enabled=st.sampled_from([True, True, False]))
    def the_status_is_edited(self, user: int, of_owner: bool, is_enabled: bool) -> None:
        side = self._side(user)
        if of_owner:
            side.book.owner_enabled = is_enabled
        else:
            side.book.enabled = is_enabled
        self._set(side, "ostatus" if of_owner else "status", "E" if is_enabled else "D")

    @rule(user=USERS, hourly=LIMITS, total=TOTALS)
    def the_account_is_put_right(self, user: int, hourly: int | None, total: int | None) -> None:
        side = self._side(user)
        side.book.enabled = side.book.owner_enabled = True
        side.book.hourly, side.book.total = hourly, None if total is None else total + side.book.ever()
        self._set(side, "status", "E", "ostatus", "E", "hourly", _limit(hourly), "total", _limit(side.book.total))

    @rule(user=USERS)
    def the_password_is_reset(self, user: int) -> None:
        side = self._side(user)
        side.book.generation += 1
        self._set(side, "gen", side.book.generation)

    @rule(user=USERS, pick=PICK)
    def the_user_is_deleted_and_later_created_anew(self, user: int, pick: int) -> None:
        if pick % 10 == 7 and self.sides[user].book.exists:  # seldom
            side = self._side(user)
            self.do(self.store.many([("DEL", *(key(side.name) + part for part in PARTS))]))
            side.book = Book(self.counting, side.book.hourly, side.book.total, exists=False)
            side.heard.clear()
        elif not self.sides[user].book.exists:
            side = self._side(user)
            side.book = Book(self.counting, side.book.hourly, side.book.total)
            # What was in flight belonged to another: its ids mean nothing to the new book.
            self._create(side)

    # -- what the book says

    @rule(user=USERS)
    def usage_is_asked(self, user: int) -> None:
        side = self._side(user)
        book, usage = side.book, self.do(self.ledger.usage(side.name))
        if not book.exists:
            assert usage is None
            return
        book.tick(side.raw)
        assert usage is not None
        assert (usage.hourly_limit, usage.total_limit) == (book.hourly, book.total)
        assert (usage.window, usage.in_flight, usage.taken, usage.rejected) == (book.sent(), book.held(), book.ever(), book.bounced())
        assert usage.retry_after == book.wait_for_one(side.raw)

    @rule(user=USERS)
    def open_holds_are_asked(self, user: int) -> None:
        side = self._side(user)
        holds = self.do(self.ledger.open_holds(side.name))
        if side.book.exists:
            side.book.tick(side.raw)
        assert holds == {f"{id}:{hold.units}": hold.ends for id, hold in side.book.open.items()}

    @invariant()
    def the_books_agree(self) -> None:
        for number in sorted(self.touched):
            side = self.sides[number]
            self.do(examine(self.store, self.ledger, side.name, side.book, side.raw))
        self.touched.clear()


def _choose(ids: dict[str, int], pick: int) -> str:
    """One of the latest ids rather than one of the oldest."""
    return list(ids)[-1 - pick % min(len(ids), 8)]


def _limit(value: int | None) -> str | int:
    return "" if value is None else value


async def _open(url: str) -> Store:
    return Store(url)


def test_every_history_ends_as_the_model_says(url: str) -> None:
    class Machine(LedgerMachine):
        pass

    Machine.url = url
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=int(os.environ.get("RELAY_EXAMPLES", "200")), stateful_step_count=40, deadline=None, database=None,
            suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink], print_blob=False,
        ),
    )  # fmt: skip
