"""Why a message got the reply it got: the mail log's events, the settle on record and the spool's entry, told as one story; pure.

Promise: what is told is what one of the three says; where they know nothing it says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from relay.api.queue_view import QueueDetail
from relay.cli.maillog import Event, connection_of, number, words
from relay.quota.audit import Record

Line = tuple[str, str]
"""What it is about, and what is to be said."""

_USED = re.compile(r"\((\d+)/(\d+) (\w+)\)")
_NEVER = re.compile(r"counts (\d+) (\w+) and never fits the limit of (\d+)")
_AT = re.compile(r"\bat=(\S+)")

_REASONS = {
    "hourly": "its hourly limit was reached",
    "total": "its total limit was reached",
    "never": "it is more than the hourly limit at once",
    "in_flight": "only messages in flight stood in the way",
    "rejected": "too much of its mail had been rejected by the smarthost",
    "stale": "its credentials had been changed since it logged in",
    "disabled": "the user or its owner was disabled",
    "unknown": "there was no such user any more",
    "store": "the store could not be asked, and without it nothing is let in",
}
_OUTCOMES = {
    "rejected": "refused it for good",
    "deferred": "could not take it now",
    "in_doubt": "left its delivery in doubt: the answer to the final dot never came",
    "aborted": "was not asked: the transaction was aborted",
}


_OF_CONNECTIONS = frozenset({"connected", "disconnected", "authenticated", "auth_refused"})
"""Events whose id is a connection's, not a message's."""


@dataclass(frozen=True, slots=True)
class Story:
    """What is known of one message."""

    id: str
    events: Sequence[Event]
    record: Record | None = None
    entry: QueueDetail | None = None
    troubles: Sequence[str] = field(default=())
    """What could not be asked, and why."""

    @property
    def user(self) -> str | None:
        """Whose message it is."""
        said = (event.get("user") for event in self.events if event.get("user"))
        return next((str(user) for user in said), self.entry.smtp_user_name if self.entry else None)

    def last(self, *names: str) -> Event | None:
        """The latest event of these names."""
        return next((event for event in reversed(self.events) if event["event"] in names and self._is_own(event)), None)

    def first(self, *names: str) -> Event | None:
        """The earliest event of these names, the connection's own included."""
        return next((event for event in self.events if event["event"] in names), None)

    def all(self, *names: str) -> list[Event]:
        """Every event of these names."""
        return [event for event in self.events if event["event"] in names and self._is_own(event)]

    def _is_own(self, event: Event) -> bool:
        return self.id in (event.get("id"), event.get("dsn"))

    @property
    def is_known(self) -> bool:
        """Whether anything is known of this very message, not only of its connection."""
        own = (event for event in self.events if self._is_own(event) and event["event"] not in _OF_CONNECTIONS)
        return self.entry is not None or self.record is not None or any(own)


def tell(story: Story) -> list[Line]:
    """Tell it."""
    lines = [*_came(story), *_decision(story), *_smarthost(story), *_reply(story), *_charge(story), *_now(story)]
    return lines + [("unknown", trouble) for trouble in story.troubles]


def _came(story: Story) -> Iterator[Line]:
    if report := next((event for event in story.all("reported") if event.get("dsn") == story.id), None):
        yield "came", f"{report['ts']}, a report ({report.get('action', '')}) that this relay wrote on {report.get('id', '')}"
        return
    connected, verdict = story.first("connected"), story.last("taken", "rejected", "refused")
    if connected is not None:
        tls = "with TLS" if str(connected.get("tls")).lower() == "true" else "without TLS"
        yield "came", f"by connection {connection_of(story.id)} of {connected['ts']} from {connected.get('client')}, {tls}"
    if story.user is not None:
        yield "user", story.user
    if verdict is not None and verdict.get("recipients"):
        yield "message", f"from <{verdict.get('sender', '')}> to {', '.join(words(verdict['recipients']))}"


def _decision(story: Story) -> Iterator[Line]:
    if refused := story.last("refused"):
        why = _REASONS.get(str(refused.get("reason")), str(refused.get("reason")))
        yield "ledger", f"refused it at {refused['ts']}: {why}{_figures(refused)}"
    elif held := story.last("taken", "rejected"):
        yield "ledger", f"let it in; decided at {held['ts']}"
    elif released := story.last("released"):
        yield "ledger", f"let it in; given back at {released['ts']}: {released.get('reason')}"


def _figures(refused: Event) -> str:
    """The numbers of a refusal, which its reply names."""
    reply, text = str(refused.get("reply", "")), ""
    if match := _USED.search(reply):
        text += f"; used {match[1]} of {match[2]} {match[3]}"
    elif match := _NEVER.search(reply):
        text += f"; it counts {match[1]} {match[2]}, the limit is {match[3]}"
    if (units := number(refused.get("units"))) is not None:
        text += f"; asked for {units}"
    if (retry_after := number(refused.get("retry_after"))) is not None:
        at = _AT.search(reply)
        text += f"; it fits {retry_after} s later" + (f", at {at[1]}" if at else "")
    return text


def _smarthost(story: Story) -> Iterator[Line]:
    for event in story.all("taken", "rejected", "in_doubt", "delivered", "deferred", "upstream_misconfigured"):
        match event["event"]:
            case "rejected":
                yield "smarthost", f"{_OUTCOMES.get(str(event.get('outcome')), str(event.get('outcome')))} ({event['ts']})"
            case "taken" if not event.get("spooled"):
                yield "smarthost", f"took it for all recipients while the client waited ({event['ts']})"
            case "taken":
                yield "smarthost", f"had not taken it for {', '.join(words(event['spooled']))} when the client was answered ({event['ts']})"
            case "delivered":
                yield "smarthost", f"took it for {_who(event)} at attempt {event.get('attempts')}: {event.get('reply')} ({event['ts']})"
            case "deferred":
                text = f"did not take it for {_who(event)} at attempt {event.get('attempts')}: {event.get('reply')} ({event['ts']})"
                yield "smarthost", text
            case "in_doubt":
                yield "smarthost", f"may have taken it for {_who(event)}: {event.get('reply')} ({event['ts']})"
            case _:
                yield "smarthost", f"could not be used as it is configured: {event.get('cause')} ({event['ts']})"


def _who(event: Event) -> str:
    return ", ".join(words(event.get("recipients")))


def _reply(story: Story) -> Iterator[Line]:
    if end := story.last("taken", "rejected", "refused"):
        yield "reply", str(end.get("reply"))


def _charge(story: Story) -> Iterator[Line]:
    record, taken = story.record, story.last("taken")
    settled = story.last("settled", "settled_before")
    if record is not None:
        parts = [f"{record.accepted} of {record.units} units" if record.accepted else "nothing"]
        parts += [f"{record.rejected} counted as rejected"] if record.rejected else []
        late = ", late: its lease had lapsed" if record.outcome == "late" else ""
        yield "charged", f"{', '.join(parts)} at {_instant(record.at)}{late}; {record.taken} units ever with it (settle on record)"
    elif settled is not None and number(settled.get("at")):
        yield "charged", f"{settled.get('units')} units at {_instant(number(settled['at']) or 0)}, when the store answered again (mail log)"
    elif taken is not None and number(taken.get("at")):
        yield (
            "charged",
            f"{taken.get('units')} units at {_instant(number(taken['at']) or 0)} (mail log; its settle is not on record any more)",
        )
    elif taken is not None:
        yield "charged", f"{taken.get('units')} units, but not recorded yet as far as is known: the store had not answered"
    elif story.last("refused", "rejected", "released"):
        yield "charged", "nothing"
    if story.last("overdraft"):
        yield "charged", "beyond a limit (overdraft), which is held against the user"


def _now(story: Story) -> Iterator[Line]:
    entry = story.entry
    if entry is not None:
        when = f", next try in {entry.next_try} s" if entry.next_try is not None else ""
        held = f", held: {entry.held}" if entry.held else ""
        yield "now", f"in the spool of this node, {entry.state}{held}, {entry.attempts} attempts{when}"
        for one in entry.standings:
            yield "now", f"{one.address}: {one.state}{' in doubt' if one.in_doubt else ''}{f', {one.last_reply}' if one.last_reply else ''}"
        return
    for event in story.all("reported", "discarded"):
        if event.get("dsn") != story.id:
            how = f"reported on ({event.get('action')}) by {event.get('dsn')}" if event["event"] == "reported" else "discarded"
            reason = f": {event.get('reason')}" if event["event"] == "discarded" else ""
            yield "now", f"{_who(event)}: {how}{reason} ({event['ts']})"
    taken = story.last("taken")
    if taken is not None and not taken.get("spooled"):
        yield "now", "with the smarthost"
    elif story.last("delivered") and not story.all("reported", "discarded"):
        yield "now", "with the smarthost; nothing of it is left in the spool of this node"
    elif taken is not None or story.last("delivered"):
        yield "now", "nothing of it is left in the spool of this node"
    elif story.last("refused", "rejected", "released"):
        yield "now", "not taken: the client has it"


def document(story: Story) -> dict[str, Any]:
    """The same for a program."""
    record = story.record
    charge = None
    if record is not None:
        charge = {
            "units": record.units, "accepted": record.accepted, "rejected": record.rejected, "outcome": record.outcome,
            "at": record.at, "taken": record.taken,
        }  # fmt: skip
    return {
        "id": story.id, "user": story.user, "story": [{"about": about, "text": text} for about, text in tell(story)],
        "settle": charge, "spool": story.entry.model_dump() if story.entry else None, "events": list(story.events),
    }  # fmt: skip


def _instant(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
