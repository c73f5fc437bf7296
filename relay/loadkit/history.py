"""What the journals of a relay's nodes say was taken, refused and rejected.

Promise: the order of files and lines does not matter. A line that cannot be read (a node killed while it wrote) is counted, not guessed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from relay.loadkit.number import whole

DECIDING = 500_000
"""µs that a refusal may have been decided before its journal line was written: the store's answer travels, a busy worker lags."""

_WANTED = frozenset((
    "taken", "settled", "settled_before", "refused", "rejected", "overdraft", "charge_kept", "charge_at_risk", "delivered",
    "change_overtaken", "in_doubt", "killed_in_flight", "released", "worker_died", "worker_started", "holds_returned",
))  # fmt: skip
_NAME = '"event":"'


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
    is_unexplained: bool = False
    """It is said to be an overdraft, and nothing says that its charge was late: it is judged as any other."""
    is_loose: bool = False
    """It was recorded, but before the line that says so: its instant is known only roughly."""
    spooled: int = 0
    """Recipients whom the smarthost had not taken when the client was answered."""
    doubt: int = 0
    """µs that it may lie before its instant (of a foreign server)."""

    @property
    def instant(self) -> int:
        """When it counts from; the journal's own time stands in for what was never recorded."""
        return self.at or self.told

    @property
    def earliest(self) -> int:
        """The first instant at which it may have been committed."""
        return self.instant - self.doubt


Outcome = Literal["rejected", "deferred", "taken"]


class Refusal(NamedTuple):
    """One message refused before 354. The decision lies between `earliest` and `latest`, µs."""

    user: str
    reason: str
    units: int
    earliest: int
    latest: int


class Rejection(NamedTuple):
    """Recipients of one message that the smarthost refused for good."""

    user: str
    recipients: int
    told: int
    """When the journal line was written, µs by the node's clock: it was counted before, by DECIDING at most."""
    outcome: Outcome
    """What became of the message. Of a deferred one it is not known how many of its recipients were refused for good: these at most."""


@dataclass(slots=True)
class History:
    """All of it."""

    commits: dict[str, Commit] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    in_doubt: Counter[str] = field(default_factory=Counter)
    """By user: messages not taken of which the smarthost's answer was never heard."""
    given_back: Counter[str] = field(default_factory=Counter)
    """By user: messages whose hold was given back without a charge and without a reply that says so."""
    twice: list[str] = field(default_factory=list)
    """Ids that were taken more than once."""
    kept: set[str] = field(default_factory=set)
    """Ids whose charge had to wait for the store, as the relay said at once."""
    late: set[str] = field(default_factory=set)
    """Ids whose charge was recorded after its lease had lapsed, as the relay said when it recorded it."""
    doubted: set[str] = field(default_factory=set)
    """Ids of which a recipient may get a second copy: the smarthost's answer was not heard, or the process died at it."""
    delivered: set[str] = field(default_factory=set)
    """Ids that reached some of their recipients from the spool."""
    overtaken: int = 0
    """Users whose change was answered, as the relay said, although messages let in before it might still be taken."""
    refused: dict[str, str] = field(default_factory=dict)
    """Whose messages were put off after their upload, by id."""
    deaths: list[int] = field(default_factory=list)
    """When a process is said to have died, or to have been started: µs by the node's clock."""
    nodes: set[str] = field(default_factory=set)
    """Who wrote."""
    unreadable: int = 0

    @property
    def strays(self) -> int:
        """Messages in doubt of which nothing says whose they are."""
        return len(self.doubted - self.commits.keys() - self.refused.keys())

    def by_user(self) -> dict[str, list[Commit]]:
        """Every user's commits in order of their instants; of those at one instant the overdrafts last: they are what may exceed."""
        users: dict[str, list[Commit]] = {}
        for commit in sorted(self.commits.values(), key=lambda c: (c.at or c.told, c.is_overdraft)):
            users.setdefault(commit.user, []).append(commit)
        return users


def read_history(lines: Iterable[str]) -> History:
    """Read journal lines of any number of nodes."""
    history = History()
    settled: dict[str, Commit] = {}
    overdrafts: set[str] = set()
    for line in lines:
        # Most lines of a journal are of no interest here, and reading JSON is what takes the time.
        start = line.find(_NAME) + len(_NAME)
        if start < len(_NAME) or line[start : line.find('"', start)] not in _WANTED:
            continue
        try:
            event = json.loads(line)
            _read(event, history, settled, overdrafts)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            history.unreadable += 1
    for id, commit in settled.items():
        known = history.commits.setdefault(id, commit)
        if commit.is_loose:
            known.is_loose = not known.at  # its taking was journaled, without its instant: that is closer than what comes later
        else:
            known.at = known.at or commit.at
    for id in history.doubted & history.refused.keys():  # put off because the spool could not take what was in doubt
        history.in_doubt[history.refused[id]] += 1
    for id in overdrafts & history.commits.keys():
        commit = history.commits[id]
        commit.is_overdraft = id in history.kept or id in history.late
        commit.is_unexplained = not commit.is_overdraft
    return history


def _read(event: dict[str, Any], history: History, settled: dict[str, Commit], overdrafts: set[str]) -> None:
    history.nodes.add(event.get("node", ""))
    match event["event"]:
        case "taken":
            _read_taken(event, history)
        case "settled" if event["units"] > 0:
            commit = _commit(event)
            settled[commit.id] = commit
            if event.get("late"):
                history.late.add(commit.id)
        case "settled_before" if event["units"] > 0:
            commit = _commit(event)
            commit.is_loose = True
            settled.setdefault(commit.id, commit)
        case "settled_before":
            history.given_back[event["user"]] += 1
        case "released" if event["reason"] != "refused":
            history.given_back[event["user"]] += 1
        case "worker_died" | "worker_started" | "holds_returned":
            history.deaths.append(_microseconds(event["ts"]))
        case "overdraft":
            overdrafts.add(event["id"])
        case "refused":
            told = _microseconds(event["ts"])
            history.refusals.append(Refusal(event["user"], event["reason"], whole(event["units"]), told - DECIDING, told))
        case "rejected":
            _read_rejected(event, history)
        case "charge_kept" | "charge_at_risk":
            history.kept.add(event["id"])
        case "in_doubt" | "killed_in_flight":
            history.doubted.add(event["id"])
        case "delivered":
            history.delivered.add(event["id"])
        case "change_overtaken":
            history.overtaken += whole(event["users"])


def _read_taken(event: dict[str, Any], history: History) -> None:
    commit = _commit(event)
    commit.recipients = len(set(event["recipients"]))
    commit.spooled = len(event.get("spooled", ()))
    if commit.id in history.commits:
        history.twice.append(commit.id)
    history.commits[commit.id] = commit
    if commit.recipients > commit.units:  # where recipients are counted, those not charged were refused for good
        history.rejections.append(Rejection(commit.user, commit.recipients - commit.units, commit.told, "taken"))


def _read_rejected(event: dict[str, Any], history: History) -> None:
    match event.get("outcome"):
        case "in_doubt":
            history.in_doubt[event["user"]] += 1
        case "rejected" | "deferred" as outcome:
            recipients = len(set(event["recipients"]))
            history.rejections.append(Rejection(event["user"], recipients, _microseconds(event["ts"]), outcome))
            if outcome == "deferred":
                history.refused[event["id"]] = event["user"]


def _commit(event: dict[str, Any]) -> Commit:
    return Commit(event["id"], event["user"], whole(event["units"]), whole(event["at"]), _microseconds(event["ts"]))


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
