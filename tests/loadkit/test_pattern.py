"""Arrival patterns: when messages are due. Nothing here looks at a clock; the beginning is given."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.loadkit.pattern import Burst, Open, Ramp, Rate, Sawtooth

rates = st.floats(0.01, 10_000)
spans = st.floats(0.05, 5_000)
counts = st.integers(1, 50)
patterns: st.SearchStrategy[Open] = st.one_of(
    st.builds(Rate, rates),
    st.builds(Burst, counts, spans),
    st.builds(Ramp, st.floats(0, 1000), rates, spans),
    st.builds(lambda n, edge, times, anchor: Sawtooth(n, edge, edge * times, anchor), counts, spans, st.floats(2, 50),
              st.sampled_from(["clock", "first"])),
)  # fmt: skip


@given(patterns, st.floats(0, 2e9))
def test_messages_are_due_in_order_and_never_before_the_beginning(pattern: Open, began_at: float) -> None:
    due = list(islice(pattern.due(began_at), 300))
    assert len(due) == 300
    assert due[0] >= 0
    assert all(later >= earlier - 1e-6 for earlier, later in pairwise(due))


@given(rates)
def test_a_rate_is_even(rate: float) -> None:
    due = list(islice(Rate(rate).due(), 100))
    assert due[0] == 0
    assert all(later - earlier == pytest.approx(1 / rate, rel=1e-6) for earlier, later in pairwise(due))


@given(counts, spans)
def test_a_burst_is_at_once_and_again_after_its_pause(count: int, every: float) -> None:
    due = list(islice(Burst(count, every).due(), 3 * count))
    assert due == [0.0] * count + [every] * count + [2 * every] * count


@given(st.floats(0, 500), st.floats(0.1, 500), st.floats(0.1, 100))
def test_a_ramp_has_sent_at_each_instant_what_its_rates_add_up_to(start: float, end: float, over: float) -> None:
    for number, at in enumerate(islice(Ramp(start, end, over).due(), 200)):
        within = min(at, over)
        sent = start * within + (end - start) / over * within**2 / 2 + end * max(0.0, at - over)
        assert sent == pytest.approx(number, rel=1e-6, abs=1e-6)


@given(counts, st.floats(1, 4000), st.floats(0.01, 0.5), st.floats(0, 2e9))
def test_a_sawtooth_sends_its_messages_on_either_side_of_each_full_window(count: int, window: float, share: float, began: float) -> None:
    edge = window * share
    due = list(islice(Sawtooth(count, edge, window).due(began), 4 * count))
    for tooth in (due[: 2 * count], due[2 * count :]):
        instants = [(began + at) / window for at in tooth]
        boundary = round(instants[count])
        assert instants[count] == pytest.approx(boundary, abs=1e-5)
        assert all(boundary - share - 1e-5 <= at <= boundary + 1e-5 for at in instants[:count])
        assert all(boundary - 1e-5 <= at <= boundary + share + 1e-5 for at in instants[count:])


def test_a_sawtooth_from_the_first_message_sends_one_to_set_the_window_going() -> None:
    due = list(islice(Sawtooth(2, 1.0, 10.0, "first").due(12345.6), 9))
    assert due == [0.0, 9.0, 9.5, 10.0, 10.5, 19.0, 19.5, 20.0, 20.5]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (Rate(2.5), "2.5 a second"),
        (Burst(10, 5.0), "10 at once every 5 s"),
        (Ramp(0, 10, 4), "from 0 to 10 a second within 4 s"),
        (Sawtooth(5, 0.5, 5), "5 in the 0.5 s before each boundary of a window by the clock, and as many after it"),
    ],
)
def test_a_pattern_says_what_it_is(pattern: Open, words: str) -> None:
    assert str(pattern) == words
