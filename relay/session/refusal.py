"""What the client hears of a refusal of the ledger's: the second from which this message would fit, or that it never will; pure."""

from __future__ import annotations

import time

from relay.mail.reply import Reply
from relay.quota.ledger import Refusal


def refusal_reply(refusal: Refusal, unit: str) -> Reply:
    """What the client hears of a refusal: the second from which this message would fit, or that it never will."""
    used, limit = refusal.used, refusal.limit
    when = ""
    if refusal.retry_after is not None and refusal.at is not None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(refusal.at))
        when = f"; retry-after={refusal.retry_after} at={stamp}"
    match refusal.reason:
        case "hourly":
            return Reply(451, "7.0", f"Hourly sending limit reached ({used}/{limit} {unit}){when}")
        case "in_flight":
            return Reply(451, "7.0", f"Sending limit taken by messages in flight{when}")
        case "rejected":
            return Reply(451, "7.0", f"Too much of your mail was rejected ({used}/{limit} {unit}){when}")
        case "never":
            return Reply(550, "7.1", f"Message counts {used} {unit} and never fits the limit of {limit} per window")
        case "total":
            return Reply(550, "7.1", f"Total sending limit reached ({used}/{limit} {unit})")
        case "stale":
            return Reply(530, "7.0", "Credentials were changed, authenticate again")
        case _:
            return Reply(550, "7.13", "User account disabled")
