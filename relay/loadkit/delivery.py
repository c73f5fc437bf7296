"""Did what was taken reach the sink, and nothing else?

Promises: every recipient of a load id whose client heard 250 must be at the sink, unless the journal says that the spool answers for it;
while any is there, or ended there (reported on, discarded), the promise is not said to hold. One that was refused must not be at the
sink, doubt excepted; nor one that was not sent, or not so (see `stray`); nor one that nobody counted (see `remainder`). Where recipients
are counted, those who were reached are charged. A copy needs its record: it was in the spool, or in doubt, or never answered. Without a
journal, what only it could explain is listed and is no fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from relay.loadkit.attempt import Attempt
from relay.loadkit.history import Commit, History
from relay.loadkit.received import Received
from relay.loadkit.remainder import Remainder
from relay.loadkit.stray import find_strays, plain, whom
from relay.loadkit.verdict import Finding, Opinion, Rules, leave_open, pass_over, some, weigh

Reached = Mapping[str, set[str]]
"""The recipients whom each message reached."""


def judge_deliveries(
    attempts: Sequence[Attempt], received: Sequence[Received], history: History | None, remainders: Mapping[str, Remainder], rules: Rules
) -> Opinion:
    """Compare what was answered 250 with what the sink got."""
    reached, copies, findings = _sort(received)
    taken = [attempt for attempt in attempts if attempt.is_taken]
    findings += find_strays(attempts, received)
    if not taken and not reached and not any(finding.is_fault for finding in findings):
        return pass_over("taken = sink", "no 250 was heard, and nothing is at the sink")
    gaps, waiting = _gaps(taken, reached, history)
    findings += gaps
    findings += _copies(copies, attempts, received, history)
    findings += _leaks(attempts, reached, history)
    findings += _undercharged(taken, reached, history, rules)
    uncounted = {} if history is None else remainders
    findings += [remainder.finding(user) for user, remainder in uncounted.items()]
    opinion = weigh("taken = sink", findings, f"{len(taken)} 250s heard, {len(reached)} messages at the sink")
    if uncounted:
        opinion = leave_open(opinion, f"{sum(one.count for one in uncounted.values())} reached the sink that are in no record")
    return leave_open(opinion, f"{waiting} still wait, or ended in the spool") if waiting else opinion


def _gaps(taken: Sequence[Attempt], reached: Reached, history: History | None) -> tuple[list[Finding], int]:
    """What did not reach all whom it should have, and how many of these the spool answers for."""
    findings: list[Finding] = []
    served = {attempt.load_id: len(_served(attempt, reached)) for attempt in taken}
    missing = [attempt for attempt in taken if not served[attempt.load_id]]
    waiting = {attempt.load_id for attempt in missing if _is_explained(attempt, history)}
    if lost := [attempt.load_id for attempt in missing if attempt.load_id not in waiting]:
        findings.append(Finding("lost", f"{len(lost)} answered 250 and not at the sink: {some(lost)}"))
    if waiting:
        text = f"{len(waiting)} answered 250 wait in the spool or ended there, by the journal: {some(waiting)}"
        findings.append(Finding("waiting", text, is_fault=False))
    short = [a for a in taken if 0 < served[a.load_id] < a.units]
    unexplained = {a.load_id for a in short if not _may_be_short(a, a.units - served[a.load_id], history)}
    rest = {a.load_id for a in short} - unexplained
    for ids, is_fault in ((unexplained, True), (rest, False)):
        if ids:
            findings.append(Finding("short of recipients", f"{len(ids)} reached some of their recipients: {some(ids)}", is_fault=is_fault))
    return findings, len(waiting) + len(rest)


def _served(attempt: Attempt, reached: Reached) -> set[str]:
    """Whom it reached of those who were named."""
    found = reached.get(attempt.load_id, set())
    return found & whom(tuple(attempt.recipients)) if attempt.recipients else found


def _sort(received: Sequence[Received]) -> tuple[dict[str, set[str]], set[str], list[Finding]]:
    """The recipients whom each message reached, those that came to one of them again, and what is wrong with the messages themselves."""
    reached: dict[str, set[str]] = {}
    copies: set[str] = set()
    damaged: list[str] = []
    for message in received:
        if not message.answered:
            continue
        if not message.is_intact:
            damaged.append(message.id)
        if not message.id:
            continue
        before = reached.setdefault(message.id, set())
        for recipient in map(plain, message.recipients):
            if recipient in before:
                copies.add(message.id)
            before.add(recipient)
    return reached, copies, [Finding("damaged", f"{len(damaged)} messages: {some(damaged)}")] if damaged else []


def _copies(copies: set[str], attempts: Sequence[Attempt], received: Sequence[Received], history: History | None) -> Iterator[Finding]:
    unrecorded: set[str] = set()
    if history is not None and copies:
        unanswered = {message.id for message in received if not message.answered}
        charged = {a.load_id for a in attempts if a.is_taken and (c := history.commits.get(a.relay_id)) and not _may_repeat(c, history)}
        unrecorded = copies & charged - unanswered
    for ids, is_fault in ((unrecorded, True), (copies - unrecorded, False)):
        if ids:
            yield Finding("copies", f"{len(ids)} messages reached a recipient more than once: {some(ids)}", is_fault=is_fault)


def _may_repeat(commit: Commit, history: History) -> bool:
    """Whether the journal has what may lead to a copy: the spool, a doubt, or a process that died over it."""
    return commit.spooled > 0 or commit.recipients is None or commit.id in history.doubted


def _may_be_short(attempt: Attempt, missing: int, history: History | None) -> bool:
    """Whether those whom it did not reach are in the spool, by the journal, be it to be reported on."""
    commit = history.commits.get(attempt.relay_id) if history is not None else None
    if commit is None or commit.recipients is None:
        return True
    return missing <= commit.spooled


def _is_explained(attempt: Attempt, history: History | None) -> bool:
    """Whether the journal says where a message is that is not at the sink."""
    commit = history.commits.get(attempt.relay_id) if history is not None else None
    return history is not None and commit is not None and commit.spooled > 0 and commit.id not in history.delivered


def _leaks(attempts: Sequence[Attempt], reached: Reached, history: History | None) -> Iterator[Finding]:
    """What was refused at its final dot and is there; what was refused before is a stray."""
    leaked: dict[str, list[str]] = {}
    for attempt in attempts:
        if attempt.dot_sent and attempt.code and not attempt.is_taken and attempt.load_id in reached:
            leaked.setdefault(attempt.user, []).append(attempt.load_id)
    for user, ids in leaked.items():
        doubts = history.in_doubt[user] if history is not None else 0
        text = f"{len(ids)} refused and at the sink, {doubts} journaled as in doubt: {some(ids)}"
        yield Finding("delivered though refused", text, user, is_fault=len(ids) > doubts)


def _undercharged(taken: Sequence[Attempt], reached: Reached, history: History | None, rules: Rules) -> Iterator[Finding]:
    """Where recipients are counted, all but those who were refused: so whoever was reached."""
    if history is None or rules.unit != "recipients":
        return
    found: dict[str, list[str]] = {}
    for attempt in taken:
        commit = history.commits.get(attempt.relay_id)
        if commit is not None and len(_served(attempt, reached)) > commit.units:
            found.setdefault(attempt.user, []).append(commit.id)
    for user, ids in found.items():
        yield Finding("miscounted", f"{len(ids)} reached more recipients than they were charged for: {some(ids)}", user)
