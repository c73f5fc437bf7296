"""Was anything delivered that nobody counted? A relay that sends a message and forgets it sends without limit.

A message that reached the sink and whose final dot had no reply was either counted (then it is taken without a 250 that was heard), or is
on record as in doubt, or its hold was given back because its process died over it. Which record is whose is not known, so they are
counted, user by user; what is left over is the remainder.

Promises: a remainder is proven only if no process can have died without a record: none is said to have died or to have been started
since the load began, the journal is whole and of one node, and after the loss the relay took up another message. A hold that was given
back though nothing died explains no delivery, but it may be one that was cut short: then it is left open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from relay.loadkit.answer import untold
from relay.loadkit.attempt import Attempt
from relay.loadkit.history import History
from relay.loadkit.verdict import Finding, Rules, some

DIED = "a process of the relay died or was started anew"

DYING = 1.0
"""Seconds after which a node whose supervisor is gone takes up nothing new."""


@dataclass(frozen=True, slots=True)
class Remainder:
    """What one user had delivered without a reply, and how much of that is in no record."""

    delivered: tuple[str, ...]
    """Load ids."""
    count: int
    """Messages of them that no record explains."""
    units: int
    """What these count, at the most."""
    doubt: str
    """Why the relay may be right all the same, "" if it cannot be."""

    def finding(self, user: str) -> Finding:
        """What is to be said of it."""
        text = f"{len(self.delivered)} reached the sink without a reply to their final dot, {self.count} of them in no record"
        text += f", but {self.doubt}: {some(self.delivered)}" if self.doubt else f": {some(self.delivered)}"
        return Finding("never counted", text, user, is_fault=not self.doubt)


def find_remainders(attempts: Sequence[Attempt], reached: Collection[str], history: History | None, rules: Rules) -> dict[str, Remainder]:
    """By user; `reached` are the load ids at the sink. Of another server, without a journal, there is no record of anything."""
    lost: dict[str, list[Attempt]] = {}
    leaked: Counter[str] = Counter()
    for attempt in attempts:
        if attempt.dot_sent and not attempt.is_taken and attempt.load_id in reached:
            if attempt.code:
                leaked[attempt.user] += 1
            else:
                lost.setdefault(attempt.user, []).append(attempt)
    if not lost:
        return {}
    records = {} if history is None else _records(attempts, history, leaked)
    doubt = "another server has no records that could be looked into" if history is None else _doubt(attempts, history, rules)
    has_died = doubt == DIED
    alive = _alive_until(attempts)
    found: dict[str, Remainder] = {}
    for user, own in lost.items():
        given_back = 0 if history is None else history.given_back[user]
        explained = records.get(user, 0) + (given_back if has_died else 0)
        if len(own) <= explained:
            continue
        sure = sum(bool(attempt.replied_at) and attempt.replied_at + DYING < alive for attempt in own)
        why = doubt
        if not why and sure <= explained:
            why = "the relay may have died of them: it took up nothing afterwards"
        elif not why and sure <= explained + given_back:
            why = f"{given_back} holds of its messages were given back"
        count = len(own) - explained
        units = sum(sorted((rules.units(attempt.units) for attempt in own), reverse=True)[:count])
        found[user] = Remainder(tuple(attempt.load_id for attempt in own), count, units, why)
    return found


def _records(attempts: Sequence[Attempt], history: History, leaked: Mapping[str, int]) -> dict[str, int]:
    """By user, how many messages without a reply may have been delivered, by the journal; doubts go to the refused ones first."""
    taken = untold(attempts, history)
    return {user: len(ids) + max(0, history.in_doubt[user] - leaked[user]) + history.strays for user, ids in taken.items()}


def _doubt(attempts: Sequence[Attempt], history: History, rules: Rules) -> str:
    """Why a process may have died with a message that nothing is on record of."""
    began = min(attempt.started_at for attempt in attempts if attempt.load_id) * 1e6 - rules.slack_us
    if any(instant >= began for instant in history.deaths):
        return DIED
    if history.unreadable:
        return "the journal is not whole"
    return "one of several nodes may have died" if len(history.nodes) > 1 else ""


def _alive_until(attempts: Sequence[Attempt]) -> float:
    """When the last message began that the relay took up: it asked for its content, or answered otherwise than by taking leave."""
    own = (a.started_at for a in attempts if a.load_id and (a.dot_sent or a.code not in (0, 421)))
    return max(own, default=0.0)
