"""What the journals of a relay's nodes say was taken and refused.

Promise: the order of files and lines does not matter. A line that cannot be read (a node killed while it wrote) is counted, not guessed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

DECIDING = 500_000
"""µs that a refusal may have been decided before its journal line was written: the store's answer travels, a busy worker lags."""

_WANTED = ('"taken"', '"settled"', '"refused"', '"rejected"', '"overdraft"')


@dataclass(slots=True)
class Commit:
    """One message taken; instants in µs."""

    id: str
    user: str
    units: int
    at: int
    """On the store's clock; 0: never recorded there."""
    told: int
    """When the journal line was written, by the node's clock."""
    recipients: int | None = None
    """Distinct ones; None where only the settling was journaled."""
    is_overdraft: bool = False

    @property
    def instant(self) -> int:
        """When it counts from; the journal's own time stands in for what was never recorded."""
        return self.at or self.told


@dataclass(frozen=True, slots=True)
class Refusal:
    """One message refused before 354. The decision lies between `earliest` and `latest`, µs."""

    user: str
    reason: str
    units: int
    earliest: int
    latest: int


@dataclass(slots=True)
class History:
    """All of it."""

    commits: dict[str, Commit] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    in_doubt: Counter[str] = field(default_factory=Counter)
    """By user: messages not taken of which the smarthost's answer was never heard."""
    twice: list[str] = field(default_factory=list)
    """Ids that were taken more than once."""
    unreadable: int = 0

    def by_user(self) -> dict[str, list[Commit]]:
        """Every user's commits in order of their instants."""
        users: dict[str, list[Commit]] = {}
        for commit in sorted(self.commits.values(), key=lambda c: c.instant):
            users.setdefault(commit.user, []).append(commit)
        return users


def read_history(lines: Iterable[str]) -> History:
    """Read journal lines of any number of nodes."""
    history = History()
    settled: dict[str, Commit] = {}
    overdrafts: set[str] = set()
    for line in lines:
        # Most lines of a journal are of no interest here, and reading JSON is what takes the time.
        if not any(name in line for name in _WANTED):
            continue
        try:
            event = json.loads(line)
            _read(event, history, settled, overdrafts)
        except (ValueError, KeyError, TypeError):
            history.unreadable += 1
    for id, commit in settled.items():
        known = history.commits.setdefault(id, commit)
        known.at = known.at or commit.at
    for id in overdrafts & history.commits.keys():
        history.commits[id].is_overdraft = True
    return history


def _read(event: dict[str, Any], history: History, settled: dict[str, Commit], overdrafts: set[str]) -> None:
    match event["event"]:
        case "taken":
            commit = _commit(event)
            commit.recipients = len(set(event["recipients"]))
            if commit.id in history.commits:
                history.twice.append(commit.id)
            history.commits[commit.id] = commit
        case "settled" if event["units"] > 0:
            commit = _commit(event)
            settled[commit.id] = commit
        case "overdraft":
            overdrafts.add(event["id"])
        case "refused":
            told = _microseconds(event["ts"])
            history.refusals.append(Refusal(event["user"], event["reason"], event["units"], told - DECIDING, told))
        case "rejected" if event.get("outcome") == "in_doubt":
            history.in_doubt[event["user"]] += 1


def _commit(event: dict[str, Any]) -> Commit:
    return Commit(event["id"], event["user"], event["units"], event["at"], _microseconds(event["ts"]))


def _microseconds(stamp: str) -> int:
    moment = datetime.fromisoformat(stamp)
    return int(moment.replace(microsecond=0).timestamp()) * 1_000_000 + moment.microsecond


def read_journals(paths: Iterable[Path]) -> History:
    """Read journal files, one or several per node."""
    return read_history(_lines(paths))


def _lines(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from file
