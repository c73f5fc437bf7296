"""What a load looks like over time, in numbers."""

from __future__ import annotations

from random import Random

import pytest

from relay.loadkit.change import Change
from relay.loadkit.series import MOST_BINS, answers, bin_of, latency, occupancies, rates
from relay.loadkit.verdict import Limits, Rules
from relay.loadkit.window import running_sums
from tests.loadkit.outcomes import BEGAN, attempt, commit, history, outcome


def rounded(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Instants are kept in µs since 1970, and those are not whole binary fractions of a second."""
    return [(round(at, 3), height) for at, height in points]


def test_every_attempt_is_in_a_bin_whenever_it_ended() -> None:
    attempts = [attempt(n / 7, code=(250, 451, 0)[n % 3]) for n in range(100)]
    seen = rates(outcome(attempts, 14.0))
    assert len(seen.taken) == len(seen.refused) == len(seen.silent) <= MOST_BINS + 1
    whole = [sum(height for _, height in points[:-1]) * seen.step for points in (seen.taken, seen.refused, seen.silent)]
    assert [round(count) for count in whole] == pytest.approx([34, 33, 33], abs=1)


@pytest.mark.parametrize("seconds", [0.0, 0.01, 1, 59, 3600, 1e6])
def test_there_are_never_too_many_bins(seconds: float) -> None:
    assert seconds / bin_of(seconds) <= MOST_BINS + 1


def test_quantiles_are_of_what_was_taken_and_every_message_is_in_a_class() -> None:
    took = latency([attempt(0, took=n / 1000) for n in range(1, 101)] + [attempt(0, code=451, took=9)])
    assert took is not None
    assert (took.count, took.p50, took.p90, took.p99, took.most) == pytest.approx((100, 51, 91, 100, 100))
    assert sum(count for *_, count in took.classes) == 100
    assert all(low < high for low, high, _ in took.classes)
    assert latency([attempt(0, code=451)]) is None


def test_a_message_counts_in_its_window_and_then_no_more() -> None:
    [one] = occupancies(outcome([attempt(1)], 10.0, history=history(commit(1), commit(2), commit(-3), commit(-5))))
    assert rounded(one.points) == [(0, 1), (1, 2), (2, 2), (6, 1), (7, 0), (10, 0)]
    assert one.peak == 2 and one.fullness == 1.0
    assert one.limit == [[(0.0, 2.0), (10.0, 2.0)]]


def test_the_limit_and_the_marks_follow_the_changes_that_were_made() -> None:
    def change(at: float, hourly: int | None, error: str = "") -> Change:
        instant = int((BEGAN + at) * 1e6)
        return Change("limits", "app", instant, instant, hourly, None, error)

    changes = (change(3, 4), change(5, 8, "HTTP 500"), change(6, None), change(8, 0))
    [one] = occupancies(outcome([attempt(1)], 10.0, changes=changes, history=history(commit(1))))
    assert [rounded(stretch) for stretch in one.limit] == [[(0, 2), (3, 4), (6, 4)], [(8, 0), (10, 0)]]
    assert [name for _, name in one.marks] == ["hourly 4", "limits failed", "hourly unlimited", "hourly 0"]


def test_without_a_journal_the_250s_are_what_counts() -> None:
    subject = outcome([attempt(1), attempt(2, code=451), attempt(3)], 4.0)
    [one] = occupancies(subject)
    assert one.peak == 2


def test_the_peak_survives_however_much_is_thinned() -> None:
    random = Random(3)
    commits = [commit(random.random() * 100 + n * 1e-7) for n in range(20_000)]
    subject = outcome([attempt(0)], 100.0, history=history(*commits), rules=Rules(7.0), limits={"app": Limits(5000, None)})
    [one] = occupancies(subject)
    assert len(one.points) < 1500
    assert max(height for _, height in one.points) == one.peak == max(running_sums(sorted((c.instant, 1) for c in commits), 7_000_000))


def test_the_fullest_by_share_of_their_limit_come_first() -> None:
    commits = [commit(1 + n / 10, "big") for n in range(8)] + [commit(1.05), commit(1.15), commit(1, "free")]
    limits = {"big": Limits(100, None), "app": Limits(2, None), "free": Limits()}
    subject = outcome([], history=history(*commits), limits=limits)
    assert [one.user for one in occupancies(subject)] == ["app", "big", "free"]
    assert [one.user for one in occupancies(subject, 1)] == ["app"]


def test_replies_are_counted_by_code_and_stage() -> None:
    found = answers([attempt(0), attempt(1), attempt(2, code=451, text="4.7.0 x"), attempt(3, code=0)])
    assert [(one.code, one.stage, one.count) for one in found] == [(250, "taken", 2), (451, "data", 1), (0, "dot", 1)]
    assert found[1].text == "4.7.0 x"
