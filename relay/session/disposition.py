"""What the client hears, what is charged and what the spool must answer for, given the verdicts over a message's recipients; pure.

`dispose_whole` is for a relay without a spool: a message is taken when every recipient was delivered to, else refused whole.
`dispose_split` is for one with it: a message is refused only if every recipient was; else it is taken, and the spool answers for
everyone who was not delivered to.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from relay.mail.envelope import Envelope
from relay.mail.reply import Reply
from relay.mail.verdict import Deferred, Delivered, Failed, Verdicts
from relay.spool.entry import Standing, standing_of

Outcome = Literal["taken", "rejected", "deferred", "in_doubt"]


@dataclass(slots=True)
class Disposition:
    """The end of a transaction; not frozen, for every message makes one, which would then cost twice as much."""

    outcome: Outcome
    reply: Reply
    failed: int = 0
    """Recipients the smarthost refused for good."""
    standings: tuple[Standing, ...] = ()
    """What the spool must answer for, in the order of the recipients; empty: nothing."""
    ours: str = ""
    """The fault is this relay's: what an operator must look at."""

    @property
    def in_doubt(self) -> list[str]:
        """The recipients whose delivery is in doubt."""
        return [standing.recipient.address for standing in self.standings if standing.in_doubt]

    @property
    def spooled(self) -> list[str]:
        """The recipients the spool answers for."""
        return [standing.recipient.address for standing in self.standings if standing.state != "delivered"]


def dispose_whole(verdicts: Verdicts, id: str) -> Disposition:
    """Decide a message that may only be taken whole."""
    failed = [v for v in verdicts.values() if isinstance(v, Failed)]
    deferred = [v for v in verdicts.values() if isinstance(v, Deferred) and not v.withheld]
    if doubt := next((v for v in deferred if v.in_doubt), None):
        return Disposition("in_doubt", doubt.reply)
    if deferred:
        ours = next((v for v in deferred if v.ours), None)
        # What is wrong with our own login or TLS is the operator's to know, not the client's.
        reply = Reply(451, ours.reply.detail, "Relay misconfigured") if ours else deferred[0].reply
        return Disposition("deferred", reply, failed=len(failed), ours=_our_faults(deferred))
    if failed:
        return Disposition("rejected", failed[0].reply, failed=len(failed))
    return Disposition("taken", _taken(verdicts, id))


def dispose_split(envelope: Envelope, verdicts: Verdicts, id: str) -> Disposition:
    """Decide a message whose recipients may fare differently."""
    for (_, notify, _), verdict in verdicts.items():
        if not isinstance(verdict, Delivered) or (notify and not verdict.reports):
            break
    else:  # nobody is owed anything
        return Disposition("taken", Reply(250, "0.0", f"{id} {verdict.reply.text}"))
    failed = [v for v in verdicts.values() if isinstance(v, Failed)]
    if len(failed) == len(verdicts):
        return Disposition("rejected", failed[0].reply, failed=len(failed))
    standings = tuple(standing_of(envelope, recipient, verdicts[recipient]) for recipient in envelope.recipients)
    if all(standing.state == "delivered" for standing in standings):
        return Disposition("taken", _taken(verdicts, id))
    is_delivered = all(isinstance(v, Delivered) for v in verdicts.values())
    reply = _taken(verdicts, id) if is_delivered else Reply(250, "0.0", f"{id} Queued")
    ours = _our_faults(v for v in verdicts.values() if isinstance(v, Deferred))
    return Disposition("taken", reply, failed=len(failed), standings=standings, ours=ours)


def _taken(verdicts: Verdicts, id: str) -> Reply:
    said = next(v.reply.text for v in verdicts.values() if isinstance(v, Delivered))
    return Reply(250, "0.0", f"{id} {said}")


def _our_faults(deferred: Iterable[Deferred]) -> str:
    return "; ".join(sorted({str(v.reply) for v in deferred if v.ours}))
