"""The queue as people and programs are shown it: one entry in short, one in full, the whole in figures.

Promises: times are told as seconds from now, since the spool's clock is not the wall's; what is shown of an entry says nothing of this
node's processes. The shell prints these same documents.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from relay.spool.entry import SETTLED, Entry, Standing

Condition = Literal["waiting", "held", "sending", "in_doubt"]


class _Shown(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class QueueEntry(_Shown):
    """One message of the queue, in short."""

    id: str
    smtp_user_name: str
    kind: Literal["mail", "dsn"] = Field(description="dsn: a delivery status notification that the relay wrote.")
    sender: str = Field(description="The reverse-path; empty is the null one.")
    size: int = Field(description="Octets.")
    age: int | None = Field(description="Seconds since it was taken; null if that cannot be read.")
    state: Condition = Field(
        description="in_doubt: tried, and whether the smarthost took it is not known; it is tried again, or its answer is still awaited."
    )
    held: str | None = Field(description="Why it is held: operator, owner, disabled, route, corrupt or undeliverable.")
    attempts: int
    next_try: int | None = Field(description="Seconds until it is tried (again); null while it is held or being sent.")
    recipients: int
    waiting: int = Field(description="How many of the recipients are still to be tried.")
    last_reply: str = Field(description="What was last said of a recipient that is not settled, else of any.")


class QueueRecipient(_Shown):
    """One recipient and where it stands."""

    address: str
    state: Literal["waiting", "delivered", "relayed", "failed", "reported", "discarded"]
    in_doubt: bool = Field(description="It may have been delivered: the smarthost's answer to the final dot never came.")
    last_reply: str
    notify: str = Field(description="NOTIFY as asked for (RFC 3461).")
    orcpt: str = Field(description="ORCPT as asked for (RFC 3461), in xtext.")


class QueueDetail(QueueEntry):
    """One message of the queue, in full."""

    body: str
    ret: str
    envid: str
    is_warned: bool = Field(description="The sender was told of the delay.")
    origin: str | None = Field(description="Of a dsn: the id of the message it speaks of.")
    route: str | None = Field(description="The id of the owner's setting that it is to go by; null: the relay's own smarthost.")
    standings: list[QueueRecipient]


class QueueList(_Shown):
    """Messages of the queue, oldest first."""

    entries: list[QueueEntry]


class QueueCounts(_Shown):
    """The queue in figures."""

    waiting: int
    held: int
    sending: int
    in_doubt: int
    reports: int = Field(description="How many are delivery status notifications.")
    octets: int
    oldest: int | None = Field(description="Age of the oldest in seconds; null for an empty queue.")


class Flushed(_Shown):
    """How many messages are due now."""

    flushed: int


def condition(entry: Entry) -> Condition:
    """What is going on with an entry, in one word."""
    if entry.held:
        return "held"
    # In doubt goes before sending: while the answer to a final dot is awaited its process still has it.
    if any(standing.in_doubt for standing in entry.waiting):
        return "in_doubt"
    return "sending" if entry.claimed_by else "waiting"


def owed(entry: Entry) -> list[str]:
    """The recipients that get neither the message nor a report of it if the entry is removed."""
    return [standing.recipient.address for standing in entry.standings if standing.state not in SETTLED]


def last_reply(entry: Entry) -> str:
    """What was last said of a recipient that something is owed to, else of any."""
    said = [standing for standing in entry.standings if standing.reply]
    for standing in said:
        if standing.state not in SETTLED:
            return standing.reply
    return said[0].reply if said else ""


def in_short(entry: Entry, now: float) -> QueueEntry:
    """Show an entry; `now` is of the spool's clock."""
    return QueueEntry(**_short(entry, now))


def in_full(entry: Entry, now: float) -> QueueDetail:
    """Show all of an entry but its content; `now` is of the spool's clock."""
    envelope = entry.envelope
    return QueueDetail(
        **_short(entry, now),
        body=str(envelope.body),
        ret=str(envelope.ret),
        envid=str(envelope.envid),
        is_warned=entry.is_warned,
        origin=str(entry.origin) or None,
        route=str(entry.route) or None,
        standings=[_recipient(standing) for standing in entry.standings],
    )


def _short(entry: Entry, now: float) -> dict[str, Any]:
    # str(): of a corrupt entry anything may have been read.
    return {
        "id": str(entry.id),
        "smtp_user_name": str(entry.user),
        "kind": entry.kind,
        "sender": str(entry.envelope.sender),
        "size": entry.size,
        "age": _whole(now - entry.arrived) if entry.arrived > 0 else None,
        "state": condition(entry),
        "held": entry.held or None,
        "attempts": entry.attempts,
        "next_try": None if entry.held or entry.claimed_by else _whole(entry.due - now),
        "recipients": len(entry.standings),
        "waiting": len(entry.waiting),
        "last_reply": str(last_reply(entry)),
    }


def _whole(seconds: float) -> int | None:
    return max(0, round(seconds)) if math.isfinite(seconds) else None


def _recipient(standing: Standing) -> QueueRecipient:
    recipient = standing.recipient
    return QueueRecipient(
        address=str(recipient.address), state=standing.state, in_doubt=standing.in_doubt, last_reply=str(standing.reply),
        notify=str(recipient.notify), orcpt=str(recipient.orcpt),
    )  # fmt: skip
