"""What of a user's account may have been in force at an instant, given the changes that were made to it; pure.

Promise: a change holds from its answer on; before it was asked the account was as it was; between the two it may be either. Of changes
that overlap, any may have come last. One that the API did not confirm may have been made or not, until a later one is answered.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from relay.loadkit.change import Change
from relay.loadkit.verdict import Limits

State = TypeVar("State")
NEVER = float("inf")


class Event(NamedTuple, Generic[State]):
    """One change of one thing."""

    state: State
    asked: float
    answered: float
    is_certain: bool = True
    """False: it was not confirmed, and ends nothing that was before."""


class Course(Generic[State]):
    """What one thing may have been, over time."""

    def __init__(self, first: State, events: Iterable[Event[State]], slack: float = 0) -> None:
        """`slack` is how far the clocks of the events and of the questions may differ, µs."""
        start = Event(first, -NEVER, -NEVER)
        marks: list[tuple[float, int, Event[State]]] = []
        for event in events:
            marks.append((event.asked - slack, 0, event))
            if event.is_certain:
                marks.append((event.answered + slack, 1, event))
        marks.sort(key=lambda mark: mark[:2])
        self._spans: dict[tuple[int, int], tuple[State, ...]] = {}
        self._instants: list[float] = [-NEVER]
        self._states: list[tuple[State, ...]] = [(first,)]
        active = [start]
        for instant, is_answer, event in marks:
            if is_answer:  # what was certain before this was asked is over
                active = [other for other in active if other is event or other.answered >= event.asked]
            else:
                active.append(event)
            self._instants.append(instant)
            self._states.append(tuple(dict.fromkeys(other.state for other in active)))

    def at(self, instant: float) -> tuple[State, ...]:
        """What it may have been at an instant; at that of an answer, still what was before."""
        return self._states[max(0, bisect_left(self._instants, instant) - 1)]

    def over(self, since: float, until: float) -> tuple[State, ...]:
        """All that it may have been from one instant to another."""
        first, last = max(0, bisect_left(self._instants, since) - 1), bisect_right(self._instants, until)
        if last - first == 1:
            return self._states[first]
        if (known := self._spans.get((first, last))) is None:  # many questions fall between the same changes
            known = self._spans[first, last] = tuple(dict.fromkeys(state for states in self._states[first:last] for state in states))
        return known

    @property
    def is_fixed(self) -> bool:
        """Whether it never changed."""
        return len(self._instants) == 1


class Timeline:
    """One user's account: its limits, and whether it may send."""

    def __init__(self, limits: Limits, changes: Sequence[Change], slack: float) -> None:
        self.first = limits
        self.changes = sorted(changes, key=lambda change: change.answered)
        edits = [change for change in self.changes if change.kind == "limits"]
        self.hourly = Course(_bound(limits.hourly), [_event(_bound(edit.hourly), edit) for edit in edits], slack)
        self.total = Course(_bound(limits.total), [_event(_bound(edit.total), edit) for edit in edits], slack)
        switches = [change for change in self.changes if change.kind in ("disable", "enable", "delete")]
        self.is_enabled = Course(True, [_event(change.kind == "enable", change) for change in switches], slack)
        entries = [change for change in self.changes if change.kind in ("disable", "enable", "delete", "password")]
        self.may_be_sent_off = Course(False, [_event(True, change) for change in entries], slack)
        """Whether a connection of before may have to be turned away: the account was disabled, deleted or given another password."""


def _bound(limit: int | None) -> float:
    return NEVER if limit is None else limit


def _event(state: State, change: Change) -> Event[State]:
    return Event(state, change.asked, change.answered, not change.error)


def timelines(limits: Mapping[str, Limits], changes: Iterable[Change], slack: float) -> dict[str, Timeline]:
    """By user, of all whose limits are known."""
    own: dict[str, list[Change]] = {}
    for change in changes:
        own.setdefault(change.user, []).append(change)
    return {user: Timeline(first, own.get(user, ()), slack) for user, first in limits.items()}
