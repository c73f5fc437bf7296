"""What a sender is told about the recipients of a spooled message, and the entries that carry it.

Promises:
- Every failed recipient ends in exactly one of three ways: `reported` in an entry that is handed back to be put in the same commit,
  `discarded` with a reason, or, where the message is a report itself, left waiting for a person.
- Never a report on a report, never one to a null sender, none that NOTIFY does not ask for.
- One report for all recipients with the same action. Reports are not charged.

Pure: ids and time are passed in. Committing and journaling are the runner's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from relay.mail.dsn import MAX_FULL, Action, Report, compose, envelope_of, is_wanted
from relay.spool.entry import Entry, Standing

Reason = Literal["never", "null_sender"]

_REPLY = re.compile(r"([245])[0-9]{2}(?: ([245]\.(?:0|[1-9][0-9]{0,2})\.(?:0|[1-9][0-9]{0,2})))?(?: |$)")
_THEIRS = re.compile(r"([245][0-9]{2} (?:[245]\.[0-9]{1,3}\.[0-9]{1,3} )?)upstream said: ")
"""How a reply begins that is the smarthost's and not of this relay's own making."""


@dataclass(frozen=True, slots=True)
class Reporting:
    """What is to be recorded of an entry, and what is to be journaled then."""

    standings: tuple[Standing, ...]
    reports: tuple[tuple[Entry, bytes, bytes], ...] = ()
    """Entry, prefix and wire of each, to be put in the commit that records the standings."""
    reported: tuple[tuple[tuple[str, ...], Action, str], ...] = ()
    """Recipients, action, and the id of the report on them."""
    discarded: tuple[tuple[tuple[str, ...], Reason], ...] = ()
    """Recipients that failed and are not reported on, and why."""
    is_undeliverable: bool = False
    """The entry is a report that failed: it is neither reported nor discarded, but to be held for a person. It stands waiting."""


def reports_for(
    entry: Entry, standings: Sequence[Standing], prefix: bytes, wire: bytes, *, new_id: Callable[[], str], hostname: str, now: float,
    remote: str = "", last_attempt: float | None = None, is_warning: bool = False, retry_until: float | None = None,
    max_full: int = MAX_FULL, ahead: float = 0.0,
) -> Reporting:  # fmt: skip
    """Decide what is said of the entry's new standings, and write it.

    `failed` is reported on, discarded or undeliverable; `relayed` is reported on; `waiting` is, as delayed, if `is_warning`.
    `remote` is the smarthost's name. `new_id` is called once for each report. `now` and the entry's times are of the spool's clock; the
    calendar is `ahead` s ahead of it.
    """
    wanted: dict[Action, list[Standing]] = {"failed": [], "relayed": [], "delayed": []}
    after = tuple(_after(entry, standing) for standing in standings)
    for standing in standings:
        if action := _wanted(entry, standing, is_warning):
            wanted[action].append(standing)
    reports, reported = [], []
    for action, those in wanted.items():
        if not those:
            continue
        id = new_id()
        tried, until = (time + ahead if time is not None else None for time in (last_attempt, retry_until))
        told = [_report(standing, action, remote, tried, until) for standing in those]
        notification = compose(
            entry.envelope, told, id=id, origin=entry.id, hostname=hostname, arrived=entry.arrived + ahead, date=now + ahead,
            prefix=prefix, wire=wire, max_full=max_full,
        )  # fmt: skip
        reports.append((_entry(entry, id, now, notification.wire, notification.is_8bit), b"", notification.wire))
        reported.append((tuple(standing.recipient.address for standing in those), action, id))
    pairs = zip(standings, after, strict=True)
    silent = tuple(new.recipient.address for old, new in pairs if (old.state, new.state) == ("failed", "discarded"))
    discarded: tuple[tuple[tuple[str, ...], Reason], ...] = ()
    if silent:
        discarded = ((silent, "never" if entry.envelope.sender else "null_sender"),)
    is_undeliverable = entry.kind == "dsn" and any(standing.state == "failed" for standing in standings)
    return Reporting(after, tuple(reports), tuple(reported), discarded, is_undeliverable)


def _wanted(entry: Entry, standing: Standing, is_warning: bool) -> Action | None:
    """The action that its sender is to be told of, if any."""
    if entry.kind == "dsn":
        return None
    action: Action
    match standing.state:
        case "failed":
            action = "failed"
        case "relayed":
            action = "relayed"
        case "waiting" if is_warning:
            action = "delayed"
        case _:
            return None
    return action if is_wanted(entry.envelope, standing.recipient, action) else None


def _after(entry: Entry, standing: Standing) -> Standing:
    """The standing once what is owed of it is done."""
    match standing.state:
        case "failed" if entry.kind == "dsn":
            # It stays to be tried: a person may mend what is wrong and release it.
            return replace(standing, state="waiting")
        case "failed":
            return replace(standing, state="reported" if _wanted(entry, standing, False) else "discarded")
        case "relayed":
            return replace(standing, state="reported" if _wanted(entry, standing, False) else "delivered")
        case _:
            return standing


def _report(standing: Standing, action: Action, remote: str, last_attempt: float | None, retry_until: float | None) -> Report:
    # A reply of success is always the smarthost's.
    is_theirs = action == "relayed" or _THEIRS.match(standing.reply) is not None
    return Report(
        standing.recipient, action, status_of(standing.reply, action), _THEIRS.sub(r"\1", standing.reply, count=1),
        remote if is_theirs else "", last_attempt, retry_until, standing.in_doubt,
    )  # fmt: skip


def status_of(reply: str, action: Action) -> str:
    """The status that goes with an action and the last reply, "550 5.1.1 text".

    A failure that rests on no permanent reply is one of time: the message was given up.
    """
    found = _REPLY.match(reply)
    kind, status = (found[1], found[2] or "") if found else ("", "")
    expected = {"failed": "5", "delayed": "4", "relayed": "2"}[action]
    if action == "failed" and kind != "5":
        return "5.4.7"
    return status if status.startswith(expected) else f"{expected}.0.0"


def _entry(origin: Entry, id: str, now: float, wire: bytes, is_8bit: bool) -> Entry:
    """The entry of a report: of the same user and owner, so of the same routes, and charged to no one."""
    envelope = envelope_of(origin.envelope, is_8bit)
    standings = tuple(Standing(recipient) for recipient in envelope.recipients)
    return Entry(
        id=id, user=origin.user, owner=origin.owner, envelope=envelope, standings=standings, arrived=now, due=now, is_settled=True,
        kind="dsn", origin=origin.id, size=len(wire), route=origin.route,
    )  # fmt: skip
