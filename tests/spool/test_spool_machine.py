"""The spool against a dictionary: any history of calls by two processes, with time passing and doors reopened, leaves the same entries."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relay.spool.entry import SETTLED, Entry, Hold, State
from relay.spool.pile import Pile
from relay.spool.spool import Spool
from tests.spool.making import Hands, an_entry

T = TypeVar("T")
DOORS = ("me", "other")
doors = st.sampled_from(DOORS)
places = st.sampled_from([None, "r1", "r2"])
waits = st.sampled_from([0.0, 1.0, 10.0, 60.0])
states: st.SearchStrategy[State] = st.sampled_from(["waiting", "delivered", "failed", "reported"])
RANK = {"waiting": 0, "failed": 1, "delivered": 2, "reported": 2}


@dataclass
class Known:
    """An entry as it should be, with the end of its lease and its content."""

    entry: Entry
    lease_end: float
    wire: bytes


class Machine(RuleBasedStateMachine):
    """Two doors to one spool, and what it should hold."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="relay-"))
        self.clock = Hands(1000.0)
        self.spools = {name: self.open(name) for name in DOORS}
        self.known: dict[str, Known] = {}
        self.serial = 0

    def open(self, name: str) -> Spool:
        return Spool(self.folder / "spool.db", name, 0, self.clock)

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    def teardown(self) -> None:
        for spool in self.spools.values():
            self.run(spool.close())
        self.loop.close()
        shutil.rmtree(self.folder)

    def some(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from([*self.known, "nobody"]))

    def is_free(self, known: Known) -> bool:
        return not known.entry.claimed_by or known.lease_end <= self.clock.now

    def change(self, id: str, **changes: Any) -> None:
        self.known[id].entry = replace(self.known[id].entry, **changes)

    @rule(door=doors, wait=waits, recipients=st.integers(1, 3), is_settled=st.booleans(), is_claimed=st.booleans())
    def put(self, door: str, wait: float, recipients: int, is_settled: bool, is_claimed: bool) -> None:
        self.serial += 1
        entry = an_entry(
            f"m{self.serial}", self.clock.now, due=self.clock.now + wait, recipients=recipients, is_settled=is_settled,
            claimed_by=door if is_claimed else "", user=f"u{self.serial % 2}", route=("", "r1", "r2")[self.serial % 3],
        )  # fmt: skip
        wire = b"%d" % self.serial * 1000
        self.run(self.spools[door].put(entry, b"p", wire))
        self.known[entry.id] = Known(entry, entry.due if is_claimed else 0.0, wire)

    @rule(door=doors, data=st.data(), lease=waits, wait=waits)
    def claim(self, door: str, data: st.DataObject, lease: float, wait: float) -> None:
        wanted = [self.some(data), self.some(data)]
        got = self.run(self.spools[door].claim(wanted, lease, self.clock.now + wait))
        expected = []
        for id in dict.fromkeys(wanted):
            known = self.known.get(id)
            if known is not None and known.entry.is_settled and not known.entry.held and self.is_free(known):
                self.change(id, claimed_by=door, due=self.clock.now + wait)
                known.lease_end = self.clock.now + lease
                expected.append(known.entry)
        assert got == expected

    @rule(door=doors, data=st.data(), lease=waits)
    def renew(self, door: str, data: st.DataObject, lease: float) -> None:
        id = self.some(data)
        is_ours = id in self.known and self.known[id].entry.claimed_by == door
        assert self.run(self.spools[door].renew(id, lease)) == is_ours
        if is_ours:
            self.known[id].lease_end = self.clock.now + lease

    @rule(door=doors, data=st.data(), wait=waits)
    def release(self, door: str, data: st.DataObject, wait: float) -> None:
        id = self.some(data)
        self.run(self.spools[door].release(id, self.clock.now + wait))
        if id in self.known and self.known[id].entry.claimed_by == door:
            self.change(id, claimed_by="", due=self.clock.now + wait)

    @rule(door=doors, data=st.data(), wait=st.none() | waits, held=st.sampled_from(["", "", "", "route"]), is_reporting=st.booleans())
    def finish(self, door: str, data: st.DataObject, wait: float | None, held: Hold, is_reporting: bool) -> None:
        id = self.some(data)
        known = self.known.get(id)
        old = known.entry.standings if known is not None else an_entry("x", 0).standings
        new = [replace(standing, state=data.draw(states), reply="2") for standing in old]
        due = None if wait is None else self.clock.now + wait
        self.serial += 1
        report = an_entry(f"d{self.serial}", self.clock.now, kind="dsn", origin=id, units=0)
        reports = [(report, b"p", b"report")] if is_reporting else []
        assert self.run(self.spools[door].finish(id, new, due, reports, attempts=7, held=held)) == (known is not None)
        if known is None:
            return
        if is_reporting:
            self.known[report.id] = Known(report, 0.0, b"report")
        is_others = known.entry.claimed_by not in ("", door) and not self.is_free(known)
        if is_others:
            new = [n if RANK[n.state] > RANK[o.state] else o for n, o in zip(new, old, strict=True)]
        if all(standing.state in SETTLED for standing in new):
            del self.known[id]
            return
        self.change(id, standings=tuple(new), attempts=7, held=held or known.entry.held)
        if not is_others:
            self.change(id, claimed_by="", due=known.entry.due if due is None else due)

    @rule(door=doors, data=st.data())
    def mark_settled(self, door: str, data: st.DataObject) -> None:
        id = self.some(data)
        self.run(self.spools[door].mark_settled([id]))
        if id in self.known:
            self.change(id, is_settled=True)

    @rule(door=doors, data=st.data(), reason=st.sampled_from(["operator", "disabled", "route"]))
    def hold(self, door: str, data: st.DataObject, reason: Hold) -> None:
        id = self.some(data)
        assert self.run(self.spools[door].hold(id, reason)) == (id in self.known)
        if id in self.known and (reason == "operator" or not self.known[id].entry.held):
            self.change(id, held=reason)

    @rule(door=doors, data=st.data(), is_retry=st.booleans())
    def unhold_or_retry(self, door: str, data: st.DataObject, is_retry: bool) -> None:
        id = self.some(data)
        call = self.spools[door].retry if is_retry else self.spools[door].unhold
        is_right = id in self.known and bool(self.known[id].entry.held) != is_retry
        assert self.run(call(id)) == is_right
        if is_right:
            due = self.clock.now if self.is_free(self.known[id]) else self.known[id].entry.due
            self.change(id, held="", due=due)

    @rule(door=doors, user=st.sampled_from(["u0", "u1"]))
    def unhold_user(self, door: str, user: str) -> None:
        expected = [id for id, known in self.known.items() if known.entry.user == user and known.entry.held == "disabled"]
        assert self.run(self.spools[door].unhold_user(user, "disabled")) == expected
        for id in expected:
            self.change(id, held="", due=self.clock.now if self.is_free(self.known[id]) else self.known[id].entry.due)

    @rule(door=doors, mail=places, report=places)
    def sort(self, door: str, mail: str | None, report: str | None) -> None:
        spool = self.spools[door]
        done = self.run(spool.sort(self.run(spool.seqs_of("o")), {"example.com": mail, "example.org": report}.get))
        held, unheld = set(), set()
        for id, known in self.known.items():
            entry = known.entry
            if not self.is_free(known) or entry.held not in ("", "route"):
                continue
            goal = mail if entry.kind == "mail" else report
            if goal is None and entry.route and not entry.held:
                held.add(id)
                self.change(id, held="route")
            elif (goal or not entry.route) and entry.held:
                unheld.add(id)
                self.change(id, held="", route=goal or "", due=self.clock.now)
            elif goal:
                self.change(id, route=goal)
        assert (set(done.held), set(done.unheld)) == (held, unheld)

    @rule(door=doors)
    def flush(self, door: str) -> None:
        late = [k for k in self.known.values() if not k.entry.held and k.entry.due > self.clock.now and self.is_free(k)]
        late = [k for k in late if not any(one.in_doubt for one in k.entry.waiting)]
        assert self.run(self.spools[door].flush()) == len(late)
        for known in late:
            self.change(known.entry.id, due=self.clock.now)

    @rule(door=doors, data=st.data())
    def remove(self, door: str, data: st.DataObject) -> None:
        id = self.some(data)
        known = self.known.get(id)
        expected = None if known is None else known.entry if self.is_free(known) else "claimed"
        assert self.run(self.spools[door].remove(id)) == expected
        if isinstance(expected, Entry):
            del self.known[id]

    @rule(door=doors)
    def release_claims(self, door: str) -> None:
        (dead,) = set(DOORS) - {door}
        expected = []
        for id, known in self.known.items():
            if known.entry.claimed_by == dead:
                self.change(id, claimed_by="")
                expected.append(known.entry)
        assert self.run(self.spools[door].release_claims(dead)) == expected

    @rule(seconds=waits)
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: self.known)
    @rule(door=doors)
    def reopen(self, door: str) -> None:
        self.run(self.spools[door].close())
        for id, known in self.known.items():
            if known.entry.claimed_by == door:
                self.change(id, claimed_by="")
        self.spools[door] = self.open(door)

    @invariant()
    def the_spool_is_as_known(self) -> None:
        self.run(self.compare(self.spools["me"], [known.entry for known in self.known.values()]))

    async def compare(self, spool: Spool, entries: list[Entry]) -> None:
        """Every question has the answer that follows from what is known."""
        now = self.clock.now
        assert [entry async for page in spool.pages() for entry in page] == entries
        ready = [known.entry for known in self.known.values() if not known.entry.held and self.is_free(known)]
        due = await spool.due(now, 100)
        assert [entry.due for entry in due] == sorted(entry.due for entry in ready if entry.due <= now)
        assert {entry.id for entry in due} == {entry.id for entry in ready if entry.due <= now}
        piles: dict[Pile, float] = {}
        for entry in entries:
            if not entry.held:
                pile = Pile(entry.owner, entry.route)
                piles[pile] = min(entry.due, piles.get(pile, entry.due))
        assert await spool.piles() == piles
        for pile in piles:
            assert [e.id for e in await spool.due_in(now, {pile: 100})] == [e.id for e in due if (e.owner, e.route) == pile]
        assert {e.id for e in await spool.expiring(now, 100)} == {e.id for e in ready if e.waiting}
        assert await spool.claimants() == {entry.claimed_by for entry in entries} - {""}
        assert {id for _, id, *_ in await spool.unsettled()} == {e.id for e in entries if not e.is_settled and e.units and not e.claimed_by}
        counts = await spool.counts()
        assert (counts.waiting + counts.claimed + counts.held, counts.held) == (len(entries), sum(1 for e in entries if e.held))
        for id, known in self.known.items():
            assert await spool.content(id) == (b"p", known.wire)


Machine.TestCase.settings = settings(
    max_examples=50, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
TestTheSpool = Machine.TestCase
