"""Charts as SVG; pure.

Promises: each is one well-formed <svg> that needs nothing else: no script, no font, no file. It can be read on a light page, a dark one
and on paper: what is no data has the colour of the text around it. All text is escaped. Nothing that is given is too much or too little
to draw: no points, one, or all of one height.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

Point = tuple[float, float]
Mark = tuple[float, str]
Bar = tuple[float, float, float]
"""From, to, height."""

COLOURS = ("#2b7fd4", "#d9622b", "#8a8f98", "#8e5bc7", "#1d9a6c", "#c2478c", "#a8861c", "#1a97a8")
"""Told apart on white and on black."""
RED = "#d13c3c"
LONGEST_NAME = 48
GLYPH = 6.1
"""Pixels of a character at 11 px, about."""

STYLE = (
    "<style>.chart{color:#1f2328;font:11px system-ui,sans-serif;max-width:100%;height:auto}"
    "@media (prefers-color-scheme:dark){.chart{color:#d5dae1}}@media print{.chart{color:#000}}</style>"
)


class Box(NamedTuple):
    """Where the data is, in pixels."""

    left: float
    top: float
    right: float
    bottom: float


class Scale(NamedTuple):
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Where a value stands; what lies outside stands at the edge."""
        value = min(max(value, self.low), self.high)
        low, high = self.low, self.high
        if self.is_log:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int) -> list[float]:
        """Round values along it."""
        return _log_ticks(self.low, self.high, most) if self.is_log else _linear_ticks(self.low, self.high, most)


def lines(
    title: str, x_label: str, y_label: str, series: Mapping[str, Sequence[Point]], *, log_x: bool = False, log_y: bool = False,
    is_stepped: bool = False, is_filled: bool = False, limits: Mapping[str, Sequence[Point]] | None = None, marks: Sequence[Mark] = (),
    size: tuple[int, int] = (720, 280),
) -> str:  # fmt: skip
    """Draw lines by name. `limits` are drawn as dashed red steps, `marks` as named upright lines."""
    limits = limits or {}
    every = [point for points in (*series.values(), *limits.values()) for point in points]
    legend = _legend([*((name, COLOURS[i % len(COLOURS)]) for i, name in enumerate(series)), *((name, RED) for name in limits)], size[0])
    box = _box(size, legend, marks)
    x = _scale([x for x, _ in every] + [at for at, _ in marks], box.left, box.right, log_x, is_tight=True)
    y = _scale([y for _, y in every], box.bottom, box.top, log_y)
    parts = [_axes(x, y, box, x_label, y_label)]
    for index, points in enumerate(series.values()):
        colour = COLOURS[index % len(COLOURS)]
        if is_filled and points:
            area = f"{_path(points, x, y, is_stepped)}V{box.bottom:.1f}H{x(points[0][0]):.1f}Z"
            parts.append(f'<path d="{area}" fill="{colour}" fill-opacity=".18"/>')
        if len(points) == 1:
            parts.append(f'<circle cx="{x(points[0][0]):.1f}" cy="{y(points[0][1]):.1f}" r="3" fill="{colour}"/>')
        elif points:
            path = _path(points, x, y, is_stepped)
            parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6" stroke-linejoin="round"/>')
    for points in limits.values():
        if points:
            path = _path(points, x, y, is_stepped=True)
            parts.append(f'<path d="{path}" fill="none" stroke="{RED}" stroke-width="1.4" stroke-dasharray="6 4"/>')
    parts += [_marks(marks, x, box), legend]
    return _svg(title, size, parts, is_empty=not every)


def bars(
    title: str, x_label: str, y_label: str, heights: Sequence[Bar], *, log_x: bool = False, marks: Sequence[Mark] = (),
    size: tuple[int, int] = (720, 280),
) -> str:  # fmt: skip
    """Draw a distribution: bars that stand side by side."""
    box = _box(size, "", marks)
    x = _scale([edge for low, high, _ in heights for edge in (low, high)] + [at for at, _ in marks], box.left, box.right, log_x, True)
    y = _scale([height for *_, height in heights], box.bottom, box.top)
    parts = [_axes(x, y, box, x_label, y_label)]
    for low, high, height in heights:
        left, width, top = x(low), max(1.0, x(high) - x(low) - 1), y(height)
        told = escape(f"{_number(low)} to {_number(high)}: {_number(height)}")
        parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{box.bottom - top:.1f}" fill="{COLOURS[0]}"'
            f' fill-opacity=".75"><title>{told}</title></rect>'
        )
    parts.append(_marks(marks, x, box))
    return _svg(title, size, parts, is_empty=not heights)


# -- parts -------------------------------------------------------------------------------------------------------------------


def _svg(title: str, size: tuple[int, int], parts: Sequence[str], is_empty: bool) -> str:
    width, height = size
    name = escape(_short(title, int(width / GLYPH / 1.2)))
    nothing = _text(width / 2, height / 2, "nothing to show", "middle", 0.6) if is_empty else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' role="img" aria-label="{escape(_clean(title))}">{STYLE}<title>{escape(_clean(title))}</title>'
        f'<text x="8" y="17" font-size="13" font-weight="600" fill="currentColor">{name}</text>{"".join(parts)}{nothing}</svg>'
    )


def _box(size: tuple[int, int], legend: str, marks: Sequence[Mark]) -> Box:
    top = 28 + (18 * (legend.count("<!--row-->")) if legend else 0) + (13 * min(3, len(marks)) if marks else 0)
    return Box(58, top, size[0] - 30, size[1] - 40)  # half of the last number stands beyond the end of its axis


def _legend(names: Sequence[tuple[str, str]], width: int) -> str:
    """Swatches and names, in as many rows as it takes, four at most."""
    parts, x, y = ["<!--row-->"], 58.0, 34.0
    for index, (name, colour) in enumerate(names):
        text = _short(name, LONGEST_NAME)
        need = 26 + len(text) * GLYPH
        if x + need > width - 14 and x > 58:
            if parts.count("<!--row-->") == 4:
                parts.append(_text(x, y, f"and {len(names) - index} more", "start", 0.7))
                break
            parts.append("<!--row-->")
            x, y = 58.0, y + 18
        parts.append(f'<rect x="{x:.0f}" y="{y - 6:.0f}" width="12" height="3" fill="{colour}"/>')
        parts.append(_text(x + 17, y, text, "start"))
        x += need
    return "".join(parts)


def _axes(x: Scale, y: Scale, box: Box, x_label: str, y_label: str) -> str:
    parts = []
    for value in y.ticks(max(2, int((box.bottom - box.top) / 34))):
        at = y(value)
        parts.append(_line(box.left, at, box.right, at, 0.14))
        parts.append(_text(box.left - 6, at + 3.5, _number(value), "end", 0.8))
    for value in x.ticks(max(2, int((box.right - box.left) / 70))):
        at = x(value)
        parts.append(_line(at, box.bottom, at, box.bottom + 4, 0.5))
        parts.append(_text(at, box.bottom + 16, _number(value), "middle", 0.8))
    parts.append(_line(box.left, box.bottom, box.right, box.bottom, 0.5))
    parts.append(_text((box.left + box.right) / 2, box.bottom + 33, x_label, "middle", 0.8))
    middle = (box.top + box.bottom) / 2
    parts.append(
        f'<text x="12" y="{middle:.1f}" transform="rotate(-90 12 {middle:.1f})" text-anchor="middle" fill="currentColor"'
        f' fill-opacity=".8">{escape(_clean(y_label))}</text>'
    )
    return "".join(parts)


def _marks(marks: Sequence[Mark], x: Scale, box: Box) -> str:
    """Upright lines with their names above, in three rows so that near ones stay readable."""
    parts = []
    rows = min(3, len(marks))
    for index, (value, name) in enumerate(sorted(marks)):
        at, row = x(value), index % rows
        top = box.top - 13 * (rows - row) + 9
        text = _short(name, LONGEST_NAME)
        is_left = at + len(text) * GLYPH > box.right  # its name would not fit to the right
        parts.append(
            f'<line x1="{at:.1f}" y1="{top - 8:.1f}" x2="{at:.1f}" y2="{box.bottom:.1f}" stroke="currentColor" stroke-opacity=".55"'
            ' stroke-dasharray="2 3"/>'
        )
        parts.append(_text(at - 4 if is_left else at + 4, top, text, "end" if is_left else "start"))
    return "".join(parts)


def _path(points: Sequence[Point], x: Scale, y: Scale, is_stepped: bool) -> str:
    first, *rest = points
    moves = [f"M{x(first[0]):.1f} {y(first[1]):.1f}"]
    for at, height in rest:
        moves.append(f"H{x(at):.1f}V{y(height):.1f}" if is_stepped else f"L{x(at):.1f} {y(height):.1f}")
    return "".join(moves)


def _line(x1: float, y1: float, x2: float, y2: float, opacity: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="currentColor" stroke-opacity="{opacity}"/>'


def _text(x: float, y: float, text: str, anchor: str, opacity: float = 1.0) -> str:
    fade = f' fill-opacity="{opacity}"' if opacity < 1 else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor"{fade}>{escape(_clean(text))}</text>'


# -- numbers and names -------------------------------------------------------------------------------------------------------


def _scale(values: Sequence[float], start: float, end: float, is_log: bool = False, is_tight: bool = False) -> Scale:
    """A scale for all of these, from 0 or, on a logarithmic one, from the least above it. A tight one ends with the last value."""
    known = [value for value in values if math.isfinite(value)]
    if is_log:
        known = [value for value in known if value > 0] or [1.0]
        low, high = min(known), max(known)
        return Scale(low if high > low else low / 2, high if high > low else high * 2, start, end, True)
    low, high = min(0.0, *known, 0.0), max(0.0, *known, 0.0)
    if high <= low:
        high = low + 1.0
    return Scale(low, high if is_tight else high + (high - low) * 0.06, start, end)


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    raw = (high - low) / most
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [f * 10.0**power for power in range(first, last + 1) for f in factors if low * 0.999 <= f * 10.0**power <= high * 1.001]
        if len(ticks) <= most:
            break
    return ticks[:: max(1, math.ceil(len(ticks) / most))]


def _number(value: float) -> str:
    if value == 0:
        return "0"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.4g}{letter}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _clean(text: str) -> str:
    """Without what XML cannot have, escaped or not (XML 1.0 section 2.2)."""
    return "".join(c if c >= " " and not "\ud800" <= c <= "\udfff" and c not in "\ufffe\uffff" else " " for c in text)


def _short(text: str, longest: int) -> str:
    text = _clean(text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
