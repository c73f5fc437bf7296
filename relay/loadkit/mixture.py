"""Sizes and numbers of recipients that vary from message to message: one number, a range, or a weighted mix of these.

    2048        100-50000        2k:8,50k:1,500k-1m:0.5

`k` and `m` are 1,024 and its square; a weight stands after a colon, 1 where there is none. Pure: chance is passed in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

STEPS = 16
"""Distinct numbers that a range is drawn from: each size wants a body of its own ready."""

_PART = re.compile(r"(\d{1,12})([km]?)(?:-(\d{1,12})([km]?))?(?::(\d{1,9}(?:\.\d{1,9})?))?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20}


@dataclass(frozen=True, slots=True)
class Part:
    """Numbers from `least` to `most`, both included."""

    least: int
    most: int
    weight: float = 1.0

    def __str__(self) -> str:
        numbers = f"{self.least}" if self.least == self.most else f"{self.least}-{self.most}"
        return numbers if self.weight == 1.0 else f"{numbers}:{self.weight:g}"

    def draw(self, random: Random) -> int:
        """One of them."""
        if self.most - self.least < STEPS:
            return random.randint(self.least, self.most)
        return self.least + (self.most - self.least) * random.randrange(STEPS) // (STEPS - 1)


@dataclass(frozen=True, slots=True)
class Mixture:
    """What to draw from."""

    parts: tuple[Part, ...]

    @classmethod
    def parse(cls, text: str) -> Mixture:
        """Read one. Raises ValueError naming what is wrong."""
        return cls(tuple(_part(word.strip()) for word in text.split(",")))

    def __str__(self) -> str:
        return ",".join(map(str, self.parts))

    @property
    def least(self) -> int:
        """The smallest number it can give."""
        return min(part.least for part in self.parts)

    @property
    def most(self) -> int:
        """The largest."""
        return max(part.most for part in self.parts)

    def draw(self, random: Random) -> int:
        """One number."""
        if len(self.parts) == 1:
            part = self.parts[0]
            return part.least if part.least == part.most else part.draw(random)
        return random.choices(self.parts, [part.weight for part in self.parts])[0].draw(random)


def _part(word: str) -> Part:
    found = _PART.fullmatch(word)
    if found is None:
        raise ValueError(
            f"{word!r} is neither a number like 2048 or 50k, nor a range like 1k-50k, nor one of these with a weight like 2k:8"
        )
    least = int(found[1]) * _UNITS[found[2].lower()]
    most = least if found[3] is None else int(found[3]) * _UNITS[found[4].lower()]
    weight = 1.0 if found[5] is None else float(found[5])
    if most < least:
        raise ValueError(f"{word!r} goes from more to less")
    if not weight:
        raise ValueError(f"{word!r} has no weight")
    return Part(least, most, weight)
