"""The deadlines of what is under way on a session: one timer for one attempt after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextvars import Context
from typing import TypeVarTuple

import pytest

from relay.upstream.conversation import Conversation, Overdue
from relay.upstream.progress import AGAIN, Progress, Stage, Watch

Ts = TypeVarTuple("Ts")


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time stands still until it is turned on, and that knows its timers."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.timers: list[asyncio.TimerHandle] = []
        self.count = 0
        """Timers that were ever set."""

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self.timers.append(timer)
        self.count += 1
        return timer

    def turn_to(self, now: float) -> None:
        """Let the timers strike that are due by then."""
        self.now = now
        for timer in tuple(self.timers):
            if timer.when() <= now:
                self.timers.remove(timer)
                if not timer.cancelled():
                    timer._run()

    @property
    def armed(self) -> list[float]:
        """When the timers strike that are set."""
        return [timer.when() for timer in self.timers if not timer.cancelled()]


@pytest.fixture
def clock() -> Iterator[Clock]:
    """A clock at 100 s."""
    clock = Clock()
    yield clock
    clock.close()


@pytest.fixture
def talk(clock: Clock) -> Conversation:
    """A conversation on which nobody waits."""
    return Conversation(clock)


@pytest.fixture
def watch(clock: Clock, talk: Conversation) -> Watch:
    """The watch over it."""
    return Watch(clock, talk)


def test_one_timer_serves_attempt_after_attempt(clock: Clock, watch: Watch) -> None:
    for number in range(1000):
        clock.turn_to(100.0 + number / 100)
        watch.begin(Progress(clock.now, 20.0))
        watch.end()
    assert (clock.count, clock.armed) == (1, [120.0])


def test_the_deadline_that_strikes_is_that_of_the_attempt_that_is_under_way(clock: Clock, talk: Conversation, watch: Watch) -> None:
    watch.begin(Progress(clock.now, 20.0))
    watch.end()
    clock.turn_to(115.0)
    watch.begin(Progress(clock.now, 20.0))
    waiter = talk.wait()
    clock.turn_to(134.9)
    assert not waiter.done() and clock.armed == [135.0]
    clock.turn_to(135.0)
    assert waiter.done()
    with pytest.raises(Overdue):
        talk.take()


def test_a_deadline_before_that_of_the_last_attempt_strikes_in_time(clock: Clock, talk: Conversation, watch: Watch) -> None:
    watch.begin(Progress(clock.now, 20.0))
    watch.end()
    watch.begin(Progress(clock.now, 1.0))
    waiter = talk.wait()
    assert clock.armed == [101.0]
    clock.turn_to(101.0)
    assert waiter.done()


def test_a_session_at_rest_has_no_deadline_and_keeps_no_timer_going(clock: Clock, talk: Conversation, watch: Watch) -> None:
    watch.begin(Progress(clock.now, 1.0))
    watch.end()
    waiter = talk.wait()
    clock.turn_to(101.0)
    assert not waiter.done() and clock.armed == []


def test_a_wait_that_follows_what_came_with_the_deadline_is_ended_too(clock: Clock, talk: Conversation, watch: Watch) -> None:
    watch.begin(Progress(clock.now, 1.0))
    clock.turn_to(101.0)  # nobody waits
    waiter = talk.wait()
    clock.turn_to(101.0 + AGAIN)
    assert waiter.done()


@pytest.mark.parametrize("stage", [Stage.BEFORE_DOT, Stage.DOT])
def test_once_the_caller_was_asked_there_is_the_rest_of_its_time(
    clock: Clock, talk: Conversation, watch: Watch, stage: Stage
) -> None:  # fmt: skip
    progress = Progress(clock.now, 1.0, rest=2.0)
    progress.stage = stage
    watch.begin(progress)
    waiter = talk.wait()
    clock.turn_to(101.0)
    progress.check()
    assert not waiter.done() and clock.armed == [103.0]
    clock.turn_to(103.0)
    assert waiter.done()
    with pytest.raises(Overdue):
        progress.check()


def test_a_session_that_is_over_leaves_no_timer(clock: Clock, watch: Watch) -> None:
    watch.begin(Progress(clock.now, 1.0))
    watch.close()
    assert clock.armed == []
