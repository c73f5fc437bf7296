"""Did a changed account hold from the answer on? What was committed later than the new state allows has overtaken the change.

Promises: a disabled or deleted user has nothing taken after the answer; a connection that had logged in before a password was asked
to be changed has nothing taken after that was answered; above a lowered limit nothing is taken after its answer. The time from the
answer to the last such commit is told, below zero when it came before.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from relay.loadkit.admission import Books, hourly_sums
from relay.loadkit.attempt import Attempt
from relay.loadkit.change import Change
from relay.loadkit.history import Commit, History
from relay.loadkit.timeline import NEVER, Course, Timeline
from relay.loadkit.verdict import Finding, Opinion, Promise, Rules, pass_over, weigh


class Measure:
    """By kind of change: the time from its answer to the last commit of before, and what came after."""

    def __init__(self, slack: int) -> None:
        self._slack = slack
        self.last: dict[str, float] = {}
        """Seconds."""
        self.late: dict[tuple[str, str], list[float]] = {}
        """By user and kind, seconds after the answer."""

    def note(self, change: Change, instant: int, is_fault: bool = True) -> None:
        """Take note of a commit that the change forbids; within the slack of the clocks it is not held against it."""
        seconds = (instant - change.answered) / 1e6
        self.last[change.kind] = max(self.last.get(change.kind, seconds), seconds)
        if is_fault and instant > change.answered + self._slack:
            self.late.setdefault((change.user, change.kind), []).append(seconds)


def judge_changes(books: Books, attempts: Sequence[Attempt], history: History | None, rules: Rules) -> Opinion:
    """Look for commits that overtook a change."""
    name: Promise = "overtaken edits and disables"
    done = [change for line in books.timelines.values() for change in line.changes if not change.error and change.kind != "enable"]
    if not done:
        return pass_over(name, "no change was made")
    measure = Measure(rules.slack_us)
    entries = _entries(attempts, history, {change.user for change in done if change.kind == "password"})
    for user, line in books.timelines.items():
        own = books.commits.get(user, ())
        if line.changes and own:
            _measure_switches(line, own, measure)
            _measure_passwords(line, entries.get(user, ()), measure)
            _measure_limits(line, own, measure, rules)
    findings = [
        Finding("change overtaken", f"{kind}: {len(times)} commits, the last {max(times):.3f} s after the answer", user)
        for (user, kind), times in measure.late.items()
    ]
    if history is not None and history.overtaken:
        text = f"the relay itself says of {history.overtaken} users that their change was answered before all was settled"
        findings.append(Finding("change overtaken", text, is_fault=False))
    told = ", ".join(f"{kind} {seconds:+.3f} s" for kind, seconds in sorted(measure.last.items()))
    if not told:
        return pass_over(name, f"nothing was sent that one of {len(done)} changes forbids, before it or after")
    return weigh(name, findings, f"{len(done)} changes; from the answer to the last commit: {told}")


def _spans(changes: Sequence[Change], ends: Callable[[Change], bool]) -> Iterator[tuple[Change, float, float]]:
    """Each change with the instants between which the last one before and the next one after leave it alone."""
    until = NEVER
    found: list[tuple[Change, float]] = []
    for change in reversed(changes):
        found.append((change, until))
        if ends(change):
            until = min(until, change.asked)
    since = -NEVER
    for change, until in reversed(found):
        yield change, since, until
        if ends(change):
            since = max(since, change.asked)


def _measure_switches(line: Timeline, commits: Sequence[Commit], measure: Measure) -> None:
    """Nothing is taken between a disable or a delete and the next enable."""
    switches = [change for change in line.changes if change.kind in ("disable", "enable", "delete")]
    ordered = sorted((commit.earliest, commit.instant) for commit in commits)
    instants = [earliest for earliest, _ in ordered]
    seen = 0
    for change, _, until in _spans(switches, lambda change: change.kind == "enable"):
        if change.kind == "enable" or change.error:
            continue
        end = bisect_left(instants, until)
        if end > seen:
            measure.note(change, instants[end - 1], is_fault=False)
        for instant, latest in ordered[max(seen, bisect_right(instants, change.answered)) : end]:
            states = line.is_enabled.at(instant) if latest == instant else line.is_enabled.over(instant, latest)
            measure.note(change, instant, is_fault=True not in states)
        seen = max(seen, end)


def _measure_passwords(line: Timeline, entries: Sequence[tuple[float, int]], measure: Measure) -> None:
    """Who had logged in before has nothing taken after."""
    changes = sorted((c for c in line.changes if c.kind == "password" and not c.error), key=lambda change: change.asked)
    asked = [change.asked for change in changes]
    for entered, instant in entries:
        index = bisect_right(asked, entered)
        if index < len(changes):
            measure.note(changes[index], instant)


def _entries(attempts: Sequence[Attempt], history: History | None, users: set[str]) -> dict[str, list[tuple[float, int]]]:
    """By user, of each message taken: when its connection had logged in (or it began, if that is not known) and its commit, µs."""
    entries: dict[str, list[tuple[float, int]]] = {}
    for attempt in attempts:
        if attempt.user not in users or not attempt.is_taken:
            continue
        instant = round((attempt.replied_at - attempt.replied + attempt.dot_sent) * 1e6)
        if history is not None:
            if (commit := history.commits.get(attempt.relay_id)) is None:
                continue
            instant = commit.instant
        entries.setdefault(attempt.user, []).append(((attempt.entered_at or attempt.started_at) * 1e6, instant))
    return entries


def _measure_limits(line: Timeline, commits: Sequence[Commit], measure: Measure, rules: Rules) -> None:
    """Nothing above a lowered limit is taken after; what exceeds the limit before as well is over-admission, and not judged here."""
    edits = [change for change in line.changes if change.kind == "limits"]
    if not edits:
        return
    exact, sums = hourly_sums(commits, rules.width)
    totals = accumulate(commit.units for commit in exact)
    rows = sorted((c.earliest, c.instant, count, whole) for c, count, whole in zip(exact, sums, totals, strict=True))
    instants = [earliest for earliest, _, _, _ in rows]
    for edit, since, until in _spans(edits, lambda change: True):
        if edit.error:
            continue
        hourly, total = (NEVER if limit is None else limit for limit in (edit.hourly, edit.total))
        for earliest, latest, count, whole in rows[bisect_left(instants, since) : bisect_left(instants, until)]:
            if count <= hourly and whole <= total:
                continue
            before = earliest - rules.width
            is_fault = _overtakes(line.hourly, count, before, earliest, latest) or _overtakes(line.total, whole, before, earliest, latest)
            measure.note(edit, earliest, is_fault)


def _overtakes(limits: Course[float], count: int, since: int, earliest: int, latest: int) -> bool:
    """Whether only a limit that is no longer in force allows so much."""
    now = limits.at(earliest) if earliest == latest else limits.over(earliest, latest)
    return max(now) < count <= max(limits.over(since, latest))
