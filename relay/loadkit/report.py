"""What a load looks like while it runs and when it is over."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from relay.loadkit.attempt import Attempt


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

    def add(self, attempts: Sequence[Attempt]) -> None:
        """Count what is new."""
        before, looked = self.taken, self._ended
        for attempt in attempts[self._seen :]:
            self.codes[f"{attempt.code} {attempt.stage}" if attempt.stage else str(attempt.code)] += 1
            self.taken += attempt.is_taken
            self.refused += attempt.code >= 400
            self.unanswered += attempt.is_unanswered
            if attempt.is_taken:
                self._seconds.append(attempt.replied - attempt.started)
        self._seen = len(attempts)
        self._ended = time.monotonic()
        self.rate = (self.taken - before) / max(1e-9, self._ended - looked)

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

    def table(self, is_final: bool = False) -> Table:
        """The figures to look at."""
        figures = self.as_dict()
        if not is_final:
            figures = {"taken_per_second_now": round(self.rate, 1), **figures}
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


class Display:
    """A tally on a console: live where it is a terminal, silent until the end where it is not."""

    def __init__(self, console: Console) -> None:
        self.tally = Tally()
        self._live = Live(self.tally.table(), console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, attempts: Sequence[Attempt]) -> None:
        """Count what is new and show it."""
        self.tally.add(attempts)
        if self._live is not None:
            self._live.update(self.tally.table(), refresh=True)
