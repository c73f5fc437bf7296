"""Did the relay keep its promises? Judged from three independent records: its journal, what the clients heard, what the sink got.

Promises: a fault is named only where the records leave no other explanation (clocks may differ by `slack`, entries may leave the window
one resolution late); what is allowed but unusual (overdrafts, copies) is listed as a note. Pure: all records are passed in.

What each check rests on:
- limits: commit instants alone. Every commit that is no overdraft must have fitted, overdrafts before it counted.
- answers: a 250's id against the journal; what is taken beyond the 250s needs a final dot without a reply to explain it.
- deliveries: a load id the client heard 250 for must be at the sink; one that was refused must not be, doubt excepted.
- refusals: one for the hourly limit must have had too little room at its instant, with what was due to leave within one resolution
  still counted; "in flight" needs something in flight; a retry-after is judged where nothing else was under way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from relay.loadkit.attempt import Attempt
from relay.loadkit.history import Commit, History, Refusal
from relay.loadkit.received import Received
from relay.loadkit.verdict import Finding, Limits, Rules, Usage, Verdict
from relay.loadkit.window import Account, running_sums

EXAMPLES = 3
"""How many cases of a kind a finding names."""
UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class Evidence:
    """The records. A journal or a sink that is None was not looked at, and what rests on it is not judged."""

    attempts: Sequence[Attempt] = ()
    history: History | None = None
    received: Sequence[Received] | None = None
    limits: Mapping[str, Limits] = field(default_factory=dict)
    """By user; the refusals of a user who is not there are not judged."""


def judge(evidence: Evidence, rules: Rules) -> Verdict:
    """Weigh the evidence."""
    findings: list[Finding] = []
    usages: list[Usage] = []
    error: tuple[float, float] | None = None
    history = evidence.history
    if history is not None:
        commits = history.by_user()
        usages = [_usage(user, evidence.limits.get(user, UNLIMITED), own, rules) for user, own in sorted(commits.items())]
        for user, own in commits.items():
            findings += _check_limits(user, evidence.limits.get(user, UNLIMITED), own, rules)
            findings += _check_charges(user, own, rules)
        findings += _check_journal(history)
        findings += _check_answers(evidence.attempts, history)
        findings += _check_refusals(evidence, history, rules)
        told, error = _check_retry_after(evidence, history, rules)
        findings += told
    if evidence.received is not None:
        findings += _check_deliveries(evidence.attempts, evidence.received, history)
    if history is None and evidence.received is None:
        findings.append(Finding("nothing to judge by", "neither a journal nor a sink was given", is_fault=False))
    return Verdict(tuple(findings), tuple(usages), error)


def _some(names: Iterable[str]) -> str:
    """Name a few and count all."""
    names = sorted(names)
    more = f" and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else ""
    return ", ".join(names[:EXAMPLES]) + more


# -- limits and charges ------------------------------------------------------------------------------------------------------


def _usage(user: str, limits: Limits, commits: Sequence[Commit], rules: Rules) -> Usage:
    most = max(running_sums([(c.instant, c.units) for c in commits], rules.width), default=0)
    overdrafts = sum(c.units for c in commits if c.is_overdraft)
    return Usage(user, limits, most, sum(c.units for c in commits), overdrafts)


def _check_limits(user: str, limits: Limits, commits: Sequence[Commit], rules: Rules) -> Iterator[Finding]:
    # Of commits at one instant the overdrafts come last: they are what may exceed.
    ordered = sorted(commits, key=lambda c: (c.instant, c.is_overdraft))
    sums = running_sums([(c.instant, c.units) for c in ordered], rules.width)
    total = 0
    hourly_over: list[tuple[int, str]] = []
    total_over: list[tuple[int, str]] = []
    for commit, in_window in zip(ordered, sums, strict=True):
        total += commit.units
        if commit.is_overdraft:
            continue
        if limits.hourly is not None and in_window > limits.hourly:
            hourly_over.append((in_window, commit.id))
        if limits.total is not None and total > limits.total:
            total_over.append((total, commit.id))
    if hourly_over:
        worst, id = max(hourly_over)
        text = f"{worst} of {limits.hourly} {rules.unit} in a window, worst at {id}, {len(hourly_over)} commits over"
        yield Finding("over the hourly limit", text, user)
    if total_over:
        worst, id = max(total_over)
        yield Finding("over the total limit", f"{worst} of {limits.total} {rules.unit}, first at {total_over[0][1]}", user)
    if overdrafts := [c.id for c in commits if c.is_overdraft]:
        yield Finding("overdraft", f"{len(overdrafts)}: {_some(overdrafts)}", user, is_fault=False)


def _check_charges(user: str, commits: Sequence[Commit], rules: Rules) -> Iterator[Finding]:
    if pending := [c.id for c in commits if not c.at]:
        yield Finding("charge never recorded", f"{len(pending)}: {_some(pending)}", user)
    most = {c.id: 1 if rules.unit == "messages" else c.recipients for c in commits if c.recipients is not None}
    wrong = [c.id for c in commits if c.id in most and not 1 <= c.units <= (most[c.id] or 0)]
    if wrong:
        yield Finding("miscounted", f"{len(wrong)} charged other than their {rules.unit}: {_some(wrong)}", user)


def _check_journal(history: History) -> Iterator[Finding]:
    if history.twice:
        yield Finding("taken twice", f"{len(history.twice)} ids: {_some(history.twice)}")
    if history.unreadable:
        yield Finding("journal unreadable", f"{history.unreadable} lines", is_fault=False)


# -- answers -----------------------------------------------------------------------------------------------------------------


def _check_answers(attempts: Sequence[Attempt], history: History) -> Iterator[Finding]:
    heard: Counter[str] = Counter()
    unanswered: Counter[str] = Counter()
    users: dict[str, float] = {}
    strangers: dict[str, list[str]] = {}
    for attempt in attempts:
        if not attempt.load_id:
            continue
        users[attempt.user] = min(users.get(attempt.user, attempt.started_at), attempt.started_at)
        unanswered[attempt.user] += attempt.is_unanswered
        if attempt.is_taken:
            heard[attempt.relay_id] += 1
            commit = history.commits.get(attempt.relay_id)
            if commit is None or commit.user != attempt.user:
                strangers.setdefault(attempt.user, []).append(attempt.relay_id or attempt.load_id)
    for user, ids in strangers.items():
        yield Finding("answered but not taken", f"{len(ids)} of its 250s are not in the journal: {_some(ids)}", user)
    if again := [id for id, count in heard.items() if id and count > 1]:
        yield Finding("answered twice", f"{len(again)} ids: {_some(again)}")
    silent: dict[str, list[str]] = {user: [] for user in users}
    for commit in history.commits.values():
        # What was taken before the load began belongs to someone else.
        if commit.id not in heard and commit.user in users and commit.told >= users[commit.user] * 1e6:
            silent[commit.user].append(commit.id)
    for user, ids in silent.items():
        if len(ids) > unanswered[user]:
            text = f"{len(ids)} taken and no 250 heard, only {unanswered[user]} final dots had no reply: {_some(ids)}"
            yield Finding("taken without an answer", text, user)


# -- deliveries --------------------------------------------------------------------------------------------------------------


def _check_deliveries(attempts: Sequence[Attempt], received: Sequence[Received], history: History | None) -> Iterator[Finding]:
    copies: Counter[tuple[str, str]] = Counter()
    reached: dict[str, set[str]] = {}
    damaged: list[str] = []
    for message in received:
        if message.answered and message.id:
            copies.update((message.id, recipient) for recipient in set(message.recipients))
            reached.setdefault(message.id, set()).update(message.recipients)
        if message.answered and not message.is_intact:
            damaged.append(message.id)
    if damaged:
        yield Finding("damaged", f"{len(damaged)} messages: {_some(damaged)}")
    taken = [attempt for attempt in attempts if attempt.is_taken]
    if lost := [attempt.load_id for attempt in taken if attempt.load_id not in reached]:
        yield Finding("lost", f"{len(lost)} answered 250 and not at the sink: {_some(lost)}")
    if short := [a.load_id for a in taken if 0 < len(reached.get(a.load_id, ())) < a.units]:
        yield Finding("short of recipients", f"{len(short)} reached some of their recipients: {_some(short)}", is_fault=False)
    if more := {id for (id, _), count in copies.items() if count > 1}:
        yield Finding("copies", f"{len(more)} messages reached a recipient more than once: {_some(more)}", is_fault=False)
    yield from _check_leaks(attempts, reached, history)


def _check_leaks(attempts: Sequence[Attempt], reached: Mapping[str, object], history: History | None) -> Iterator[Finding]:
    leaked: dict[str, list[str]] = {}
    for attempt in attempts:
        if attempt.code >= 400 and attempt.load_id in reached:
            leaked.setdefault(attempt.user, []).append(attempt.load_id)
    for user, ids in leaked.items():
        doubts = history.in_doubt[user] if history is not None else 0
        text = f"{len(ids)} refused and at the sink, {doubts} journaled as in doubt: {_some(ids)}"
        yield Finding("delivered though refused", text, user, is_fault=len(ids) > doubts)


# -- refusals ----------------------------------------------------------------------------------------------------------------

_REASONS = {"Hourly sending limit": "hourly", "Total sending limit reached": "total", "Sending limit taken by messages": "in_flight"}


def _reason(attempt: Attempt) -> str:
    if attempt.code < 400:
        return ""
    return next((reason for text, reason in _REASONS.items() if text in attempt.text), "")


def _check_refusals(evidence: Evidence, history: History, rules: Rules) -> Iterator[Finding]:
    accounts = {user: Account((c.instant, c.units) for c in own) for user, own in history.by_user().items()}
    journaled = {refusal.user for refusal in history.refusals}
    heard = [_heard(attempt, rules) for attempt in evidence.attempts if attempt.user not in journaled and _reason(attempt)]
    wrong: dict[tuple[str, str], list[int]] = {}
    for refusal in [*history.refusals, *heard]:
        room = _room(refusal, accounts.get(refusal.user, Account(())), evidence.limits.get(refusal.user), rules)
        if room is not None and refusal.units <= room:
            wrong.setdefault((refusal.user, refusal.reason), []).append(room)
    for (user, reason), rooms in wrong.items():
        yield Finding("refused wrongly", f"{len(rooms)} for the {reason} limit with room for {max(rooms)} {rules.unit}", user)
    alone: Counter[str] = Counter(a.user for a in sequential(evidence.attempts) if _reason(a) == "in_flight")
    for user, count in alone.items():
        yield Finding("refused wrongly", f"{count} for messages in flight with none in flight", user)


def _heard(attempt: Attempt, rules: Rules) -> Refusal:
    units = 1 if rules.unit == "messages" else attempt.units
    return Refusal(attempt.user, _reason(attempt), units, round(attempt.started_at * 1e6), round(attempt.replied_at * 1e6))


def _room(refusal: Refusal, account: Account, limits: Limits | None, rules: Rules) -> int | None:
    """The least room there can have been when it was refused; None where the limit was not the reason."""
    if limits is None:
        return None
    until = refusal.latest + rules.slack * 1e6
    if refusal.reason == "hourly":
        since = refusal.earliest - (rules.window_seconds + rules.resolution_seconds + rules.slack) * 1e6
        # Without an hourly limit nothing can be refused for it: any room is too much.
        return refusal.units if limits.hourly is None else limits.hourly - account.between(since, until)
    if refusal.reason == "total":
        return refusal.units if limits.total is None else limits.total - account.between(float("-inf"), until)
    return None


def sequential(attempts: Iterable[Attempt]) -> Iterator[Attempt]:
    """Those attempts during which nothing else of their user's was under way; what was never answered stays under way for good."""
    users: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        if attempt.load_id:
            users.setdefault(attempt.user, []).append(attempt)
    for own in users.values():
        own.sort(key=lambda a: a.started)
        busy_until = float("-inf")
        for index, attempt in enumerate(own):
            end = attempt.replied if attempt.code else float("inf")
            follower = own[index + 1].started if index + 1 < len(own) else float("inf")
            if attempt.started >= busy_until and end <= follower and attempt.code:
                yield attempt
            busy_until = max(busy_until, end)


def _check_retry_after(evidence: Evidence, history: History, rules: Rules) -> tuple[list[Finding], tuple[float, float] | None]:
    """Judge each retry-after told while nothing else was under way against the instant from which the message really fits."""
    accounts = {user: Account((c.instant, c.units) for c in own) for user, own in history.by_user().items()}
    early: Counter[str] = Counter()
    late: Counter[str] = Counter()
    errors: list[float] = []
    # Whole seconds are told, and an entry leaves with its whole resolution.
    tolerance = rules.resolution_seconds + 1.0 + rules.slack
    for attempt in sequential(evidence.attempts):
        hourly = evidence.limits.get(attempt.user, UNLIMITED).hourly
        if hourly is None or attempt.retry_after is None or _reason(attempt) != "hourly" or attempt.user not in accounts:
            continue
        refusal = _heard(attempt, rules)
        fits = accounts[attempt.user].fits_from(refusal.latest, refusal.units, hourly, rules.width)
        if fits is None:
            continue
        error = refusal.latest / 1e6 + attempt.retry_after - fits / 1e6
        errors.append(error)
        early[attempt.user] += error < -rules.slack
        late[attempt.user] += error - (refusal.latest - refusal.earliest) / 1e6 > tolerance
    findings = [Finding("retry-after too early", f"{n} told before the message fits", user) for user, n in early.items() if n]
    findings += [Finding("retry-after too late", f"{n} told later than needed", user) for user, n in late.items() if n]
    return findings, (min(errors), max(errors)) if errors else None
