"""The report of a load: one HTML page to show a colleague, and the same as a document for programs.

Promises: the page needs nothing but itself, runs no script, can be read on screens of either kind and on paper; whatever text a server, a
scenario or a user's name put there stays text. However many users there were, it shows the fullest.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from html import escape
from typing import Any

from relay.loadkit import chart, series
from relay.loadkit.outcome import Outcome
from relay.loadkit.verdict import Finding

MOST_FINDINGS = 60
MOST_CHANGES = 60
MOST_ROWS = 40
SHOWN_TEXT = 300
SIGNS = {True: ("good", "✓", "held"), False: ("bad", "✗", "broken"), None: ("none", "·", "not judged")}

STYLE = """
:root{color-scheme:light dark;--ink:#1f2328;--dim:#59636e;--paper:#fff;--card:#f6f8fa;--line:#d5dae1;
--good:#1a7f4b;--bad:#c8302c;--warn:#9a6b00}
@media (prefers-color-scheme:dark){:root{--ink:#d5dae1;--dim:#949ea8;--paper:#0f1318;--card:#181d24;--line:#323a44;
--good:#45b97c;--bad:#f0625d;--warn:#d7a63a}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1040px;padding:28px 20px 60px;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
h1{font-size:25px;line-height:1.25;margin:0 0 2px;overflow-wrap:anywhere}h2{font-size:17px;margin:34px 0 10px}
p{margin:4px 0}.dim{color:var(--dim)}
.verdict{margin:18px 0;padding:14px 18px 12px;background:var(--card);border:1px solid var(--line);border-left:6px solid var(--tone);
border-radius:6px}
.verdict>p{font-size:18px;font-weight:600;color:var(--tone);margin-bottom:8px}
.good{--tone:var(--good)}.bad{--tone:var(--bad)}.none{--tone:var(--warn)}
ul.checks{list-style:none;margin:0;padding:0}ul.checks li{display:grid;grid-template-columns:22px 250px 1fr;gap:4px;padding:2px 0}
ul.checks b{color:var(--tone)}ul.checks span+span{overflow-wrap:anywhere}
.findings{margin-top:10px;padding-left:20px}.findings li{overflow-wrap:anywhere}.findings b{color:var(--tone)}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(108px,1fr));gap:10px;margin:18px 0}
.figures div{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:9px 12px}
.figures b{display:block;font-size:21px;line-height:1.25;font-variant-numeric:tabular-nums}.figures span{color:var(--dim);font-size:13px}
figure{margin:0 0 18px;break-inside:avoid}figure svg{width:100%}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(400px,1fr));gap:6px 24px}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{text-align:left;padding:5px 12px 5px 0;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
th{color:var(--dim);font-weight:600}.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.wide{overflow-x:auto}tr{break-inside:avoid}code{font:13px ui-monospace,monospace}
@media (max-width:640px){ul.checks li{grid-template-columns:22px 1fr}ul.checks span+span{grid-column:2}.pair{grid-template-columns:1fr}}
@media print{body{max-width:none;padding:0;font-size:12px}:root{--paper:#fff;--card:#fff;--ink:#000;--dim:#444;--line:#bbb;--good:#1a7f4b;
--bad:#c8302c;--warn:#9a6b00}}
"""


def page(outcome: Outcome) -> str:
    """The whole page."""
    name = outcome.name or "Load test"
    parts = [
        f"<header><h1>{_safe(name)}</h1>",
        f"<p>{_safe(outcome.description)}</p>" if outcome.description else "",
        f'<p class="dim">{_safe(outcome.target)} · {_when(outcome.began_at)} · {outcome.seconds:,.1f} s</p></header>',
        *_verdict(outcome), *_figures(outcome), *_charts(outcome), *_windows(outcome), *_answers(outcome), *_users(outcome),
        *_changes(outcome), *_settings(outcome),
    ]  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_safe(name)}: {_safe(sentence(outcome))}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def document(outcome: Outcome) -> dict[str, Any]:
    """The same for a program."""
    rates = series.rates(outcome)
    took = series.latency(outcome.attempts)
    codes = {f"{a.code} {a.stage}": a.count for a in sorted(series.answers(outcome.attempts), key=lambda a: (a.code, a.stage))}
    return {
        "name": outcome.name,
        "description": outcome.description,
        "target": outcome.target,
        "began_at": outcome.began_at,
        "settings": dict(outcome.settings),
        "rules": asdict(outcome.rules),
        "load": {**series.figures(outcome), "codes": codes},
        "verdict": {"sentence": sentence(outcome), **outcome.verdict.as_dict()},
        "changes": [asdict(change) for change in outcome.changes],
        "over_time": {"step": rates.step, "taken": rates.taken, "refused": rates.refused, "unanswered": rates.silent},
        "latency_ms": [] if took is None else took.classes,
        "windows": [asdict(occupancy) for occupancy in series.occupancies(outcome)],
    }


def sentence(outcome: Outcome) -> str:
    """The verdict in one plain sentence."""
    checks = outcome.verdict.checks
    judged = sum(check.is_held is not None for check in checks)
    broken = [check.name for check in checks if check.is_held is False]
    if broken:
        many = f"{len(broken)} of {judged} promises" if judged > 1 else "A promise"
        return f"{many} {'were' if len(broken) > 1 else 'was'} broken: {', '.join(broken)}"
    if not outcome.verdict.holds:
        return "Not every change was made" if any(f.kind == "change not made" for f in outcome.verdict.findings) else "A promise was broken"
    if not judged:
        return "Nothing could be judged"
    left = f"; {len(checks) - judged} could not be judged" if judged < len(checks) else ""
    return f"{'The one promise' if judged == 1 else f'All {judged} promises'} that could be judged held{left}"


# -- parts -------------------------------------------------------------------------------------------------------------------


def _verdict(outcome: Outcome) -> Iterator[str]:
    checks, findings = outcome.verdict.checks, outcome.verdict.findings
    is_judged = any(check.is_held is not None for check in checks)
    tone = "bad" if not outcome.verdict.holds else "good" if is_judged else "none"
    yield f'<section class="verdict {tone}"><p>{_safe(sentence(outcome))}.</p><ul class="checks">'
    for check in checks:
        tone, sign, word = SIGNS[check.is_held]
        told = f'<span>{_safe(check.name)}</span><span class="dim">{_safe(check.text)}</span>'
        yield f'<li class="{tone}"><b title="{word}">{sign}</b>{told}</li>'
    yield "</ul>"
    if findings:
        yield f'<ul class="findings">{"".join(map(_finding, sorted(findings, key=lambda f: not f.is_fault)[:MOST_FINDINGS]))}'
        yield f"{_rest(len(findings) - MOST_FINDINGS, 'findings', 'li')}</ul>"
    yield "</section>"


def _finding(finding: Finding) -> str:
    whom = f"{_safe(finding.user)}: " if finding.user else ""
    tone = "bad" if finding.is_fault else "none"
    return f'<li class="{tone}"><b>{_safe(finding.kind)}</b> {whom}{_safe(finding.text)}{"" if finding.is_fault else " (allowed)"}</li>'


def _figures(outcome: Outcome) -> Iterator[str]:
    f = series.figures(outcome)
    shown = [
        ("messages taken", f["taken"]), ("taken a second", f["taken_per_second"]), ("refused", f["refused"]),
        ("without a reply", f["unanswered"]), ("users", f["users"]), ("p50, ms", f["p50_ms"]), ("p99, ms", f["p99_ms"]),
        ("slowest, ms", f["max_ms"]),
    ]  # fmt: skip
    cells = (f"<div><b>{_number(value)}</b><span>{name}</span></div>" for name, value in shown)
    yield f'<section class="figures">{"".join(cells)}</section>'


def _charts(outcome: Outcome) -> Iterator[str]:
    rates, took = series.rates(outcome), series.latency(outcome.attempts)
    drawn = {"taken": rates.taken, "refused": rates.refused}
    if any(height for _, height in rates.silent):
        drawn["no reply"] = rates.silent
    yield "<h2>Over time</h2>"
    yield _figure(chart.lines("Messages a second", "seconds since the load began", "messages/s", drawn, is_filled=True, size=(1000, 300)))
    yield "<h2>How long a message took</h2>"
    title = "Messages taken, by the time from the first word to the last" if took is None or took.count != 1 else "The one message taken"
    if any(attempt.due for attempt in outcome.attempts):
        title += "; waiting counts from when each was due"
    heights, marks = ([], []) if took is None else ([(low, high, float(n)) for low, high, n in took.classes], took.marks)
    yield _figure(chart.bars(title, "ms (logarithmic)", "messages", heights, log_x=True, marks=marks, size=(1000, 280)))


def _windows(outcome: Outcome) -> Iterator[str]:
    windows = series.occupancies(outcome)
    if not windows:
        return
    users = len(series.commits(outcome))
    which = f"the fullest {len(windows)} of {users:,} users" if users > len(windows) else f"{users} user{'s' * (users != 1)}"
    source = "commit instants of the relay's journal" if outcome.history is not None else "the instants of the 250s that clients heard"
    yield f"<h2>How full each window was</h2><p class='dim'>{which}; by the {source}; the window is {outcome.rules.window_seconds:g} s</p>"
    yield '<div class="pair">' if len(windows) > 1 else ""
    size = (490, 220) if len(windows) > 1 else (1000, 280)
    for one in windows:
        limits = {"hourly limit" + (f" ({number})" if number > 1 else ""): stretch for number, stretch in enumerate(one.limit, 1)}
        drawn = {f"{outcome.rules.unit} in the window": one.points}
        yield _figure(
            chart.lines(
                one.user or "(no user)", "seconds", outcome.rules.unit, drawn, is_stepped=True, is_filled=True, limits=limits,
                marks=one.marks[:12], size=size,
            )
        )  # fmt: skip
    yield "</div>" if len(windows) > 1 else ""


def _answers(outcome: Outcome) -> Iterator[str]:
    count = len(outcome.attempts)
    rows = [
        (str(a.code) if a.code else "none", a.stage, _number(a.count), f"{a.count / count:.1%}", a.text[:SHOWN_TEXT])
        for a in series.answers(outcome.attempts)
    ]
    yield from table("Replies", ("code", "stage", "count#", "share#", "one of them"), rows, len(rows))


def _users(outcome: Outcome) -> Iterator[str]:
    usages = {usage.user: usage for usage in outcome.verdict.usages}
    taken: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for attempt in outcome.attempts:
        taken[attempt.user] += attempt.is_taken
        refused[attempt.user] += attempt.code >= 400
    fullness = {user: u.most / u.limits.hourly if u.limits.hourly else 0.0 for user, u in usages.items()}
    names = sorted(taken.keys() | usages.keys(), key=lambda name: (-fullness.get(name, 0.0), -taken[name], name))
    rows = []
    for name in names[:MOST_ROWS]:
        usage = usages.get(name)
        held = outcome.limits.get(name) if usage is None else usage.limits
        hourly, total = ("unknown", "unknown") if held is None else (_limit(held.hourly), _limit(held.total))
        most, whole = ("", "") if usage is None else (_number(usage.most), _number(usage.taken))
        rows.append((name, _number(taken[name]), _number(refused[name]), most, hourly, whole, total))
    header = ("user", "250s#", "refused#", "most in a window#", "hourly limit#", "taken in all#", "total limit#")
    yield from table("Users", header, rows, len(names))


def _changes(outcome: Outcome) -> Iterator[str]:
    rows = []
    for change in sorted(outcome.changes, key=lambda c: c.asked)[:MOST_CHANGES]:
        what = f"hourly {_limit(change.hourly)}, total {_limit(change.total)}" if change.kind == "limits" else change.kind
        at = f"{change.answered / 1e6 - outcome.began_at:.3f}"
        rows.append((at, f"{(change.answered - change.asked) / 1e3:.1f}", change.user, what, change.error or "done"))
    if rows:
        yield from table("Changes while it ran", ("at, s#", "took, ms#", "user", "change", "answer"), rows, len(outcome.changes))


def _settings(outcome: Outcome) -> Iterator[str]:
    rules = outcome.rules
    rows = [(name, value) for name, value in outcome.settings.items()]
    rows.append(("judged by", f"a window of {rules.window_seconds:g} s, {rules.unit} counted, clocks within {rules.slack:g} s"))
    yield from table("Settings", ("setting", "value"), rows, len(rows))


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], count: int) -> Iterator[str]:
    """A table of the first rows of `count`, or nothing if there is none; a column whose name ends in # is of numbers."""
    if not rows:
        return
    kinds = [' class="n"' if name.endswith("#") else "" for name in header]
    yield f'<h2>{title}</h2><div class="wide"><table><thead><tr>'
    yield "".join(f"<th{kind}>{name.rstrip('#')}</th>" for name, kind in zip(header, kinds, strict=True)) + "</tr></thead><tbody>"
    for row in rows:
        yield "<tr>" + "".join(f"<td{kind}>{_safe(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
    yield f"</tbody></table></div>{_rest(count - len(rows), 'more', 'p')}"


def _rest(count: int, what: str, tag: str) -> str:
    return f'<{tag} class="dim">and {count:,} {what} not shown</{tag}>' if count > 0 else ""


def _figure(svg: str) -> str:
    return f"<figure>{svg}</figure>"


def _limit(limit: int | None) -> str:
    return "unlimited" if limit is None else _number(limit)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else series.brief(value)


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def _safe(text: str) -> str:
    """Text as text: escaped, and without what neither HTML nor a terminal should meet."""
    return escape("".join(_kept(text)))


def _kept(text: str) -> Iterable[str]:
    return (c if (c >= " " and not "\x7f" <= c <= "\x9f" and not "\ud800" <= c <= "\udfff") or c == "\n" else "�" for c in text)
