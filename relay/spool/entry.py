"""An entry of the spool: one message that this relay has taken responsibility for, and where each of its recipients stands.

Pure values. `Standing.state` only moves forward:

    waiting ──> delivered                    the smarthost took it
       │  └───> relayed ──> reported         it did, and owes the sender a report that it does not give itself (RFC 3461 section 5.2.2)
       └──────> failed ───> reported         refused for good, or given up; its report is in the spool
                   └──────> discarded        nobody wants or may have a report: NOTIFY=NEVER, a null sender

An entry whose every standing is delivered, reported or discarded is removed in the same commit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from relay.mail.dsn import is_wanted
from relay.mail.envelope import Envelope, Recipient
from relay.mail.verdict import Deferred, Delivered, Failed, Verdict, Verdicts

State = Literal["waiting", "delivered", "relayed", "failed", "reported", "discarded"]
Kind = Literal["mail", "dsn"]
Hold = Literal["", "operator", "owner", "disabled", "route", "corrupt", "undeliverable"]
"""Why an entry is held: by the relay's operator, by the owner of its user, because its user may not send now, because its route is gone,
because it cannot be read or written, because it is a report that nobody takes."""

SETTLED = frozenset({"delivered", "reported", "discarded"})
"""States in which nothing is owed any more."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one recipient stands."""

    recipient: Recipient
    state: State = "waiting"
    reply: str = ""
    """What was last said of it, as "550 5.1.1 text"."""
    in_doubt: bool = False
    """It may have been delivered: the final dot was sent and its answer never came (RFC 1047)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One spooled message without its content. Times are seconds of the spool's own clock (see clock.py), never the wall's."""

    id: str
    """The queue id: the message's own, by which the client, the journal, the ledger and the smarthost's log know it."""
    user: str
    owner: str
    envelope: Envelope
    """With every recipient of the message, whatever its standing."""
    standings: tuple[Standing, ...]
    """In the order of the envelope's recipients."""
    arrived: float
    due: float
    """When it is to be tried (again)."""
    units: int = 0
    """What its hold in the ledger holds; 0: it has none (a report)."""
    accepted: int = 0
    """What of it is to be charged."""
    is_settled: bool = False
    """The ledger has answered for its hold; nothing leaves the spool before."""
    kind: Kind = "mail"
    origin: str = ""
    """Of a report: the id of the message it speaks of."""
    attempts: int = 0
    held: Hold = ""
    claimed_by: str = ""
    """The incarnation of the process that is working on it."""
    is_warned: bool = False
    """The sender was told of the delay."""
    size: int = 0
    """Octets of the content, in wire form."""
    route: str = ""
    """Id of the owner's setting that it is to go by; "" for the relay's own smarthost."""

    @property
    def domain(self) -> str:
        """The domain whose setting it goes by."""
        recipients = self.envelope.recipients
        return domain_of(self.kind, self.envelope.sender, recipients[0].address if recipients else "")

    @property
    def waiting(self) -> tuple[Standing, ...]:
        """The standings that are still to be tried."""
        return tuple(standing for standing in self.standings if standing.state == "waiting")

    def standings_after(self, verdicts: Verdicts) -> tuple[Standing, ...]:
        """The standings once those who waited have these verdicts."""
        return tuple(
            standing_of(self.envelope, one.recipient, verdicts[one.recipient])
            if one.state == "waiting" and one.recipient in verdicts else one
            for one in self.standings
        )  # fmt: skip


def domain_of(kind: str, sender: str, recipient: str) -> str:
    """The domain whose setting an entry goes by: its sender's; of a report that of the sender whom it tells."""
    return (recipient if kind == "dsn" else sender).rpartition("@")[2]


def standing_of(envelope: Envelope, recipient: Recipient, verdict: Verdict) -> Standing:
    """Where a recipient stands after a verdict."""
    match verdict:
        case Delivered(reply, reports):
            owes = not reports and is_wanted(envelope, recipient, "relayed")
            return Standing(recipient, "relayed" if owes else "delivered", str(reply))
        case Failed(reply):
            return Standing(recipient, "failed", str(reply))
        case Deferred(reply, in_doubt):
            return Standing(recipient, "waiting", str(reply), in_doubt)
