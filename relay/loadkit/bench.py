"""What a benchmark finds: rounds of a load with what they cost, curves of rounds, single figures, and the account of the mail.

Promise: a round counts messages that were answered 250 to their final dot, and nothing else; an account that does not close is told in
words. What is measured in which order, and on what, is left to the command.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from relay.loadkit.attempt import Attempt
from relay.loadkit.generator import Load
from relay.loadkit.meter import Meter

OURS = "relay"
AROUND = frozenset(("store", "sink", "load"))
"""Roles that are no server's own; all others are."""
SHARE = 0.15
"""Of a steady load, the part at its beginning that is not counted."""


class NotAccounted(Exception):
    """Mail was lost, doubled or counted wrongly: what was measured is worth nothing."""


@dataclass(frozen=True, slots=True)
class Round:
    """One load through one server."""

    server: str
    name: str
    seconds: float
    taken: int
    p50: float
    """ms, as `p99`."""
    p99: float
    cpu: Mapping[str, float]
    """µs a message, by role."""
    others: Mapping[str, int] = field(default_factory=dict)
    """What else became of messages, by code and stage."""
    x: float = 0.0
    """Where it stands on its curve."""

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.taken / self.seconds if self.seconds else 0.0

    @property
    def cost(self) -> float:
        """µs a message of the server's processes, its store apart."""
        return sum(burnt for role, burnt in self.cpu.items() if role not in AROUND)

    @property
    def store(self) -> float:
        """µs a message of its store."""
        return self.cpu.get("store", 0.0)

    def line(self) -> str:
        """It in one line."""
        parts = sorted(self.cpu.items(), key=lambda part: part[0] in AROUND)
        roles = [f"{role} {burnt:.0f}" for role, burnt in parts if burnt >= 0.5 and role != "store"]
        text = (
            f"{self.server:<10} {self.rate:>8,.0f}/s  p50 {self.p50:.2f} ms  p99 {self.p99:.2f} ms  "
            f"CPU µs: {self.cost:,.0f}, store {self.store:,.0f} ({', '.join(roles)})"
        )
        return text + "".join(f"  {count} x {what}" for what, count in self.others.items())


@dataclass(frozen=True, slots=True)
class Curve:
    """Rounds along something that grows, by what they were."""

    name: str
    x_label: str
    series: dict[str, list[Round]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figure:
    """One number."""

    name: str
    value: float
    unit: str
    text: str = ""


@dataclass(slots=True)
class Findings:
    """All that was found."""

    began_at: float
    machine: dict[str, str] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    def cases(self) -> list[str]:
        """The cases that were measured in rounds, in their order."""
        return list(dict.fromkeys(each.name for each in self.rounds))

    def servers(self) -> list[str]:
        """Who was measured."""
        return list(dict.fromkeys(each.server for each in self.rounds))

    def of(self, case: str, server: str) -> list[Round]:
        """The rounds of a case."""
        return [each for each in self.rounds if (each.name, each.server) == (case, server)]

    def median(self, case: str, server: str) -> Round | None:
        """A round made of the medians; None if there was none."""
        found = self.of(case, server)
        if not found:
            return None
        middle = statistics.median
        roles = dict.fromkeys(role for each in found for role in each.cpu)
        cpu = {role: middle(each.cpu.get(role, 0.0) for each in found) for role in roles}
        seconds = middle(each.seconds for each in found)
        others: Counter[str] = Counter()
        for each in found:
            others.update(each.others)
        return Round(
            server, case, seconds, round(middle(each.rate for each in found) * seconds), middle(each.p50 for each in found),
            middle(each.p99 for each in found), cpu, others,
        )  # fmt: skip

    def ratio(self, case: str, server: str) -> float | None:
        """How many times the other's rate ours is: round by round, and of that the median."""
        pairs = zip(self.of(case, OURS), self.of(case, server), strict=False)
        ratios = [ours.rate / theirs.rate for ours, theirs in pairs if theirs.rate]
        return statistics.median(ratios) if ratios else None


# -- a round -----------------------------------------------------------------------------------------------------------------


async def measure(load: Load, meter: Meter, server: str, name: str, x: float = 0.0, *, with_entry: bool = False) -> Round:
    """Run a load and say what it cost; connecting and logging in count only `with_entry`, save where a connection is made anew."""
    running = asyncio.create_task(load.run())
    before = meter.cpu()
    try:
        if not with_entry:
            before = await _begun(load, running, meter)
        await running
    finally:
        await _end(running)
    return summarise(load.attempts, load.seconds, before, meter.cpu(), server, name, x)


async def measure_steadily(load: Load, meter: Meter, seconds: float, server: str, name: str, x: float = 0.0) -> Round:
    """Run a load of a fixed rate for so long, and say what the later part of it cost: no connecting and no leaving is in it."""
    running = asyncio.create_task(load.run())
    try:
        await _begun(load, running, meter)
        await asyncio.wait([running], timeout=seconds * SHARE)
        before, first, began = meter.cpu(), len(load.attempts), asyncio.get_running_loop().time()
        await asyncio.wait([running], timeout=seconds * (1 - 2 * SHARE))
        after, last, ended = meter.cpu(), len(load.attempts), asyncio.get_running_loop().time()
        await running
    finally:
        await _end(running)
    return summarise(load.attempts[first:last], ended - began, before, after, server, name, x)


async def _begun(load: Load, running: asyncio.Task[list[Attempt]], meter: Meter) -> dict[str, float]:
    waiting = asyncio.create_task(load.wait_begun())
    try:
        await asyncio.wait([waiting, running], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    return meter.cpu()


async def _end(running: asyncio.Task[list[Attempt]]) -> None:
    if not running.done():
        running.cancel()
        await asyncio.wait([running])


def summarise(
    attempts: Sequence[Attempt], seconds: float, before: Mapping[str, float], after: Mapping[str, float], server: str, name: str,
    x: float = 0.0,
) -> Round:  # fmt: skip
    """A round of what was attempted and burnt."""
    latencies = sorted(attempt.latency * 1e3 for attempt in attempts if attempt.is_taken)
    taken = len(latencies)
    others = Counter(f"{attempt.code or 'no reply'} at {attempt.stage}" for attempt in attempts if not attempt.is_taken)
    cpu = {role: (burnt - before.get(role, 0.0)) / taken for role, burnt in after.items()} if taken else {}
    return Round(server, name, seconds, taken, quantile(latencies, 0.5), quantile(latencies, 0.99), cpu, others, x)


def quantile(ranked: Sequence[float], share: float) -> float:
    """What so much of it does not exceed; 0 where there is nothing."""
    return ranked[min(len(ranked) - 1, int(len(ranked) * share))] if ranked else 0.0


def join(rounds: Sequence[Round]) -> Round:
    """Several loads, one after the other, as one; its quantiles are their medians."""
    first, taken = rounds[0], sum(each.taken for each in rounds)
    roles = dict.fromkeys(role for each in rounds for role in each.cpu)
    cpu = {role: sum(each.cpu.get(role, 0.0) * each.taken for each in rounds) / taken for role in roles} if taken else {}
    others: Counter[str] = Counter()
    for each in rounds:
        others.update(each.others)
    middle = statistics.median
    return Round(
        first.server, first.name, sum(each.seconds for each in rounds), taken, middle(each.p50 for each in rounds),
        middle(each.p99 for each in rounds), cpu, others, first.x,
    )  # fmt: skip


# -- the account -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Account:
    """Messages of one load, as each party counted them; None where there is no such party."""

    answered: int
    """250s to a final dot."""
    unanswered: int
    """Final dots without a reply."""
    sink: int
    ledger: int | None = None
    journal: int | None = None
    kept: int = 0
    """Taken, and kept by the relay because the smarthost of their owner is away."""

    @property
    def fault(self) -> str:
        """What does not agree; empty if all does."""
        most = self.answered + self.unanswered
        taken = self.sink + self.kept if self.journal is None else self.journal
        counts = {"in the ledger": self.ledger, "in the journal": self.journal, "at the sink": self.sink, "kept": self.kept or None}
        if self.answered <= taken <= most and self.sink + self.kept == taken and self.ledger in (None, taken):
            return ""
        told = ", ".join(f"{count} {where}" for where, count in counts.items() if count is not None)
        silent = f" and {self.unanswered} not answered" if self.unanswered else ""
        return f"the account does not close: {self.answered} messages were answered 250{silent}, but there are {told}"


def check(account: Account, name: str) -> None:
    """Raise NotAccounted if it does not close."""
    if account.fault:
        raise NotAccounted(f"{name}: {account.fault}")
