"""Is anything at the sink that its client did not send, or did not send so?

Promises: a message whose client never came to its final dot must not be there, and nothing can excuse it; nor one with the mark of this
load that no attempt sent, nor a recipient whom nobody named, nor another sender. Whether the sink answered makes no difference. A message
without a mark of this load is other traffic (a report of the relay, say), and no fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from relay.loadkit.attempt import Attempt
from relay.loadkit.received import Received
from relay.loadkit.verdict import Finding, some


def find_strays(attempts: Sequence[Attempt], received: Sequence[Received]) -> Iterator[Finding]:
    """Look at every message at the sink, answered or not."""
    sent = {attempt.load_id: attempt for attempt in attempts if attempt.load_id}
    marks = {mark for id in sent if (mark := _mark(id))}
    forged: set[str] = set()
    unsent: dict[str, set[str]] = {}
    senders: dict[str, set[str]] = {}
    recipients: dict[str, set[str]] = {}
    others = 0
    for message in received:
        attempt = sent.get(message.id)
        if attempt is None:
            is_ours = _mark(message.id) in marks
            others += not is_ours
            forged |= {message.id} if is_ours else set()
            continue
        if not attempt.dot_sent and not attempt.is_taken:
            unsent.setdefault(attempt.user, set()).add(message.id)
        if attempt.sender and message.sender != attempt.sender and plain(message.sender) != plain(attempt.sender):
            senders.setdefault(attempt.user, set()).add(f"{message.id} from <{message.sender}>")
        if strangers := _strangers(attempt, message):
            recipients.setdefault(attempt.user, set()).add(f"{message.id} to {some(f'<{one}>' for one in strangers)}")
    if forged:
        yield Finding("delivered though not sent", f"{len(forged)} with a mark of this load that no client sent: {some(forged)}")
    for user, ids in unsent.items():
        yield Finding("delivered though not sent", f"{len(ids)} whose final dot was never sent: {some(ids)}", user)
    for user, cases in recipients.items():
        yield Finding("wrong recipient", f"{len(cases)} reached whom nobody named: {some(cases)}", user)
    for user, cases in senders.items():
        yield Finding("wrong sender", f"{len(cases)} came from another sender: {some(cases)}", user)
    if others:
        yield Finding("other mail", f"{others} messages at the sink bear no mark of this load", is_fault=False)


def _strangers(attempt: Attempt, message: Received) -> frozenset[str]:
    """Recipients whom the client did not name; where its names were not noted, all of them if they are more than it had accepted."""
    found = whom(message.recipients)
    if attempt.recipients:
        return found - whom(tuple(attempt.recipients))
    return found if len(found) > attempt.units else frozenset()


def _mark(id: str) -> str:
    """What all messages of one load have in common ("" where their ids are of another make)."""
    return id.rpartition("-")[0]


@lru_cache(4096)
def plain(address: str) -> str:
    """An address as it is compared: letters of a domain are alike (RFC 5321 section 2.4)."""
    local, at, domain = address.rpartition("@")
    return f"{local}{at}{domain.lower()}"


@lru_cache(4096)
def whom(recipients: tuple[str, ...]) -> frozenset[str]:
    """Recipients as they are compared."""
    return frozenset(map(plain, recipients))
