"""When messages are due: the arrival patterns of a load, as endless runs of seconds since its beginning. Pure: no clock, no chance.

A closed loop has no such instants: each connection sends as soon as it was answered, so a slow server is asked less. The others are
open: a message is due at its instant whatever became of those before it, and its latency counts from that instant, so a server that
stalls is charged with all the waiting it caused, not only with the messages that happened to be on the way (coordinated omission).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal


@dataclass(frozen=True, slots=True)
class Closed:
    """As fast as answered."""

    def __str__(self) -> str:
        return "closed loop, as fast as answered"


@dataclass(frozen=True, slots=True)
class Rate:
    """So many messages a second, evenly."""

    per_second: float

    def __str__(self) -> str:
        return f"{self.per_second:g} a second"

    def due(self, began_at: float = 0.0) -> Iterator[float]:
        """When each message is due."""
        return (number / self.per_second for number in count())


@dataclass(frozen=True, slots=True)
class Burst:
    """So many at once, every so many seconds."""

    messages: int
    every: float

    def __str__(self) -> str:
        return f"{self.messages} at once every {self.every:g} s"

    def due(self, began_at: float = 0.0) -> Iterator[float]:
        """When each message is due."""
        return (number // self.messages * self.every for number in count())


@dataclass(frozen=True, slots=True)
class Ramp:
    """From one rate to another within `over` seconds, evenly, and on at the second."""

    start: float
    end: float
    over: float

    def __str__(self) -> str:
        return f"from {self.start:g} to {self.end:g} a second within {self.over:g} s"

    def due(self, began_at: float = 0.0) -> Iterator[float]:
        """When each message is due."""
        return (self._due(number) for number in count())

    def _due(self, number: int) -> float:
        within = (self.start + self.end) / 2 * self.over
        if number >= within:
            return self.over + (number - within) / self.end
        # start * t + growth * t² / 2 = number, solved so that a growth of zero, or a small one, does no harm.
        growth = (self.end - self.start) / self.over
        root = math.sqrt(max(0.0, self.start**2 + 2 * growth * number))
        return 2 * number / (self.start + root) if number else 0.0


@dataclass(frozen=True, slots=True)
class Sawtooth:
    """So many in the last seconds before each boundary of a fixed window, and as many again in the first after it.

    A limiter that counts by the clock, or from the first message, takes both: twice its limit within two edges. One with a true sliding
    window takes the first tooth alone. `anchor` says where such a window begins: `clock`, at whole multiples of its width since 1970
    (the full hour), or `first`, with the first message, which is then sent alone to set it going.
    """

    messages: int
    edge: float
    window: float
    anchor: Literal["clock", "first"] = "clock"

    def __str__(self) -> str:
        since = "by the clock" if self.anchor == "clock" else "from the first message"
        return f"{self.messages} in the {self.edge:g} s before each boundary of a window {since}, and as many after it"

    def due(self, began_at: float = 0.0) -> Iterator[float]:
        """When each message is due; `began_at` is the beginning in seconds since 1970."""
        if self.anchor == "first":
            yield 0.0
            boundary = self.window
        else:
            # The next boundary whose first tooth still lies ahead.
            boundary = math.ceil((began_at + self.edge) / self.window) * self.window - began_at
        while True:
            for number in range(2 * self.messages):
                # From the edge before to the edge after; the first of the second half is due on the boundary itself.
                yield max(0.0, boundary + (number / self.messages - 1) * self.edge)
            boundary += self.window


Open = Rate | Burst | Ramp | Sawtooth
Pattern = Closed | Open
