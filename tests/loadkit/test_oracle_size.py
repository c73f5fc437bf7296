"""The oracle's work grows with the records, not faster, whatever they are full of."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from relay.loadkit.attempt import Attempt
from relay.loadkit.change import Change
from relay.loadkit.evidence import Evidence
from relay.loadkit.history import Commit, History, Refusal, Rejection
from relay.loadkit.oracle import judge
from relay.loadkit.received import Received
from relay.loadkit.verdict import Limits, Rules

EPOCH = 1_795_000_000
US = 1_000_000
STEP = 500
"""µs from one message to the next."""


def records(count: int, users: int, refused: bool, changes: int, is_foreign: bool = False) -> Evidence:
    """Messages of so many users in turns, every second one refused if asked for, amid so many changes of the first user."""
    attempts: list[Attempt] = []
    history = History()
    received: list[Received] = []
    for number in range(count):
        at, user, id = EPOCH * US + number * STEP, f"u{number % users}", f"r{number}"
        instant = at / US
        begun = instant - 0.0004
        is_refused = refused and number % 2 == 1
        code, text = (451, "4.7.0 Hourly sending limit reached; retry-after=9") if is_refused else (250, f"2.0.0 {id} Ok")
        made = Attempt(f"l{number}", user, 0, 1, begun, begun, 0.0 if is_refused else instant - 0.0001, instant, instant, code, text)
        made.stage = "data" if is_refused else None
        attempts.append(made)
        if is_refused:
            history.refusals.append(Refusal(user, "hourly", 1, at - 1000, at))
            history.rejections.append(Rejection(user, 1, at, "rejected"))
        else:
            history.commits[id] = Commit(id, user, 1, at - 100, at - 50, 1)
            received.append(Received("a", ("b",), "", ("",), 10, made.load_id, True, "", instant, answered=True))
    edits = [
        Change("limits" if number % 2 else "disable", "u0", EPOCH * US + number * 1000, EPOCH * US + number * 1000 + 900, 10, 100)
        for number in range(changes)
    ]
    limits = {f"u{number}": Limits(count, count) for number in range(users)}
    return Evidence(attempts, None if is_foreign else history, received, limits, edits, None, is_foreign)


def lines_run(work: Callable[[], object]) -> int:
    """How many lines of Python it takes."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("is_foreign", [False, True])
@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("users", [1, 50])
@pytest.mark.parametrize("changes", [0, 1])
def test_twice_the_records_are_twice_the_work(users: int, refused: bool, changes: int, is_foreign: bool) -> None:
    rules = Rules(3.0)
    small, large = (records(count, users, refused, changes * count // 20, is_foreign) for count in (2000, 4000))
    assert lines_run(lambda: judge(large, rules)) < 2.5 * lines_run(lambda: judge(small, rules))


def test_a_large_history_is_judged_whole() -> None:
    verdict = judge(records(100_000, 1000, refused=False, changes=0), Rules(3.0))
    assert verdict.holds
    assert sum(usage.taken for usage in verdict.usages) == 100_000
