"""What a load looks like while it runs and when it is over.

Promises: a look costs by what is new since the last one, not by what has been; nothing is drawn where there is no terminal; what servers
and users are called never reaches the terminal as anything but text.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from relay.loadkit.attempt import Attempt
from relay.loadkit.verdict import Limits, Rules

RECENT = 5
"""Seconds that "now" is made of."""
CLASSES = 40
"""Classes of latencies in each power of ten: a quantile of the live view is right within 6 %."""
FULLEST = 10


class Tally:
    """Counts attempts as they come; `add` is given all of them each time and looks only at the new ones."""

    def __init__(self) -> None:
        self._seen = 0
        self._seconds: list[float] = []
        self._began = time.monotonic()
        self._ended = self._began
        self.codes: Counter[str] = Counter()
        """By code and stage, "451 data"; "0" is no reply."""
        self.taken = 0
        self.refused = 0
        self.unanswered = 0
        self.rate = 0.0
        """Messages taken per second since the last look."""

    @property
    def attempts(self) -> int:
        """How many were counted."""
        return self._seen

    def add(self, attempts: Sequence[Attempt]) -> Sequence[Attempt]:
        """Count what is new, and return it."""
        before, looked = self.taken, self._ended
        fresh = attempts[self._seen :]
        for attempt in fresh:
            self.codes[f"{attempt.code} {attempt.stage}" if attempt.stage else str(attempt.code)] += 1
            self.taken += attempt.is_taken
            self.refused += attempt.code >= 400
            self.unanswered += attempt.is_unanswered
            if attempt.is_taken:
                self._seconds.append(attempt.latency)
        self._seen += len(fresh)
        self._ended = time.monotonic()
        self.rate = (self.taken - before) / max(1e-9, self._ended - looked)
        return fresh

    def as_dict(self) -> dict[str, Any]:
        """The figures for a program; times in milliseconds."""
        elapsed = max(1e-9, self._ended - self._began)
        ordered = sorted(self._seconds)
        return {
            "attempts": self._seen,
            "taken": self.taken,
            "refused": self.refused,
            "unanswered": self.unanswered,
            "seconds": round(elapsed, 3),
            "taken_per_second": round(self.taken / elapsed, 1),
            "p50_ms": percentile(ordered, 0.50),
            "p99_ms": percentile(ordered, 0.99),
            "max_ms": percentile(ordered, 1.0),
            "codes": dict(sorted(self.codes.items())),
        }

    def table(self, is_final: bool = True) -> Table:
        """The figures to look at when it is over."""
        figures = self.as_dict()
        codes = figures.pop("codes")
        table = Table("", "", show_header=False, title="load" if is_final else "load (running)")
        for name, figure in figures.items():
            table.add_row(name.replace("_", " "), f"{figure:,}" if figure is not None else "-")
        for code, count in codes.items():
            table.add_row(f"reply {code}", f"{count:,}")
        return table


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The value below which `share` of them lie, in milliseconds."""
    if not ordered:
        return None
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3, 3)


class Recent:
    """What came in the last RECENT seconds, by the second."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, Counter[str], Counter[int]]] = deque(maxlen=RECENT + 1)

    def add(self, now: float, fresh: Sequence[Attempt]) -> None:
        """Count what became known since the last look."""
        second = int(now)
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append((second, Counter(), Counter()))
        _, outcomes, latencies = self._seconds[-1]
        for attempt in fresh:
            outcomes["taken" if attempt.is_taken else "refused" if attempt.code else "silent"] += 1
            if attempt.is_taken:
                latencies[math.floor(math.log10(max(attempt.latency, 1e-6)) * CLASSES)] += 1

    def _known(self, now: float) -> list[tuple[int, Counter[str], Counter[int]]]:
        return [one for one in self._seconds if one[0] > now - RECENT - 1]

    def rate(self, now: float, elapsed: float, outcome: str) -> float:
        """How many a second."""
        known = self._known(now)
        width = min(elapsed, now - known[0][0]) if known else 0.0
        return sum(outcomes[outcome] for _, outcomes, _ in known) / max(width, 0.2)

    def quantile(self, now: float, share: float) -> float | None:
        """Of the latencies, in ms."""
        merged: Counter[int] = Counter()
        for _, _, latencies in self._known(now):
            merged.update(latencies)
        rank = share * merged.total()
        for number in sorted(merged):
            rank -= merged[number]
            if rank < 0 or number == max(merged):
                return float(10 ** ((number + 0.5) / CLASSES) * 1e3)
        return None


class Positions:
    """How much of its limits each user has had, by the 250s that its client heard."""

    def __init__(self, limits: Mapping[str, Limits], rules: Rules) -> None:
        self.limits = limits
        """Looked at anew each time: they may be changed while the load runs."""
        self._rules = rules
        self._taken: dict[str, deque[tuple[float, int]]] = {}
        self._held: Counter[str] = Counter()
        self._totals: Counter[str] = Counter()

    def add(self, fresh: Sequence[Attempt]) -> None:
        """Count what is new."""
        for attempt in fresh:
            if attempt.is_taken:
                units = self._rules.units(attempt.units)
                self._taken.setdefault(attempt.user, deque()).append((attempt.replied, units))
                self._held[attempt.user] += units
                self._totals[attempt.user] += units

    def fullest(self, now: float) -> list[tuple[str, int, int]]:
        """User, units in the window and units in all of those who are nearest to a limit; `now` by time.monotonic()."""
        for user, own in self._taken.items():
            while own and own[0][0] <= now - self._rules.window_seconds:
                self._held[user] -= own.popleft()[1]
        every = ((self._share(user), user) for user in self._taken)
        return [(user, self._held[user], self._totals[user]) for _, user in heapq.nlargest(FULLEST, every)]

    def _share(self, user: str) -> tuple[float, int]:
        limits = self.limits.get(user, Limits())
        hourly = self._held[user] / limits.hourly if limits.hourly else 0.0
        total = self._totals[user] / limits.total if limits.total else 0.0
        return max(hourly, total), self._totals[user]

    def __len__(self) -> int:
        return len(self._taken)


class Display:
    """A tally on a console: live where it is a terminal, silent until the end where it is not."""

    def __init__(
        self,
        console: Console,
        limits: Mapping[str, Limits] | None = None,
        rules: Rules | None = None,
        *,
        seconds: float | None = None,
        messages: int | None = None,
    ) -> None:
        """`seconds` and `messages` are how much there will be; where neither is known, what remains is not shown."""
        self.tally = Tally()
        self._recent = Recent()
        self._positions = Positions({} if limits is None else limits, rules or Rules())
        self._began = time.monotonic()
        self._seconds, self._messages = seconds, messages
        self._live = Live(Text(""), console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, attempts: Sequence[Attempt]) -> None:
        """Count what is new and show it."""
        fresh = self.tally.add(attempts)
        if self._live is not None:
            now = time.monotonic()
            self._recent.add(now, fresh)
            self._positions.add(fresh)
            self._live.update(self.view(now), refresh=True)

    def view(self, now: float) -> RenderableType:
        """What is shown, at an instant of time.monotonic()."""
        elapsed = now - self._began
        rows: list[RenderableType] = [self._progress(elapsed), self._pace(now, elapsed)]
        codes = Table("reply", "messages", box=None, padding=(0, 2, 0, 0), header_style="dim")
        codes.columns[1].justify = "right"
        for code, count in self.tally.codes.most_common(8):
            codes.add_row(_code(code), f"{count:,}")
        if self.tally.codes:
            rows += [Text(""), codes]
        if len(self._positions):
            rows += [Text(""), self._users(now)]
        return Group(*rows)

    def _progress(self, elapsed: float) -> RenderableType:
        done = f"{elapsed:.0f} s, {self.tally.attempts:,} messages"
        shares, left = [], []
        if self._seconds:
            shares.append(elapsed / self._seconds)
            left.append(max(0.0, self._seconds - elapsed))
        if self._messages:
            shares.append(self.tally.attempts / self._messages)
            if self.tally.attempts:
                left.append(max(0.0, elapsed * (self._messages / self.tally.attempts - 1)))
        if not shares:
            return Text(done)
        grid = Table.grid(padding=(0, 2))
        remaining = f"{min(left):.0f} s left" if left else ""
        grid.add_row(ProgressBar(total=1.0, completed=min(1.0, max(shares)), width=30), Text(done), Text(remaining, "dim"))
        return grid

    def _pace(self, now: float, elapsed: float) -> Text:
        recent = self._recent
        taken, refused, silent = (recent.rate(now, elapsed, name) for name in ("taken", "refused", "silent"))
        text = Text.assemble(("now  ", "dim"), (f"{taken:,.0f}/s taken", "green"), "  ", (f"{refused:,.0f}/s refused", "yellow"))
        if silent:
            text.append(f"  {silent:,.1f}/s without a reply", "red")
        p50, p99 = recent.quantile(now, 0.5), recent.quantile(now, 0.99)
        if p50 is not None and p99 is not None:
            text.append(f"  p50 {p50:.3g} ms  p99 {p99:.3g} ms")
        return text

    def _users(self, now: float) -> Table:
        fullest = self._positions.fullest(now)
        name = "user" if len(fullest) == len(self._positions) else f"fullest {len(fullest)} of {len(self._positions):,} users"
        table = Table(name, "in the window", "", "in all", box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.columns[1].justify = table.columns[3].justify = "right"
        for user, held, total in fullest:
            limits = self._positions.limits.get(user, Limits())
            bar: RenderableType = Text("")
            if limits.hourly:
                bar = ProgressBar(total=limits.hourly, completed=min(held, limits.hourly), width=16)
            table.add_row(Text(plain(user)[:60], overflow="ellipsis"), _of(held, limits.hourly), bar, _of(total, limits.total))
        return table


def _of(count: int, limit: int | None) -> str:
    return f"{count:,}" if limit is None else f"{count:,} / {limit:,}"


def _code(code: str) -> Text:
    style = "green" if code[0] == "2" else "red" if code[0] in "05" else "yellow"
    return Text(code if code[0] != "0" else f"none{code[1:]}", style)


def plain(text: str) -> str:
    """What others wrote as one line that a terminal shows and does not obey."""
    return "".join(c if c.isprintable() else "?" for c in text)
