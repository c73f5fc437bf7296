"""The spine: one message from reserve to reply, read top to bottom.

Promises:
- Capacity is reserved before 354 and settled before the reply; what is refused, aborted or rejected is released.
- A client that hangs up cancels nothing that happens after its final dot.
- A change of the user's account reaches a message that is still being uploaded: it is checked anew when the change is heard, and
  at its dot if it may have been missed.
- Nothing goes to the smarthost under a lease that may end before its answer does.
"""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Protocol

from relay.accounts.user import User
from relay.mail import trace
from relay.mail.envelope import Envelope
from relay.mail.reply import Reply
from relay.quota.ledger import Hold, Refusal
from relay.session.capture import Capture, has_bare_newline
from relay.session.disposition import Disposition, dispose
from relay.store.client import StoreRefused, StoreUnavailable
from relay.upstream.smarthost import Message

if TYPE_CHECKING:
    from relay.session.house import House

STORE_DOWN = Reply(451, "3.0", "Temporary backend failure, try again later")
CLOSING = Reply(421, "7.0", "Account was changed, closing")


class Gone(Exception):
    """The client is no longer there."""


class Client(Protocol):
    """What a transaction asks of the connection it came by."""

    async def upload(self) -> Capture:
        """Say 354 and read the message to its end; raises Gone."""


class Transaction:
    """One message of one user."""

    def __init__(self, house: House, user: User, envelope: Envelope, id: str, hop: trace.Hop) -> None:
        self._house = house
        self._user = user
        self._envelope = envelope
        self._hop = hop
        self.id = id
        self.units = house.teller.ledger.rules.units(len(envelope.recipients))
        self._hold: Hold | None = None
        self._refusal: Reply | None = None
        self._mark = 0
        self._recheck: asyncio.Task[None] | None = None
        self._is_stale = False
        self.refused_for: str | None = None
        """Why the ledger refused it, for the session to act on."""
        self.is_taken = False
        self.is_forwarding = False
        """It is on its way to the smarthost, or its outcome to the ledger; bounded by the forward deadline and the store's time-out."""

    async def run(self, client: Client) -> Reply:
        """Take the message or refuse it, and say so; raises Gone if the client leaves before its final dot."""
        await self._reserve()
        if self._hold is None:
            return self._refuse()
        try:
            return await self._carry(client)
        except BaseException:
            await self._release("aborted")
            raise

    async def _carry(self, client: Client) -> Reply:
        capture = await self._upload(client)
        if self._hold is None:
            return self._refuse()
        problem, header = self._inspect(capture)
        if problem is not None:
            await self._release("refused")
            return problem
        if not self._is_safe():
            await self._reserve()
            if self._hold is None:
                return self._refuse()
        return await self._forward(capture.wire, header)

    # -- capacity ------------------------------------------------------------------------------------------------------------

    async def _reserve(self) -> None:
        """Reserve, or check what is reserved anew; the outcome is in _hold or _refusal."""
        self._mark = self._house.changes.mark()
        try:
            answer = await self._house.teller.reserve(self._user.name, self.id, self.units, self._user.generation)
            if isinstance(answer, Hold):
                self._hold, self._refusal = answer, None
                return
            if answer.reason == "unknown":
                await self._house.registry.find_user(self._user.name)  # raises if it is the store that forgot
        except (StoreUnavailable, StoreRefused) as error:
            held, self._hold, self._refusal = self._hold, None, STORE_DOWN
            if held is not None:  # it could not be checked anew, so it is given back, now or when the store answers again
                await self._house.teller.settle(held, 0)
            self.refused_for = "store"
            self._house.journal.refused(self.id, self._user.name, "store", self.units, str(STORE_DOWN), None)
            self._house.report_store(self.id, error)
            return
        self._hold, self._refusal = None, refusal_reply(answer, self._house.teller.ledger.rules.unit)
        self.refused_for = answer.reason
        self._house.journal.refused(self.id, self._user.name, answer.reason, self.units, str(self._refusal), answer.retry_after)

    def start_recheck(self) -> None:
        """The account was changed while the message is still coming in: check it anew, now."""
        self._is_stale = True
        if self._hold is not None and (self._recheck is None or self._recheck.done()):
            self._recheck = asyncio.get_running_loop().create_task(self._check_anew())

    async def _check_anew(self) -> None:
        while self._is_stale and self._hold is not None:
            self._is_stale = False
            await self._reserve()

    def _refuse(self) -> Reply:
        assert self._refusal is not None
        return self._refusal

    def _is_safe(self) -> bool:
        """Whether the message may go out on what was reserved: nothing has changed, and the lease outlasts the attempt."""
        assert self._hold is not None
        has_time = self._hold.expires - time.monotonic() >= self._house.rules.forward_margin
        return has_time and not self._house.changes.since(self._user.name, self._mark)

    async def _release(self, reason: str) -> None:
        if self._hold is not None:
            hold, self._hold = self._hold, None
            await self._house.teller.settle(hold, 0)
            self._house.journal.released(self.id, self._user.name, reason)

    # -- the message ---------------------------------------------------------------------------------------------------------

    async def _upload(self, client: Client) -> Capture:
        uploads = self._house.uploads.setdefault(self._user.name, set())
        uploads.add(self)
        if self._house.changes.since(self._user.name, self._mark):  # heard before this could be found to be checked anew
            self.start_recheck()
        try:
            return await client.upload()
        finally:
            uploads.discard(self)
            if not uploads:
                self._house.uploads.pop(self._user.name, None)
            if self._recheck is not None:
                await asyncio.wait({self._recheck})
                self._recheck.result()

    def _inspect(self, capture: Capture) -> tuple[Reply | None, trace.Header]:
        rules = self._house.rules
        header = trace.read_header(capture.wire, rules.hostname.encode("ascii"))
        problem = None
        if capture.is_over:
            problem = Reply(552, "3.4", f"Message exceeds the limit of {rules.max_message_bytes} octets")
        elif has_bare_newline(capture.wire):
            problem = Reply(550, "6.11", "Bare CR or LF in the message; lines end with CRLF (RFC 5321 section 2.3.8)")
        elif header.ours >= rules.max_passes or header.received > trace.MAX_RECEIVED:
            problem = Reply(554, "4.6", "Mail loop: this message has passed here too often")
        return problem, header

    async def _forward(self, wire: bytes, header: trace.Header) -> Reply:
        house, envelope = self._house, self._envelope
        only = envelope.recipients[0].address if len(envelope.recipients) == 1 else ""
        prefix = trace.prefix(header, self._hop, self.id, formatdate(), only)
        began = time.monotonic()
        self.is_forwarding = True
        verdicts = await house.forward(envelope, Message(prefix, wire))
        end = dispose(verdicts, self.id)
        hold, self._hold = self._hold, None
        assert hold is not None
        recipients = [recipient.address for recipient in envelope.recipients]
        if end.outcome != "taken":
            await house.teller.settle(hold, 0, self._rejected(end))
            house.journal.rejected(self.id, self._user.name, envelope.sender, recipients, end.outcome, str(end.reply))
            if end.ours:
                causes = sorted({str(verdict.reply) for verdict in verdicts.values()})
                house.journal.alarm("upstream_misconfigured", id=self.id, cause="; ".join(causes))
            return end.reply
        settlement = await house.teller.settle(hold, self.units)
        self.is_taken = True
        at = settlement.at if settlement is not None else 0
        house.journal.taken(
            self.id, self._user.name, envelope.sender, recipients, self.units, at, len(wire), time.monotonic() - began, str(end.reply)
        )
        if settlement is None:
            house.journal.alarm("charge_at_risk", id=self.id, user=self._user.name, units=self.units)
        elif settlement.is_overdraft:
            house.journal.overdraft(self.id, self._user.name, self.units, at)
        return end.reply

    def _rejected(self, end: Disposition) -> int:
        """Units that count against the cap on rejected mail."""
        if not end.failed:
            return 0
        return 1 if self._house.teller.ledger.rules.unit == "messages" else end.failed


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
