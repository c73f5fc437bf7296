"""Did the cap on rejected mail hold? What the smarthost rejects is not charged, so a cap keeps it from being tried without end.

Promises: a rejection is known by its journal line, which is written within DECIDING after it was counted; so all that were journaled
within the window less that time were counted within one window, and only what exceeds the cap there cannot be explained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from relay.loadkit.history import DECIDING, Rejection
from relay.loadkit.timeline import Timeline
from relay.loadkit.verdict import Finding, Opinion, Rules, pass_over, weigh
from relay.loadkit.window import Account, running_sums


def judge_rejections(rejections: Iterable[Rejection], timelines: Mapping[str, Timeline], rules: Rules) -> Opinion:
    """Never more rejected in a window than the cap."""
    users: dict[str, list[tuple[int, int]]] = {}
    for rejection in rejections:
        if rejection.user in timelines and rejection.outcome != "deferred" and (units := units_of(rejection, rules)):
            users.setdefault(rejection.user, []).append((rejection.told, units))
    width = rules.width - DECIDING - rules.slack_us
    if not users:
        return pass_over("rejected-mail cap", "the smarthost rejected nothing of users whose limits are known")
    if width <= 0:
        return pass_over("rejected-mail cap", f"the window is no longer than {DECIDING / 1e6:g} s, by which journal lines may be late")
    findings: list[Finding] = []
    fullest = 0
    for user, own in users.items():
        own.sort()
        over: list[tuple[int, int]] = []
        hourly = timelines[user].hourly
        for (told, _), count in zip(own, running_sums(own, width), strict=True):
            fullest = max(fullest, count)
            cap = rules.cap(max(hourly.over(told - rules.width - DECIDING, told)))
            if count > cap:
                over.append((count, cap))
        if over:
            count, cap = max(over)
            findings.append(Finding("over the cap on rejected mail", f"{count} of {cap} {rules.unit} rejected in a window", user))
    return weigh("rejected-mail cap", findings, f"{sum(map(len, users.values()))} rejected, {fullest} {rules.unit} in a window at the most")


def possible(rejections: Iterable[Rejection], rules: Rules) -> dict[str, Account]:
    """All that may have been counted as rejected, by user."""
    users: dict[str, list[tuple[int, int]]] = {}
    for rejection in rejections:
        if units := units_of(rejection, rules):
            users.setdefault(rejection.user, []).append((rejection.told, units))
    # Counted before its line was written: from the earliest instant on it is in the way of others, until the latest has left the window.
    return {user: Account(own, ((told - DECIDING, units) for told, units in own)) for user, own in users.items()}


def units_of(rejection: Rejection, rules: Rules) -> int:
    """What it counts, at the most."""
    if rules.unit == "messages":
        return 0 if rejection.outcome == "taken" else 1
    return rejection.recipients
