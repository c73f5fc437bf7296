"""Is what the clients were told what was taken, is it what the ledger counts, and was it counted before they were told?

Promises: every 250 names a message of its own that was taken, charged with its units and once; what was taken beyond the 250s needs a
final dot without a reply to explain it. A message is counted and on record before its 250, except where the relay says at once that
the charge must wait.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from relay.loadkit.attempt import Attempt
from relay.loadkit.history import Commit, History
from relay.loadkit.verdict import Finding, Opinion, Rules, pass_over, some, weigh


def judge_answers(attempts: Sequence[Attempt], history: History, rules: Rules) -> Opinion:
    """Every 250 is a message taken, and no more are taken than that."""
    findings = list(_compare(attempts, history))
    wrong: dict[str, list[str]] = {}
    for commit in history.commits.values():
        if commit.recipients is not None and not 1 <= commit.units <= rules.units(commit.recipients):
            wrong.setdefault(commit.user, []).append(commit.id)
    for user, ids in wrong.items():
        findings.append(Finding("miscounted", f"{len(ids)} charged other than their {rules.unit}: {some(ids)}", user))
    if history.twice:
        findings.append(Finding("taken twice", f"{len(history.twice)} ids: {some(history.twice)}"))
    if history.unreadable:
        findings.append(Finding("journal unreadable", f"{history.unreadable} lines", is_fault=False))
    heard = sum(attempt.is_taken for attempt in attempts)
    if not heard and not history.commits and not findings:
        return pass_over("250s = taken", "no 250 was heard, and the journal has nothing taken")
    return weigh("250s = taken", findings, f"{heard} 250s heard, {len(history.commits)} taken by the journal")


def _compare(attempts: Sequence[Attempt], history: History) -> Iterator[Finding]:
    heard: Counter[str] = Counter()
    unanswered: Counter[str] = Counter()
    strangers: dict[str, list[str]] = {}
    for attempt in attempts:
        if not attempt.load_id:
            continue
        unanswered[attempt.user] += attempt.is_unanswered
        if attempt.is_taken:
            id = attempt.relay_id
            heard[id] += 1
            commit = history.commits.get(id)
            if commit is None or commit.user != attempt.user:
                strangers.setdefault(attempt.user, []).append(id or attempt.load_id)
    for user, ids in strangers.items():
        yield Finding("answered but not taken", f"{len(ids)} of its 250s are not in the journal: {some(ids)}", user)
    if again := [id for id, count in heard.items() if id and count > 1]:
        yield Finding("answered twice", f"{len(again)} ids: {some(again)}")
    for user, ids in untold(attempts, history).items():
        if len(ids) > unanswered[user]:
            text = f"{len(ids)} taken and no 250 heard, only {unanswered[user]} final dots had no reply: {some(ids)}"
            yield Finding("taken without an answer", text, user)


def untold(attempts: Sequence[Attempt], history: History) -> dict[str, list[str]]:
    """By user, the ids of what was taken since it began to send, and of which its clients heard no 250."""
    heard: set[str] = set()
    began: dict[str, float] = {}
    for attempt in attempts:
        if attempt.load_id:
            began[attempt.user] = min(began.get(attempt.user, attempt.started_at), attempt.started_at)
            if attempt.is_taken:
                heard.add(attempt.relay_id)
    found: dict[str, list[str]] = {user: [] for user in began}
    for commit in history.commits.values():
        # What was taken before the load began belongs to someone else.
        if commit.id not in heard and commit.user in began and commit.told >= began[commit.user] * 1e6:
            found[commit.user].append(commit.id)
    return found


def judge_ledger(commits: Mapping[str, Sequence[Commit]], ledger: Mapping[str, int] | None) -> Opinion:
    """What was taken is charged, and nothing else is."""
    findings: list[Finding] = []
    for user, own in commits.items():
        if pending := [commit.id for commit in own if not commit.at and not commit.is_loose]:
            findings.append(Finding("charge never recorded", f"{len(pending)}: {some(pending)}", user))
    charged = 0
    for user, units in (ledger or {}).items():
        taken = sum(commit.units for commit in commits.get(user, ()))
        charged += units
        if units < taken:
            findings.append(Finding("not in the ledger", f"{taken} units taken, {units} in the ledger", user))
        elif units > taken:
            findings.append(Finding("charged but not taken", f"{units} units in the ledger, {taken} taken", user))
    if ledger is None and not findings:
        return pass_over("taken = ledger", "the ledger was not read")
    if not charged and not commits and not findings:
        return pass_over("taken = ledger", "nothing was taken, and nothing is in the ledger")
    return weigh("taken = ledger", findings, f"{charged} units in the ledger" if ledger is not None else "the ledger was not read")


def judge_charges(commits: Mapping[str, Sequence[Commit]], ledger: Mapping[str, int] | None, rules: Rules) -> Opinion:
    """Without a journal: what was answered 250 is charged; what is charged beyond that may have been taken without a word."""
    if ledger is None:
        return pass_over("taken = ledger", "another server's journal and ledger are not to be had")
    findings: list[Finding] = []
    heard = 0
    for user, units in ledger.items():
        own = commits.get(user, ())
        # Recipients that the smarthost refused are not charged, and which those were is not known here.
        least = sum(commit.units for commit in own) if rules.unit == "messages" else len(own)
        heard += least
        if units < least:
            findings.append(Finding("not in the ledger", f"at least {least} units answered 250, {units} in the ledger", user))
    charged = sum(ledger.values())
    if not heard and not charged:
        return pass_over("taken = ledger", "no 250 was heard, and nothing is in the ledger")
    return weigh(
        "taken = ledger", findings, f"{charged} units in the ledger, at least {heard} by the 250s; without a journal only less is wrong"
    )


def judge_order(attempts: Sequence[Attempt], history: History, rules: Rules) -> Opinion:
    """A message counts, and is on record, before its client hears so."""
    late: dict[str, list[float]] = {}
    unwritten: dict[str, list[float]] = {}
    judged = 0
    slack = rules.slack_us
    for attempt in attempts:
        if not attempt.is_taken or (commit := history.commits.get(attempt.relay_id)) is None:
            continue
        judged += 1
        until = attempt.replied_at * 1e6 + slack
        if commit.at > until and not commit.is_loose and commit.id not in history.kept:
            late.setdefault(attempt.user, []).append(commit.at / 1e6 - attempt.replied_at)
        elif commit.told > until and commit.recipients is not None:
            unwritten.setdefault(attempt.user, []).append(commit.told / 1e6 - attempt.replied_at)
    if not judged:
        return pass_over("counted before the 250", "no 250 is in the journal")
    findings = [
        Finding("counted after the answer", f"{len(times)} times, up to {max(times):.3f} s after the 250", user)
        for user, times in late.items()
    ]
    findings += [
        Finding("journaled after the answer", f"{len(times)} times, up to {max(times):.3f} s after the 250", user)
        for user, times in unwritten.items()
    ]
    return weigh("counted before the 250", findings, f"{judged} messages, clocks may differ by {rules.slack:g} s")
