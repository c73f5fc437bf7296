"""The report of a benchmark: one HTML page, the same as a document for programs, and its pictures one by one; pure.

Promises: the page needs nothing but itself; the machine is named wherever there is a figure.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from html import escape
from typing import Any

from relay.loadkit import chart
from relay.loadkit.bench import OURS, Curve, Findings, Round
from relay.loadkit.page import STYLE, table

TITLE = "Benchmark of the relay"
NUMBERS = ("messages/s#", "p50 ms#", "p99 ms#", "CPU µs#", "store µs#")


def document(findings: Findings) -> dict[str, Any]:
    """It for a program."""
    others = [server for server in findings.servers() if server != OURS]
    return {
        "began_at": findings.began_at,
        "machine": findings.machine,
        "medians": [_round(middle) for _, middle in _medians(findings)],
        "ratios": {case: {server: findings.ratio(case, server) for server in others} for case in findings.cases()} if others else {},
        "rounds": [_round(each) for each in findings.rounds],
        "curves": [
            {"name": curve.name, "x": curve.x_label, "series": {name: [_round(r) for r in found] for name, found in curve.series.items()}}
            for curve in findings.curves
        ],
        "figures": [asdict(figure) for figure in findings.figures],
    }  # fmt: skip


def _medians(findings: Findings) -> list[tuple[str, Round]]:
    every = [(case, findings.median(case, server)) for case in findings.cases() for server in findings.servers()]
    return [(case, middle) for case, middle in every if middle is not None]


def _round(found: Round) -> dict[str, Any]:
    return {**asdict(found), "rate": found.rate, "cost": found.cost, "store": found.store}


def pictures(findings: Findings) -> dict[str, str]:
    """SVG by the name of a file."""
    found: dict[str, str] = {}
    for curve in findings.curves:
        name = "-".join(curve.name.split())
        is_log = any(each.x > 1000 for rounds in curve.series.values() for each in rounds)
        found[f"{name}-cpu.svg"] = chart.lines(f"CPU a message against {curve.name}", curve.x_label, "µs", _costs(curve), log_x=is_log)
        rates = {name: [(each.x, each.rate) for each in rounds] for name, rounds in curve.series.items()}
        found[f"{name}-rate.svg"] = chart.lines(f"Messages a second against {curve.name}", curve.x_label, "messages/s", rates, log_x=is_log)
    if findings.rounds:
        found["rates.svg"] = _standing(findings)
    return found


def _costs(curve: Curve) -> Mapping[str, Sequence[tuple[float, float]]]:
    several = len(curve.series) > 1
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, rounds in curve.series.items():
        lines[f"relay, {name}" if several else "relay"] = [(each.x, each.cost) for each in rounds]
        lines[f"store, {name}" if several else "store"] = [(each.x, each.store) for each in rounds]
    return lines


def _standing(findings: Findings) -> str:
    """A row for each case and server: how many messages a second."""
    rows = _medians(findings)
    most = max((middle.rate for _, middle in rows), default=0.0) or 1.0
    servers = findings.servers()
    parts, y, last = [], 34, ""
    for case, middle in rows:
        y += 8 if case != last else 0
        width = max(1.0, 340 * middle.rate / most)
        colour = chart.COLOURS[servers.index(middle.server) % len(chart.COLOURS)]
        label = f"{case}" if case != last else ""
        parts.append(
            f'<text x="318" y="{y + 11}" text-anchor="end" fill="currentColor">{escape(label)}</text>'
            f'<rect x="326" y="{y}" width="{width:.1f}" height="13" fill="{colour}"/>'
            f'<text x="{332 + width:.1f}" y="{y + 11}" fill="currentColor">{middle.rate:,.0f} {escape(middle.server)}</text>'
        )
        y, last = y + 17, case
    title = "Messages a second, whole path"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 780 {y + 8}" width="780" height="{y + 8}" role="img"'
        f' aria-label="{title}">{chart.STYLE}<title>{title}</title>'
        f'<text x="8" y="17" font-size="13" font-weight="600" fill="currentColor">{title}</text>{"".join(parts)}</svg>'
    )


# -- the page ----------------------------------------------------------------------------------------------------------------


def page(findings: Findings) -> str:
    """The whole page."""
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(findings.began_at))
    machine = ", ".join(f"{name} {value}" if name != "CPU" else value for name, value in findings.machine.items())
    parts = [
        f'<header><h1>{TITLE}</h1><p class="dim">{escape(machine)} · {when}</p>'
        '<p class="dim">Load, relay, store and sink share the machine. '
        "Every message was accounted for: ledger = journal = sink.</p></header>",
        *_cases(findings), *(part for curve in findings.curves for part in _curve(curve)), *_figures(findings),
        *(f"<figure>{picture}</figure>" for picture in pictures(findings).values()),
    ]  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{TITLE}</title><style>{STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _cases(findings: Findings) -> Iterator[str]:
    rows = []
    for case, middle in _medians(findings):
        ratio = findings.ratio(case, middle.server) if middle.server != OURS else None
        times = f"{ratio:.1f} times as fast" if ratio is not None else ""
        rows.append(["" if ratio is not None else case, middle.server, *_numbers(middle), times])
    yield from table("The whole path", ("", "", *NUMBERS, "the relay is"), rows, len(rows))


def _curve(curve: Curve) -> Iterator[str]:
    rows = [[f"{each.x:,.0f}", name, *_numbers(each)] for name, rounds in curve.series.items() for each in rounds]
    yield from table(escape(curve.name.capitalize()), (f"{escape(curve.x_label)}#", "", *NUMBERS), rows, len(rows))


def _numbers(found: Round) -> list[str]:
    return [f"{found.rate:,.0f}", f"{found.p50:.2f}", f"{found.p99:.2f}", f"{found.cost:,.0f}", f"{found.store:,.0f}"]


def _figures(findings: Findings) -> Iterator[str]:
    rows = [[each.name, f"{each.value:,.1f} {each.unit}", each.text] for each in findings.figures]
    yield from table("Memory", ("", "#", ""), rows, len(rows))
