"""What a session needs of the other rooms, and the rules it keeps; built by the daemon, one for each worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING

from relay.accounts.changes import Changes
from relay.accounts.registry import Registry
from relay.accounts.throttle import Throttle
from relay.journal import Journal
from relay.mail.envelope import Envelope
from relay.quota.teller import Teller
from relay.session.admission import Admission
from relay.session.budget import Budget
from relay.session.outbox import Outbox
from relay.spool.spool import Spool
from relay.store.client import StoreForeign
from relay.upstream.route import Route
from relay.upstream.smarthost import Message
from relay.upstream.terms import Attempt, Terms

if TYPE_CHECKING:
    from relay.accounts.directory import Directory
    from relay.accounts.presence import Presence
    from relay.session.connection import Connection
    from relay.session.transaction import Transaction

Forward = Callable[[Route, str, Envelope, Message, Terms], Awaitable[Attempt]]
"""Offers a message to the smarthosts of a route, for the user of this name."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What sessions keep to; durations in seconds."""

    hostname: str
    max_message_bytes: int = 26_214_400
    max_recipients: int = 100
    max_connections: int = 5000
    max_connections_per_address: int = 2500
    max_commands: int = 1000
    """Commands on one connection without a message among them."""
    max_errors: int = 20
    """Wrong commands on one connection."""
    max_refusals: int = 100
    """Refusals for a limit on one connection before it is closed."""
    max_passes: int = 5
    """Received fields of this relay in one message before it is a loop."""
    login_timeout: float = 120.0
    """From the first octet to a successful AUTH."""
    command_timeout: float = 300.0
    data_deadline: float = 300.0
    """From 354 to the final dot."""
    min_rate: int = 500
    """Octets a second of an upload, on average after its grace; 0: any."""
    grace: float = 30.0
    upload_memory: int = 268_435_456
    """Octets of all messages under way, from their first octet to their reply."""
    upload_wait: float = 10.0
    """How long an upload waits for that memory."""
    forward_margin: float = 24.0
    """What of its lease a message must have left before it is forwarded: the forward deadline and the time to settle."""
    doubt: float = 600.0
    """How long the answer to a final dot may come (RFC 5321 section 4.5.3.2.6); until then nobody tries again."""
    failure_floor: float = 0.3
    """No refusal of credentials is faster, so that its time says nothing of its reason."""


@dataclass(slots=True)
class House:
    """The rooms of one worker, and what is going on in it."""

    rules: Rules
    incarnation: str
    """Begins every id of this process; unlike any other's, before or elsewhere."""
    registry: Registry
    throttle: Throttle
    teller: Teller
    changes: Changes
    directory: Directory
    """What owners have set."""
    forward: Forward
    route: Route
    """The relay's own, for mail that no setting speaks of."""
    terms: Terms
    """What every forward keeps to."""
    journal: Journal
    spool: Spool | None = None
    """None: what the smarthost does not take is refused."""
    wait: Callable[[], float] = lambda: 60.0
    """Seconds until a message that was deferred is tried again for the first time."""
    connections: set[Connection] = field(default_factory=set)
    uploads: set[Transaction] = field(default_factory=set)
    """Transactions whose message is still coming in."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    late: set[asyncio.Task[None]] = field(default_factory=set)
    """Those who listen for an answer to a final dot after the client has had its own."""
    presence: Presence | None = None
    """Connections of each user over all workers; None: they are not limited."""
    admission: Admission = field(init=False)
    budget: Budget = field(init=False)
    outbox: Outbox = field(init=False)
    """Where replies wait for the mail log."""
    offers: tuple[str, ...] = field(init=False)
    """What EHLO offers on every connection."""
    hostname: bytes = field(init=False)
    """The relay's name, as it stands in messages."""
    _dated: tuple[int, str] = field(init=False, default=(0, ""))
    serial: int = 0
    is_draining: bool = False

    def __post_init__(self) -> None:
        rules = self.rules
        self.hostname = rules.hostname.encode("ascii")
        self.admission = Admission(rules.max_connections, rules.max_connections_per_address)
        self.budget = Budget(rules.upload_memory)
        self.outbox = Outbox(self.journal)
        self.offers = (
            "PIPELINING", f"SIZE {rules.max_message_bytes}", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES", "CHUNKING",
            f"LIMITS RCPTMAX={rules.max_recipients}", "HELP",
        )  # fmt: skip

    def date(self) -> str:
        """The present as RFC 5322 section 3.3 writes it, written once a second."""
        second = int(time.time())
        if second != self._dated[0]:
            self._dated = second, formatdate(second)
        return self._dated[1]

    def next_id(self) -> str:
        """An id for a connection; those of its messages begin with it."""
        self.serial += 1
        return f"{self.incarnation}{_base36(self.serial)}"

    def report_store(self, id: str, error: Exception) -> None:
        """Put on record why the store could not be used; one that lost its data is an alarm."""
        if isinstance(error, StoreForeign):
            self.journal.alarm("store_foreign", id=id, error=str(error))
        else:
            self.journal.event("store_unavailable", id=id, error=str(error))

    def on_change(self, user: str) -> None:
        """A user was changed: look again at what of its mail is still being uploaded."""
        # All are gone through: changes are rare, and a set for each user would cost every message.
        for transaction in self.uploads:
            if transaction.user.name == user:
                transaction.start_recheck()


def _base36(number: int) -> str:
    digits = ""
    while True:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
        if not number:
            return digits
