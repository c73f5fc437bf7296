"""Did the relay keep its promises? Judged from independent records: its journal, its ledger, what the clients heard, what the sink got.

Promises: a fault is named only where the records leave no other explanation (clocks may differ by `slack`, entries may leave the window
one resolution late); what is allowed but unusual (overdrafts that were late, copies on record) is listed as a note. What is not judged
says so and why, and is never said to hold. Pure: all records are passed in; the time it takes grows with their number, not faster.

Its parts, each a promise or two:
- admission: was more let through than the limits allow, in any window or ever?
- answer: are the 250s what was taken, is that what the ledger counts, and was it counted before they were told?
- delivery: is what was taken at the sink, and nothing else? With it stray: was it sent, and so? And remainder: was it counted?
- refusal: was there really no room, and did the retry-after name the right second?
- overtaking: did a changed account hold from the answer on?
- rejection: did the cap on rejected mail hold?
"""

from __future__ import annotations

from collections.abc import Sequence

from relay.loadkit.admission import Books, but_for_remainders, judge_hourly, judge_total, usages
from relay.loadkit.answer import judge_answers, judge_charges, judge_ledger, judge_order
from relay.loadkit.attempt import Attempt
from relay.loadkit.delivery import judge_deliveries
from relay.loadkit.evidence import Evidence
from relay.loadkit.history import Commit, History
from relay.loadkit.overtaking import judge_changes
from relay.loadkit.received import Received
from relay.loadkit.refusal import Ground, RetryAfterErrors, judge_refusals, judge_retry_after, sequential
from relay.loadkit.rejection import judge_rejections, possible
from relay.loadkit.remainder import find_remainders
from relay.loadkit.timeline import Timeline, timelines
from relay.loadkit.verdict import Finding, Opinion, Promise, Rules, Verdict, pass_over
from relay.loadkit.window import Account

__all__ = ["Evidence", "judge"]

_BY_JOURNAL: tuple[Promise, ...] = (
    "over-admission (hourly)", "over-admission (total)", "250s = taken", "taken = ledger", "counted before the 250", "wrong refusals",
    "retry-after", "overtaken edits and disables", "rejected-mail cap",
)  # fmt: skip


def judge(evidence: Evidence, rules: Rules) -> Verdict:
    """Weigh the evidence."""
    lines = timelines(evidence.limits, evidence.changes, rules.slack_us)
    books = Books({}, lines)
    errors: RetryAfterErrors | None = None
    opinions: list[Opinion]
    if evidence.is_foreign:
        books = foreign_books(evidence.attempts, lines, rules)
        opinions, errors = _judge_foreign(evidence, books, rules)
    elif evidence.history is not None:
        books = Books(evidence.history.by_user(), lines)
        opinions, errors = _judge_by_journal(evidence, evidence.history, books, rules)
    else:
        opinions = [pass_over(name, "there is no journal") for name in _BY_JOURNAL]
    if evidence.received is None:
        opinions.insert(4, pass_over("taken = sink", "there is no sink to look into"))
    else:
        opinions = _look_into_sink(evidence, evidence.received, books, opinions, rules)
    findings = [finding for opinion in opinions for finding in opinion.findings]
    findings += _unmade(evidence)
    checks = tuple(opinion.check for opinion in opinions)
    if all(check.is_held is None for check in checks):
        findings.append(Finding("nothing to judge by", "no record says anything about a promise", is_fault=False))
    return Verdict(tuple(findings), usages(books, rules), errors, checks)


def _look_into_sink(evidence: Evidence, received: Sequence[Received], books: Books, opinions: list[Opinion], rules: Rules) -> list[Opinion]:
    """Judge what is there, and take back that limits held where something is there that was not counted against them."""
    attempts, history = evidence.attempts, None if evidence.is_foreign else evidence.history
    reached = {message.id for message in received if message.answered}
    remainders = find_remainders(attempts, reached, history, rules)
    hourly, total, *others = opinions
    judged = judge_deliveries(attempts, received, history, remainders, rules)
    admission = [but_for_remainders(opinion, books, remainders, rules) for opinion in (hourly, total)]
    return [*admission, *others[:2], judged, *others[2:]]


def _unmade(evidence: Evidence) -> list[Finding]:
    """A change that was not made proves nothing of those that were to show its effect."""
    failed = [Finding("change not made", f"{change.kind}: {change.error}", change.user) for change in evidence.changes if change.error]
    return failed + [Finding("change not made", f"{late}, when the load was over") for late in evidence.undone]


def _judge_by_journal(evidence: Evidence, history: History, books: Books, rules: Rules) -> tuple[list[Opinion], RetryAfterErrors | None]:
    ground = Ground(_accounts(books), _ledgers(books), possible(history.rejections, rules), books.timelines, rules)
    alone = _refused_alone(evidence.attempts)
    told, errors = judge_retry_after(evidence.attempts, alone, ground)
    return [
        judge_hourly(books, rules),
        judge_total(books, rules),
        judge_answers(evidence.attempts, history, rules),
        judge_ledger(books.commits, evidence.ledger),
        judge_order(evidence.attempts, history, rules),
        judge_refusals(evidence.attempts, alone, history.refusals, ground),
        told,
        judge_changes(books, evidence.attempts, history, rules),
        judge_rejections(history.rejections, books.timelines, rules),
    ], errors


def _judge_foreign(evidence: Evidence, books: Books, rules: Rules) -> tuple[list[Opinion], RetryAfterErrors | None]:
    unanswered = [attempt for attempt in evidence.attempts if attempt.is_unanswered]
    ground = Ground(_accounts(books, unanswered, rules), _ledgers(books), {}, books.timelines, rules, is_foreign=True)
    alone = _refused_alone(evidence.attempts)
    told, errors = judge_retry_after(evidence.attempts, alone, ground)
    why = "another server's journal and ledger are not to be had"
    return [
        judge_hourly(books, rules),
        judge_total(books, rules),
        pass_over("250s = taken", why),
        judge_charges(books.commits, evidence.ledger, rules),
        pass_over("counted before the 250", why),
        judge_refusals(evidence.attempts, alone, (), ground),
        told,
        judge_changes(books, evidence.attempts, None, rules),
        pass_over("rejected-mail cap", why),
    ], errors


def foreign_books(attempts: Sequence[Attempt], lines: dict[str, Timeline], rules: Rules) -> Books:
    """The 250s that were heard, as commits of another server; the time from each one's final dot to its 250 is its doubt."""
    users: dict[str, list[Commit]] = {}
    doubt = 0
    for attempt in attempts:
        if not attempt.is_taken or not attempt.load_id:
            continue
        heard = round(attempt.replied_at * 1e6)
        own_doubt = round((attempt.replied - attempt.dot_sent) * 1e6)
        doubt = max(doubt, own_doubt)
        commit = Commit(attempt.load_id, attempt.user, rules.units(attempt.units), heard, heard, doubt=own_doubt)
        users.setdefault(attempt.user, []).append(commit)
    for own in users.values():
        own.sort(key=lambda commit: commit.at)
    return Books(users, lines, doubt)


def _refused_alone(attempts: Sequence[Attempt]) -> list[Attempt]:
    return [attempt for attempt in sequential(attempts) if attempt.code >= 400]


def _ledgers(books: Books) -> dict[str, Account]:
    """What the ledger knew of each user: a charge that waits for the store is no part of what it tells."""
    return {
        user: _account([(commit.at - commit.doubt, commit.at, commit.units) for commit in own if commit.at])
        for user, own in books.commits.items()
        if not any(commit.is_loose for commit in own)
    }


def _accounts(books: Books, unanswered: Sequence[Attempt] = (), rules: Rules | None = None) -> dict[str, Account]:
    """What each user may have had taken; of another server, what it never answered may have been."""
    found = {user: [(commit.earliest, commit.instant, commit.units) for commit in own] for user, own in books.commits.items()}
    for attempt in unanswered:
        if rules is not None:
            instant = round((attempt.started_at + attempt.dot_sent - attempt.started) * 1e6)
            lost = max(instant, round(attempt.replied_at * 1e6))
            found.setdefault(attempt.user, []).append((instant, lost, rules.units(attempt.units)))
    return {user: _account(own) for user, own in found.items()}


def _account(spans: Sequence[tuple[int, int, int]]) -> Account:
    """Of commits that lie between two instants each."""
    return Account([(until, units) for _, until, units in spans], [(since, units) for since, _, units in spans])
