"""What the client hears, and what is charged, for the verdicts over a message's recipients; pure.

The relay has no spool yet, so a message is all or nothing: taken when every recipient was delivered to, else refused whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from relay.mail.reply import Reply
from relay.mail.verdict import Deferred, Delivered, Failed, Verdicts

Outcome = Literal["taken", "rejected", "deferred", "in_doubt"]


@dataclass(frozen=True, slots=True)
class Disposition:
    """The end of a transaction."""

    outcome: Outcome
    reply: Reply
    failed: int = 0
    """Recipients the smarthost refused for good."""
    ours: bool = False
    """The fault is this relay's: an operator must look."""


def dispose(verdicts: Verdicts, id: str) -> Disposition:
    """Decide a message that may only be taken whole."""
    failed = [v for v in verdicts.values() if isinstance(v, Failed)]
    deferred = [v for v in verdicts.values() if isinstance(v, Deferred) and not v.withheld]
    if doubt := next((v for v in deferred if v.in_doubt), None):
        return Disposition("in_doubt", doubt.reply)
    if deferred:
        ours = next((v for v in deferred if v.ours), None)
        # What is wrong with our own login or TLS is the operator's to know, not the client's.
        reply = Reply(451, ours.reply.detail, "Relay misconfigured") if ours else deferred[0].reply
        return Disposition("deferred", reply, failed=len(failed), ours=ours is not None)
    if failed:
        return Disposition("rejected", failed[0].reply, failed=len(failed))
    said = next(v.reply.text for v in verdicts.values() if isinstance(v, Delivered))
    return Disposition("taken", Reply(250, "0.0", f"{id} {said}"))
