"""The account of promises 1 to 3: what the clients heard, what the relay says, what it still owes and what the smarthost has, closed.

`violations` is pure and takes plain data, so that it can be shown to fail (test_account.py); where the data comes from is told in
evidence.py. Every message a client tries to send has a `mark` of its own, which the sink sees too; the relay's `id` is bound to it by
a 250, by a copy at the sink, or by the sender in the journal and the spool where the mark is the sender.

What is not in a record does not exist: a line that a killed process could not write any more is made up for by the ledger's records,
the spool and the sink, never by a guess.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from relay.loadkit.window import running_sums

Outcome = Literal["taken", "refused", "silent", "unsent"]


@dataclass(frozen=True, slots=True)
class Sent:
    """One message a client tried to send; `silent`: no reply to its final dot. `unsent`: it never came to a final dot."""

    mark: str
    user: str
    recipients: tuple[str, ...]
    outcome: Outcome
    id: str = ""
    """The relay's, from its 250."""
    reply: str = ""


@dataclass(frozen=True, slots=True)
class Copy:
    """One message the smarthost has taken: its record was durable before its 250 left. `mark` is "" for a report."""

    id: str
    """The relay's, from the Received field; of a report, from its Message-ID."""
    mark: str
    recipients: tuple[str, ...]
    failed: tuple[str, ...] = ()
    """Of a report: the recipients it says have failed."""
    is_intact: bool = True


@dataclass(frozen=True, slots=True)
class Kept:
    """One entry of a spool."""

    id: str
    sender: str
    standings: Mapping[str, str]
    """State by recipient."""
    kind: str = "mail"
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """What the ledger has on record of a message; `at` is in µs by the store's clock."""

    id: str
    units: int
    at: int
    is_overdraft: bool = False


@dataclass(frozen=True, slots=True)
class Book:
    """What the ledger says of a user. Without records (None) the journal's commit instants stand in for them."""

    user: str
    hourly: int | None
    total: int | None
    charged: int
    in_flight: int = 0
    commits: tuple[Commit, ...] | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything there is to know of a run, once it has come to rest."""

    sent: Sequence[Sent] = ()
    events: Sequence[Mapping[str, Any]] = ()
    """The journals of all nodes."""
    copies: Sequence[Copy] = ()
    kept: Sequence[Kept] = ()
    books: Sequence[Book] = ()
    window: float = 3600.0


@dataclass(slots=True)
class Reading:
    """The evidence, sorted."""

    evidence: Evidence
    sent: dict[str, Sent] = field(default_factory=dict)
    """By mark."""
    marks: dict[str, str] = field(default_factory=dict)
    """The mark of each id."""
    taken: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    """The journal's lines by the id of what was taken; none where its process was killed before it could write one."""
    users: dict[str, str] = field(default_factory=dict)
    """By id of what was taken."""
    commits: dict[str, list[Commit]] = field(default_factory=dict)
    at_sink: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Copies by (mark, recipient); of a report, by (its id, recipient)."""
    doubts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Records that explain one more copy, by the same."""
    kept: dict[str, dict[str, str]] = field(default_factory=dict)
    reports: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    """Ids of reports of failure by (mark, recipient)."""
    discarded: set[tuple[str, str]] = field(default_factory=set)

    def mark(self, id: str) -> str:
        """What a message is known by over all records; an id that nobody can be found for stands for itself."""
        return self.marks.get(id, id)


def violations(evidence: Evidence) -> list[str]:
    """Every promise that the evidence shows broken, a line each."""
    reading = read(evidence)
    return [
        *_check_answers(reading), *_check_charges(reading), *_check_windows(reading), *_check_recipients(reading),
        *_check_copies(reading), *_check_reports(reading),
    ]  # fmt: skip


def assert_account(evidence: Evidence) -> None:
    """The account closes."""
    found = violations(evidence)
    more = f"\n... and {len(found) - 60} more" if len(found) > 60 else ""
    assert not found, f"{len(found)} violations:\n" + "\n".join(found[:60]) + more


# -- reading -----------------------------------------------------------------------------------------------------------------


def read(evidence: Evidence) -> Reading:
    """Sort the evidence."""
    reading = Reading(evidence, {sent.mark: sent for sent in evidence.sent})
    _read_marks(reading)
    for book in evidence.books:
        for commit in book.commits or ():
            if commit.units > 0:
                reading.commits.setdefault(commit.id, []).append(commit)
                reading.taken.setdefault(commit.id, [])
                reading.users[commit.id] = book.user
    for event in evidence.events:
        _read_event(event, reading)
    for copy in evidence.copies:
        what = reading.mark(copy.id) if copy.mark else copy.id
        reading.at_sink.update((what, recipient) for recipient in set(copy.recipients))
        for failed in copy.failed:
            # A report goes to the sender: where the mark is the sender, the report itself says what it speaks of.
            for to in copy.recipients:
                if to in reading.sent:
                    reading.reports.setdefault((to, failed), set()).add(copy.id)
    for kept in evidence.kept:
        reading.kept[kept.id] = dict(kept.standings)
    return reading


def _read_marks(reading: Reading) -> None:
    evidence = reading.evidence
    for copy in evidence.copies:
        if copy.mark:
            reading.marks[copy.id] = copy.mark
    for kept in evidence.kept:
        if kept.sender in reading.sent:
            reading.marks[kept.id] = kept.sender
    for event in evidence.events:
        if event.get("sender") in reading.sent:
            reading.marks[event["id"]] = event["sender"]
    for sent in evidence.sent:
        if sent.id:
            reading.marks.setdefault(sent.id, sent.mark)


def _read_event(event: Mapping[str, Any], reading: Reading) -> None:
    id = str(event.get("id", ""))
    match event["event"]:
        case "taken":
            reading.taken.setdefault(id, []).append(event)
            reading.users[id] = event["user"]
        case "settled" | "settled_before" if event["units"] > 0:
            reading.taken.setdefault(id, [])
            reading.users[id] = event["user"]
        case "in_doubt" | "killed_in_flight":
            reading.doubts.update((reading.mark(id), recipient) for recipient in set(event["recipients"]))
        case "rejected" if event["outcome"] == "in_doubt":
            reading.doubts.update((reading.mark(id), recipient) for recipient in set(event["recipients"]))
        case "reported" if event["action"] == "failed":
            for recipient in event["recipients"]:
                reading.reports.setdefault((reading.mark(id), recipient), set()).add(event["dsn"])
        case "discarded":
            reading.discarded.update((reading.mark(id), recipient) for recipient in event["recipients"])


# -- promise 2 ---------------------------------------------------------------------------------------------------------------


def _check_answers(reading: Reading) -> Iterator[str]:
    """Every 250 is of one message taken once; what was taken beyond them got no reply."""
    heard: Counter[str] = Counter(sent.id for sent in reading.sent.values() if sent.outcome == "taken")
    for sent in reading.sent.values():
        if sent.outcome == "taken" and sent.id not in reading.taken:
            yield f"answered 250 and not taken: {sent.mark} as {sent.id} ({sent.user})"
    yield from (f"one id in {count} answers: {id}" for id, count in heard.items() if count > 1)
    ids: dict[str, list[str]] = {}
    for id, lines in reading.taken.items():
        mark = reading.marks.get(id)
        if len(lines) > 1:
            yield f"taken {len(lines)} times by the journal: {id} ({mark})"
        if mark is None or mark not in reading.sent:
            yield f"taken and nobody sent it: {id} of {reading.users[id]}"
            continue
        ids.setdefault(mark, []).append(id)
        sent = reading.sent[mark]
        if sent.outcome not in ("taken", "silent"):
            yield f"taken though the client heard otherwise: {mark} as {id}, {sent.outcome}: {sent.reply}"
        if sent.user != reading.users[id]:
            yield f"charged to another: {mark} of {sent.user}, taken as {id} of {reading.users[id]}"
    yield from (f"taken twice: {mark} as {', '.join(found)}" for mark, found in ids.items() if len(found) > 1)


def _check_charges(reading: Reading) -> Iterator[str]:
    """Every taken message is charged once, and nothing else is."""
    evidence = reading.evidence
    gone = {str(event["id"]) for event in evidence.events if event["event"] in ("delivered", "reported")}
    loose = (gone | {kept.id for kept in evidence.kept if kept.kind == "mail"}) - reading.taken.keys()
    yield from (f"in the spool and never charged: {id} ({mark})" for id in sorted(loose) if (mark := reading.marks.get(id)) in reading.sent)
    for book in evidence.books:
        own = [id for id in reading.taken if reading.users[id] == book.user]
        units = sum(_units(reading, id) for id in own)
        if book.charged != units:
            yield f"charged {book.charged} and taken {units}: {book.user}"
        if book.in_flight:
            yield f"capacity still held at rest: {book.in_flight} of {book.user}"
        if book.commits is None:
            continue
        for id in own:
            found = reading.commits.get(id, [])
            told = [line["at"] for line in reading.taken[id] if line["at"]]
            if not found:
                yield f"taken and never charged: {id} ({reading.marks.get(id)}) of {book.user}"
            elif len(found) > 1:
                yield f"charged {len(found)} times: {id} ({reading.marks.get(id)}) of {book.user}"
            elif told and told[0] != found[0].at:
                yield f"the journal's commit instant is not the ledger's: {id}, {told[0]} and {found[0].at}"


def _units(reading: Reading, id: str) -> int:
    """What a taken message counts, by the best record there is."""
    if found := reading.commits.get(id):
        return sum(commit.units for commit in found)
    if lines := reading.taken[id]:
        return int(lines[0]["units"])
    settled = {event["units"] for event in reading.evidence.events if event.get("id") == id and event["event"].startswith("settled")}
    return int(max(settled))


# -- promise 1 ---------------------------------------------------------------------------------------------------------------


def _check_windows(reading: Reading) -> Iterator[str]:
    """No window holds more than its limit, overdrafts excepted."""
    width = round(reading.evidence.window * 1e6)
    for book in reading.evidence.books:
        commits = list(book.commits) if book.commits is not None else _journaled(reading, book.user)
        commits = sorted((c for c in commits if c.units > 0), key=lambda c: (c.at, c.is_overdraft))
        yield from (f"commit instant never recorded: {commit.id} of {book.user}" for commit in commits if not commit.at)
        total = 0
        for commit, held in zip(commits, running_sums([(c.at, c.units) for c in commits], width), strict=True):
            total += commit.units
            if commit.is_overdraft:
                continue
            if book.hourly is not None and held > book.hourly:
                yield f"{held} of {book.hourly} units in a window of {reading.evidence.window:g} s: {book.user} at {commit.id}"
            if book.total is not None and total > book.total:
                yield f"{total} of {book.total} units in all: {book.user} at {commit.id}"


def _journaled(reading: Reading, user: str) -> list[Commit]:
    """A user's commits by the journal."""
    overdrafts = {event["id"] for event in reading.evidence.events if event["event"] == "overdraft"}
    instants: dict[str, int] = {}
    for event in reading.evidence.events:
        if event["event"] in ("taken", "settled", "settled_before") and event.get("user") == user and event["units"] > 0:
            instants[event["id"]] = instants.get(event["id"]) or event["at"]
    return [Commit(id, _units(reading, id), at, id in overdrafts) for id, at in instants.items()]


# -- promise 3 ---------------------------------------------------------------------------------------------------------------

_OWED = ("waiting", "failed", "relayed")


def _check_recipients(reading: Reading) -> Iterator[str]:
    """Each recipient of what was taken is delivered to, spooled, reported or discarded, and only one of these, doubt excepted."""
    for id in reading.taken:
        mark = reading.mark(id)
        sent = reading.sent.get(mark)
        recipients = sent.recipients if sent is not None else [name for line in reading.taken[id] for name in line["recipients"]]
        if not recipients:
            yield f"taken and nowhere: {id} of {reading.users[id]}"
        for recipient in dict.fromkeys(recipients):
            found = _standings(reading, id, mark, recipient)
            if not found:
                yield f"lost: {recipient} of {mark}, taken as {id}"
            # What may have been delivered and was never heard of may also be tried again, reported or discarded.
            elif len(found) > 1 and not (found[0] == "delivered" and len(found) == 2 and reading.doubts[mark, recipient]):
                yield f"{' and '.join(found)}: {recipient} of {mark}, taken as {id}"


def _standings(reading: Reading, id: str, mark: str, recipient: str) -> list[str]:
    state = reading.kept.get(id, {}).get(recipient, "")
    facts = {
        "delivered": reading.at_sink[mark, recipient] > 0,
        "spooled": state in _OWED,
        "reported": bool(reading.reports.get((mark, recipient))),
        "discarded": (mark, recipient) in reading.discarded,
    }
    return [name for name, is_so in facts.items() if is_so]


def _check_copies(reading: Reading) -> Iterator[str]:
    """What is at the sink was sent, to these recipients; more than one copy has a record for each; refused mail is not there."""
    strangers: set[str] = set()
    reports = {copy.id for copy in reading.evidence.copies if not copy.mark}
    taken = {reading.mark(id) for id in reading.taken}
    for (mark, recipient), count in reading.at_sink.items():
        if mark not in reading.sent:
            if mark not in reports:
                strangers.add(mark)
            continue
        sent, doubts = reading.sent[mark], reading.doubts[mark, recipient]
        if recipient not in sent.recipients:
            yield f"delivered to a stranger: {mark} to {recipient}"
        if mark not in taken and sent.outcome != "silent" and not doubts:
            yield f"at the sink though the client heard otherwise: {mark} to {recipient}, {sent.outcome}: {sent.reply}"
        elif count - 1 > doubts:
            yield f"{count} copies, {doubts} records of doubt: {mark} to {recipient}"
    yield from (f"at the sink and nobody sent it: {mark}" for mark in sorted(strangers))
    yield from (f"damaged on its way: {copy.mark or copy.id}" for copy in reading.evidence.copies if not copy.is_intact)


# -- reports -----------------------------------------------------------------------------------------------------------------


def _check_reports(reading: Reading) -> Iterator[str]:
    """A report exists, once, and speaks of something that was taken."""
    evidence = reading.evidence
    known = {copy.id for copy in evidence.copies if not copy.mark} | {kept.id for kept in evidence.kept}
    known |= {str(event["id"]) for event in evidence.events if event["event"] == "discarded"}
    taken = {reading.mark(id) for id in reading.taken}
    for (mark, recipient), ids in reading.reports.items():
        if missing := ids - known:
            yield f"a report that is nowhere: {', '.join(sorted(missing))} on {recipient} of {mark}"
        if len(ids) > 1:
            yield f"reported {len(ids)} times: {recipient} of {mark} in {', '.join(sorted(ids))}"
        if mark not in taken:
            yield f"a report on what was not taken: {', '.join(sorted(ids))} on {recipient} of {mark}"
    for id, recipient in _reports_at_sink(evidence.copies):
        count, doubts = reading.at_sink[id, recipient], reading.doubts[id, recipient]
        if count - 1 > doubts:
            yield f"{count} copies of a report, {doubts} records of doubt: {id} to {recipient}"


def _reports_at_sink(copies: Iterable[Copy]) -> set[tuple[str, str]]:
    return {(copy.id, recipient) for copy in copies if not copy.mark for recipient in copy.recipients}
