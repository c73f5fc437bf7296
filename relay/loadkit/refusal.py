"""Was every refusal right, and did it say when?

Promises: a refusal for a limit must have had too little room at its instant, with what was due to leave within one resolution still
counted; "in flight" needs something in flight; one for the account needs a change that could be its cause. A retry-after is judged
where nothing else of the user's was under way, against the instant from which the message really fits. Where a limit was being
changed, what any of its values allows is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from relay.loadkit.attempt import Attempt
from relay.loadkit.history import Refusal
from relay.loadkit.timeline import NEVER, Timeline
from relay.loadkit.verdict import Finding, Opinion, Rules, pass_over, weigh
from relay.loadkit.window import Account

_REASONS = {
    "Hourly sending limit": "hourly", "Total sending limit reached": "total", "Sending limit taken by messages": "in_flight",
    "Too much of your mail was rejected": "rejected", "never fits the limit": "never", "User account disabled": "disabled",
    "Credentials were changed": "stale",
}  # fmt: skip
_ACCOUNT = ("disabled", "stale", "unknown")
_KNOWN = frozenset((*_REASONS.values(), *_ACCOUNT))
RetryAfterErrors = tuple[float, float, float]
EMPTY = Account(())


@dataclass(frozen=True, slots=True)
class Ground:
    """What refusals are judged by."""

    accounts: Mapping[str, Account]
    """What each user may have had taken."""
    ledgers: Mapping[str, Account]
    """What the ledger knew of it; a user is left out where that is not known to the second."""
    rejected: Mapping[str, Account]
    """What the smarthost may have rejected of it."""
    timelines: Mapping[str, Timeline]
    rules: Rules
    is_foreign: bool = False


def reason(attempt: Attempt) -> str:
    """Why an attempt was refused, by its text; "" for what no limit and no account has refused."""
    if attempt.code < 400:
        return ""
    return next((reason for text, reason in _REASONS.items() if text in attempt.text), "")


def _reason(attempt: Attempt, ground: Ground) -> str:
    found = reason(attempt)
    # Another server has its own words; one that names a second speaks of a limit that has one.
    return "hourly" if not found and ground.is_foreign and attempt.code >= 400 and attempt.retry_after is not None else found


def judge_refusals(attempts: Sequence[Attempt], alone: Sequence[Attempt], refusals: Sequence[Refusal], ground: Ground) -> Opinion:
    """Look for room where something was refused for want of it; `alone` are those refused with nothing else under way."""
    heard = [_heard(attempt, found, ground.rules) for attempt in attempts if (found := _reason(attempt, ground))]
    journaled, unheard = _sift(refusals, ground), _sift(heard, ground)
    # Most are in both records: each is judged by either, and those of the record that has more are told.
    reasons, passed, wrong = Counter[str](), Counter[str](), dict[tuple[str, str], list[float]]()
    for key in dict.fromkeys([*journaled, *unheard]):
        one, other = journaled.get(key, Sifted()), unheard.get(key, Sifted())
        reasons[key[1]] += max(one.judged, other.judged)
        passed[key[1]] += max(one.passed, other.passed)
        if rooms := max(one.rooms, other.rooms, key=len):
            wrong[key] = rooms
    findings = [Finding("refused wrongly", _tell(reason, rooms, ground.rules), user) for (user, reason), rooms in wrong.items()]
    findings += _misspoken(attempts, ground)
    strange = Counter(
        a.user for a in attempts if a.load_id and a.stage in ("mail", "rcpt", "data") and a.code >= 400 and not _reason(a, ground)
    )
    if strange:
        passed["of no known reason"] += strange.total()
    if not ground.is_foreign:
        findings += _unjournaled(attempts, refusals)
    unmet = Counter(attempt.user for attempt in alone if reason(attempt) == "in_flight")
    for user, count in unmet.items():
        findings.append(Finding("refused wrongly", f"{count} for messages in flight with none in flight", user))
    passed["in_flight"] -= unmet.total()
    reasons["in_flight"] += unmet.total()
    told = _list(reasons)
    unjudged = f"; not judged: {_list(passed)}" if _list(passed) else ""
    if not told and not findings:
        return pass_over("wrong refusals", f"nothing was refused that could be{f': {_list(passed)}' if unjudged else ''}")
    return weigh("wrong refusals", findings, f"{told}{unjudged}")


@dataclass(slots=True)
class Sifted:
    """The refusals of one user for one reason, by one record."""

    judged: int = 0
    passed: int = 0
    rooms: list[float] = field(default_factory=list)
    """The room there was for each that had room."""


def _sift(refusals: Iterable[Refusal], ground: Ground) -> dict[tuple[str, str], Sifted]:
    found: dict[tuple[str, str], Sifted] = {}
    for refusal in refusals:
        own = found.setdefault((refusal.user, refusal.reason), Sifted())
        room = _room(refusal, ground)
        if room is None:
            own.passed += 1
            continue
        own.judged += 1
        if refusal.units <= room:
            own.rooms.append(room)
    return found


def _misspoken(attempts: Iterable[Attempt], ground: Ground) -> Iterator[Finding]:
    """What is refused for the hourly limit may be sent later: it must be told so, and by this relay when."""
    hourly = [attempt for attempt in attempts if _reason(attempt, ground) == "hourly" and attempt.user in ground.timelines]
    for user, count in Counter(attempt.user for attempt in hourly if attempt.code >= 500).items():
        yield Finding("refused wrongly", f"{count} for the hourly limit, for good", user)
    if not ground.is_foreign:
        for user, count in Counter(attempt.user for attempt in hourly if attempt.retry_after is None).items():
            yield Finding("refused wrongly", f"{count} for the hourly limit, without a retry-after", user)


def _unjournaled(attempts: Iterable[Attempt], refusals: Iterable[Refusal]) -> Iterator[Finding]:
    """What was refused at DATA for no limit must be in the journal with its reason; 421 is of the connection, not of the message."""
    heard = Counter(a.user for a in attempts if a.stage == "data" and a.code >= 400 and a.code != 421 and not reason(a))
    written = Counter(refusal.user for refusal in refusals if refusal.reason not in _KNOWN)
    for user, count in heard.items():
        if count > written[user]:
            yield Finding("refused wrongly", f"{count} at DATA for no known reason, {written[user]} such in the journal", user)


def _list(reasons: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(reasons.items()) if count > 0)


def _tell(reason: str, rooms: Sequence[float], rules: Rules) -> str:
    if reason in _ACCOUNT:
        return f"{len(rooms)} as {reason}, which no change explains"
    room = max(rooms)
    return f"{len(rooms)} for the {reason} limit with room for {'any' if room == NEVER else f'{room:.0f}'} {rules.unit}"


def _heard(attempt: Attempt, reason: str, rules: Rules) -> Refusal:
    return Refusal(attempt.user, reason, rules.units(attempt.units), round(attempt.started_at * 1e6), round(attempt.replied_at * 1e6))


def _room(refusal: Refusal, ground: Ground) -> float | None:
    """The least room there can have been when it was refused, infinity where nothing explains it; None where it is not judged."""
    line = ground.timelines.get(refusal.user)
    if line is None:
        return None
    rules = ground.rules
    since, until = refusal.earliest, refusal.latest + rules.slack_us
    leaving = since - rules.width - round(rules.resolution_seconds * 1e6) - rules.slack_us
    match refusal.reason:
        case "hourly":
            return min(line.hourly.over(since, until)) - _taken(refusal.user, leaving, until, ground)
        case "total":
            return min(line.total.over(since, until)) - _taken(refusal.user, -NEVER, until, ground)
        case "never":
            hourly = min(line.hourly.over(since, until))
            return min(hourly, rules.cap(hourly))
        case "rejected":
            cap = rules.cap(min(line.hourly.over(since, until)))
            return cap - ground.rejected.get(refusal.user, EMPTY).between(leaving, until)
        case "disabled":
            return 0 if False in line.is_enabled.over(since, until) else NEVER
        case "stale" | "unknown":
            return 0 if True in line.may_be_sent_off.over(since, until) else NEVER
        case _:
            return None


def _taken(user: str, since: float, until: float, ground: Ground) -> int:
    return ground.accounts.get(user, EMPTY).between(since, until)


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


class Told(NamedTuple):
    """A retry-after that can be judged; seconds after the instant from which the message really fits."""

    user: str
    error: float
    spread: float
    """How long the refusal may have taken: it may have been right when it was decided."""
    doubt: float
    """How much earlier the message may have fitted (of a foreign server)."""


def judge_retry_after(attempts: Sequence[Attempt], alone: Sequence[Attempt], ground: Ground) -> tuple[Opinion, RetryAfterErrors | None]:
    """Judge each retry-after told while nothing else was under way (those `alone`)."""
    rules = ground.rules
    told = list(_told(alone, ground))
    if not told:
        heard = sum(attempt.code >= 400 and attempt.retry_after is not None for attempt in attempts)
        why = f"none of the {heard} told came while nothing else of its user's was under way" if heard else "none was told"
        return pass_over("retry-after", why), None
    # Whole seconds are told, and an entry leaves with its whole resolution.
    tolerance = rules.resolution_seconds + 1.0 + rules.slack
    early = Counter(one.user for one in told if one.error + one.doubt < -rules.slack)
    late = Counter(one.user for one in told if one.error - one.spread > tolerance)
    findings = [Finding("retry-after too early", f"{n} told before the message fits", user) for user, n in early.items()]
    findings += [Finding("retry-after too late", f"{n} told later than needed", user) for user, n in late.items()]
    errors = [one.error for one in told]
    least, middle, most = summary = (min(errors), median(errors), max(errors))
    text = f"{len(told)} judged, off by {least:+.2f} s at the least, {middle:+.2f} s in the middle, {most:+.2f} s at the most"
    return weigh("retry-after", findings, text), summary


def _told(alone: Sequence[Attempt], ground: Ground) -> Iterator[Told]:
    rules = ground.rules
    for attempt in alone:
        if attempt.retry_after is None or _reason(attempt, ground) != "hourly":
            continue
        line, account = ground.timelines.get(attempt.user), ground.ledgers.get(attempt.user)
        # What was rejected may have to leave as well: then a later second is right.
        if line is None or account is None or attempt.user in ground.rejected:
            continue
        refusal = _heard(attempt, "hourly", rules)
        limits = line.hourly.over(refusal.earliest, refusal.latest)
        if len(limits) > 1 or limits[0] == NEVER:
            continue
        fits = account.fits_from(refusal.latest, refusal.units, int(limits[0]), rules.width)
        if fits is not None:
            error = (refusal.latest - fits) / 1e6 + attempt.retry_after
            first = account.may_fit_from(refusal.latest, refusal.units, int(limits[0]), rules.width)
            doubt = fits - (fits if first is None else first)
            yield Told(attempt.user, error, (refusal.latest - refusal.earliest) / 1e6, doubt / 1e6)
