"""Was more let through than the limits allow, in any window or ever? Commit instants alone decide.

Promises: every commit that is no overdraft must have fitted, overdrafts before it counted. Where a limit was changed, over-admission
is what exceeds every limit that was in force in the window; what exceeds only the newer one is the edit's matter (see `overtaking`).

Of a foreign server a commit is known to lie between the final dot and its 250. Only those whose dot and 250 both lie within one window
count there: what exceeds so cannot be explained. What was answered later than a window after its dot is not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from relay.loadkit.history import Commit
from relay.loadkit.remainder import Remainder
from relay.loadkit.timeline import NEVER, Course, Timeline
from relay.loadkit.verdict import Finding, Kind, Limits, Opinion, Rules, Usage, leave_open, pass_over, some, weigh
from relay.loadkit.window import contained_sums, running_sums


class Books(NamedTuple):
    """Whose commits are judged, and how exactly their instants are known."""

    commits: Mapping[str, Sequence[Commit]]
    """By user, in order of their instants."""
    timelines: Mapping[str, Timeline]
    doubt: int = 0
    """µs that a commit may lie before its instant, at the most."""

    def known(self) -> Iterator[tuple[str, Sequence[Commit], Timeline]]:
        """Those who sent anything and whose limits are known."""
        for user, own in self.commits.items():
            if user in self.timelines:
                yield user, own, self.timelines[user]


def usages(books: Books, rules: Rules) -> tuple[Usage, ...]:
    """What every user sent."""
    found = []
    for user, own in sorted(books.commits.items()):
        limits = books.timelines[user].first if user in books.timelines else Limits()
        most = max(running_sums([(c.instant, c.units) for c in own], rules.width), default=0)
        overdrafts = sum(c.units for c in own if c.is_overdraft)
        changes = books.timelines[user].changes if user in books.timelines else ()
        edits = tuple(Limits(c.hourly, c.total) for c in changes if c.kind == "limits" and not c.error)
        found.append(Usage(user, limits, most, sum(c.units for c in own), overdrafts, edits))
    return tuple(found)


def hourly_sums(commits: Sequence[Commit], width: int) -> tuple[Sequence[Commit], list[int]]:
    """The commits whose instants are known, and the units that must have been committed in the window that ends with each."""
    exact = [commit for commit in commits if not commit.is_loose and commit.doubt < width]
    if any(commit.doubt for commit in exact):
        return exact, list(contained_sums([(c.earliest, c.instant, c.units) for c in exact], width))
    return exact, list(running_sums([(c.instant, c.units) for c in exact], width))


def judge_hourly(books: Books, rules: Rules) -> Opinion:
    """At most so many in any window."""
    if problem := _unjudged(books):
        return pass_over("over-admission (hourly)", problem)
    slow = sum(commit.doubt >= rules.width for _, own, _ in books.known() for commit in own)
    if slow and slow == sum(len(own) for _, own, _ in books.known()):
        return pass_over("over-admission (hourly)", "no 250 came sooner than a window after its final dot")
    findings: list[Finding] = []
    for user, own, line in books.known():
        exact, sums = hourly_sums(own, rules.width)
        findings += _excess("over the hourly limit", user, zip(exact, sums, strict=True), line.hourly, rules)
    findings += _overdrafts(books)
    text = _figures(books)
    if books.doubt:
        text += (
            f", by what was both sent and answered within a window: the longest time from final dot to 250 was {books.doubt / 1e6:.3f} s"
        )
        text += f", {slow} took longer than a window and count in none" if slow else ""
    return _but_for_overdrafts(weigh("over-admission (hourly)", findings, text), books)


def judge_total(books: Books, rules: Rules) -> Opinion:
    """At most so many ever."""
    if problem := _unjudged(books):
        return pass_over("over-admission (total)", problem)
    findings: list[Finding] = []
    for user, own, line in books.known():
        sums = accumulate(commit.units for commit in own)
        findings += _excess("over the total limit", user, zip(own, sums, strict=True), line.total, rules)
    return _but_for_overdrafts(weigh("over-admission (total)", findings, _figures(books)), books)


def _but_for_overdrafts(opinion: Opinion, books: Books) -> Opinion:
    """Where an overdraft that nothing explains is not over a limit here, it may be over the other one, or over what is not known."""
    strange = [commit.id for own in books.commits.values() for commit in own if commit.is_unexplained]
    return leave_open(opinion, f"of {len(strange)} overdrafts nothing says that they were late: {some(strange)}") if strange else opinion


def but_for_remainders(opinion: Opinion, books: Books, remainders: Mapping[str, Remainder], rules: Rules) -> Opinion:
    """Take back that a limit held where it would not have, with what was delivered and is in no record."""
    if opinion.check.is_held is not True or not remainders:
        return opinion
    loose = 0
    for user, remainder in remainders.items():
        if (line := books.timelines.get(user)) is None:
            continue
        own = books.commits.get(user, ())
        if opinion.check.name == "over-admission (total)":
            most, course = sum(commit.units for commit in own), line.total
        else:
            most, course = max(running_sums([(c.instant, c.units) for c in own], rules.width), default=0), line.hourly
        if most + remainder.units > min(course.over(-NEVER, NEVER)):
            loose += remainder.count
    if not loose:
        return opinion
    return leave_open(opinion, f"{loose} reached the sink without a reply to their final dot and are in no record")


def _unjudged(books: Books) -> str:
    if not books.commits:
        return "nothing was taken"
    return "" if any(books.known()) else "the limits of those who sent are not known"


def _figures(books: Books) -> str:
    sizes = [len(own) for _, own, _ in books.known()]
    return f"{sum(sizes)} taken of {len(sizes)} user{'s' * (len(sizes) != 1)}"


def _excess(kind: Kind, user: str, sums: Iterable[tuple[Commit, int]], limits: Course[float], rules: Rules) -> Iterator[Finding]:
    over: list[tuple[int, float, str]] = []
    fixed = limits.at(0)[0] if limits.is_fixed else -1.0
    for commit, count in sums:
        if count <= fixed or commit.is_overdraft:
            continue
        limit = max(limits.over(commit.earliest - rules.width, commit.instant))
        if count > limit:
            over.append((count, limit, commit.id))
    if over:
        count, limit, id = max(over, key=lambda excess: (excess[0] - excess[1], excess[0]))
        where = " in a window" if kind == "over the hourly limit" else ""
        yield Finding(kind, f"{count} of {_show(limit)} {rules.unit}{where}, worst at {id}, {len(over)} commits over", user)


def _show(limit: float) -> str:
    return "unlimited" if limit == NEVER else f"{limit:.0f}"


def _overdrafts(books: Books) -> Iterator[Finding]:
    for user, own in books.commits.items():
        if overdrafts := [c.id for c in own if c.is_overdraft or c.is_unexplained]:
            yield Finding("overdraft", f"{len(overdrafts)}: {some(overdrafts)}", user, is_fault=False)
