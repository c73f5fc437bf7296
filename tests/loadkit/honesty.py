"""An honest relay as a model, and the stories it makes of what clients and admins do: exact where the oracle allows for slack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from hypothesis import strategies as st

from relay.loadkit.change import Change
from relay.loadkit.verdict import Limits, Rules
from tests.loadkit.story import EPOCH, US, World

Deed = Literal["send", "bounce", "silence", "disable", "enable", "limits"]
WIDTH = 5
RULES = Rules(WIDTH, rejected_factor=1.0, rejected_minimum=2)


@dataclass(frozen=True, slots=True)
class Step:
    """After `gap` ms, something is done; a change takes `lag` ms to be answered, and holds from its beginning or its end on."""

    gap: int
    deed: Deed
    hourly: int = 2
    total: int = 100
    lag: int = 0
    is_early: bool = True


def steps(*deeds: Deed) -> st.SearchStrategy[list[Step]]:
    """What may happen."""
    one = st.builds(
        Step, st.integers(0, 2500), st.sampled_from(("send", "send", "send", *deeds)), st.integers(0, 4), st.integers(0, 12),
        st.integers(0, 400), st.booleans(),
    )  # fmt: skip
    return st.lists(one, max_size=40)


@dataclass(slots=True)
class Honest:
    """The relay; instants in µs since EPOCH."""

    world: World
    limits: Limits
    now: int = 0
    is_enabled: bool = True
    taken: list[int] = field(default_factory=list)
    rejected: list[int] = field(default_factory=list)
    pending: list[tuple[int, Step]] = field(default_factory=list)
    """Changes that hold from an instant on."""

    def do(self, step: Step) -> None:
        """Let it happen."""
        self.now += step.gap * 1000 + 1
        self._apply()
        if step.deed in ("send", "bounce", "silence"):
            self._carry(step.deed)
        else:
            self._change(step)

    def _apply(self) -> None:
        while self.pending and self.pending[0][0] <= self.now:
            _, step = self.pending.pop(0)
            if step.deed == "limits":
                self.limits = Limits(step.hourly, step.total)
            else:
                self.is_enabled = step.deed == "enable"

    def _change(self, step: Step) -> None:
        if self.pending:  # one after the other
            self.now = max(self.now, self.pending[-1][0]) + 1
            self._apply()
        asked, answered = self.now, self.now + step.lag * 1000
        kind = step.deed
        assert kind in ("disable", "enable", "limits")
        hourly, total = (step.hourly, step.total) if kind == "limits" else (None, None)
        self.world.changes.append(Change(kind, "u", EPOCH * US + asked, EPOCH * US + answered, hourly, total))
        self.pending.append((asked if step.is_early else answered, step))
        self._apply()

    def _carry(self, deed: Deed) -> None:
        world, second = self.world, self.now / US
        if refusal := self._refusal():
            reason, code, text, retry_after = refusal
            told = "" if retry_after is None else f"; retry-after={retry_after}"
            world.attempt(second, code, f"{text}{told}", "data", seconds=0.002)
            world.write("refused", second, reason=reason, units=1, retry_after=retry_after)
        elif deed == "bounce":
            self.rejected.append(self.now)
            world.attempt(second, 550, "5.1.1 unknown", "dot", seconds=0.002)
            world.write("rejected", second, outcome="rejected")
        else:
            self.taken.append(self.now)
            made = world.taken(second)
            world.journal[-1]["at"] = EPOCH * US + self.now
            made.started -= 0.002
            made.started_at -= 0.002
            if deed == "silence":
                made.code, made.stage, made.text = 0, "dot", "no reply"

    def _refusal(self) -> tuple[str, int, str, int | None] | None:
        hourly, total = self.limits.hourly or 0, self.limits.total or 0
        cap = RULES.cap(hourly)
        inside = [at for at in self.taken if self._leaves(at) > self.now]
        bounced = [at for at in self.rejected if self._leaves(at) > self.now]
        if not self.is_enabled:
            return "disabled", 550, "5.7.13 User account disabled", None
        if len(self.taken) + 1 > total:
            return "total", 550, "5.7.1 Total sending limit reached", None
        if hourly < 1:
            return "never", 550, "5.7.1 Message counts 1 messages and never fits the limit of 0 per window", None
        instants = [self._leaves(log[len(log) - most]) for log, most in ((inside, hourly), (bounced, cap)) if len(log) >= most]
        if not instants:
            return None
        wait = math.ceil((max(instants) - self.now) / US)
        if len(inside) >= hourly:
            return "hourly", 451, "4.7.0 Hourly sending limit reached", wait
        return "rejected", 451, "4.7.0 Too much of your mail was rejected", wait

    @staticmethod
    def _leaves(at: int) -> int:
        return (at // US + 1 + WIDTH) * US


def tell(happenings: Sequence[Step], limits: Limits) -> World:
    """The whole story, the ledger's word included."""
    world = World(limits.hourly, limits.total)
    relay = Honest(world, limits)
    for step in happenings:
        relay.do(step)
    world.ledger = {"u": len(relay.taken)}
    return world
