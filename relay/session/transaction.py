"""The spine: one message from reserve to reply, read top to bottom.

Promises:
- Capacity is reserved before 354 and settled before the reply; what is refused, aborted or rejected is released.
- What the user's owner has set is asked for in the same round trip, and holds for the message: its route, its sender, its signature.
- A client that hangs up cancels nothing that happens after its final dot.
- A change of the user's account reaches a message that is still being uploaded: it is checked anew when the change is heard, and
  at its dot if it may have been missed.
- Nothing goes to the smarthost under a lease that may end before its answer does.
- What the smarthost did not take is durable in the spool before the client hears 250; where only some recipients were refused, before
  the final dot is sent. Without a spool a message is all or nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from relay.accounts.user import User
from relay.mail import trace
from relay.mail.envelope import Envelope
from relay.mail.reply import Reply, line_of
from relay.mail.verdict import Deferred, Verdicts
from relay.quota.ledger import Hold, Settlement
from relay.quota.teller import Kept
from relay.session.capture import Upload, has_bare_newline
from relay.session.deposit import Deposit, counted, in_flight
from relay.session.disposition import Disposition, dispose_split, dispose_whole
from relay.session.outgoing import NOWHERE, STORE_DOWN, consult, finish, is_particular, route_of
from relay.session.refusal import refusal_reply
from relay.spool.entry import Standing
from relay.spool.fault import SpoolUnavailable
from relay.store.client import StoreRefused, StoreUnavailable
from relay.upstream.smarthost import Message
from relay.upstream.terms import Attempt

if TYPE_CHECKING:
    from relay.session.house import House
    from relay.upstream.route import Route

SPOOL_DOWN = Reply(452, "3.1", "Insufficient system storage, try again later")
NO_ROOM = Reply(452, "3.1", "No memory for the message now, try again later")
BARE = Reply(550, "6.11", "Bare CR or LF in the message; lines end with CRLF (RFC 5321 section 2.3.8)")
LOOP = Reply(554, "4.6", "Mail loop: this message has passed here too often")
CLOSING = Reply(421, "7.0", "Account was changed, closing")


class Gone(Exception):
    """The client is no longer there."""


class Silent(Exception):
    """The client has let its deadline pass: it says nothing, says it too slowly, or does not read."""


class Withheld(Exception):
    """The message may not go out after all; the reply says why, and nothing of it was offered to the smarthost."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


class Client(Protocol):
    """What a transaction asks of the connection it came by."""

    def upload(self) -> Awaitable[Upload]:
        """Read the message to its end; raises what ends the transaction."""


class Transaction:
    """One message of one user."""

    __slots__ = (
        "_deposit", "_envelope", "_hold", "_hop", "_house", "_is_stale", "_mark", "_message", "_recheck", "_refusal", "_route",
        "id", "is_forwarding", "refused_for", "units", "user",
    )  # fmt: skip
    _mark: int
    _message: Message
    _refusal: Reply
    """Why there is no hold, if it was tried to have one."""
    _route: Route

    def __init__(self, house: House, user: User, envelope: Envelope, id: str, hop: trace.Hop) -> None:
        self._house = house
        self.user = user
        self._envelope = envelope
        self._hop = hop
        self.id = id
        self.units = house.teller.ledger.rules.units(len(envelope.recipients))
        self._deposit: Deposit | None = None
        self._hold: Hold | None = None
        self._recheck: asyncio.Task[None] | None = None
        self._is_stale = False
        self.refused_for: str | None = None
        """Why it was refused by the ledger, or by what the owner has set, for the session to act on."""
        self.is_forwarding = False
        """It is on its way to the smarthost, or its outcome to the ledger; bounded by the forward deadline and the store's time-out."""

    async def run(self, client: Client) -> Reply | bytes:
        """Refuse the message, or take it: then the reply is as it is sent. Raises Gone if the client leaves before its final dot."""
        house, user, sender = self._house, self.user, self._envelope.sender
        look = house.directory.look(user.owner_id)  # which leaves with what reserve asks
        await self._reserve()
        if self._hold is None:
            return self._refusal
        try:
            outfit = await consult(house, self.id, user, self.units, look, sender)
            if isinstance(outfit, Reply):
                return await self._turn_down(outfit)
            self._route = house.route if outfit.is_plain else route_of(house, outfit, sender)
            self._begin_upload()
            try:
                upload = await client.upload()
            finally:
                house.uploads.discard(self)
                if self._recheck is not None:
                    await self._await_recheck()
            if self._recheck is not None:  # a fault of its own must not take the place of what has ended the upload
                self._recheck.result()
            if self._hold is None:
                return self._refusal
            header = self._inspect(upload)
            if isinstance(header, Reply):
                await self._release("refused")
                return header
            if not outfit.is_plain and is_particular(outfit):
                written = await finish(house, self.id, user, self.units, outfit, sender, self._message, header)
                if isinstance(written, Reply):
                    return await self._turn_down(written)
                self._message = written
            if not self._is_safe():
                await self._reserve()
                if self._hold is None:
                    return self._refusal
            return await self._forward()
        except BaseException:
            if self._deposit is None or not self._deposit.is_made:  # else the spool answers for it, and retry settles it
                await self._release("aborted")
            raise

    # -- capacity ------------------------------------------------------------------------------------------------------------

    async def _reserve(self) -> None:
        """Reserve, or check what is reserved anew; the outcome is in _hold or _refusal."""
        self._mark = self._house.changes.mark()
        try:
            answer = await self._house.teller.reserve(self.user.name, self.id, self.units, self.user.generation)
            if isinstance(answer, Hold):
                self._hold = answer
                return
            if answer.reason == "unknown":
                await self._house.registry.find_user(self.user.name)  # raises if it is the store that forgot
        except (StoreUnavailable, StoreRefused) as error:
            held, self._hold, self._refusal = self._hold, None, STORE_DOWN
            if held is not None:  # it could not be checked anew, so it is given back, now or when the store answers again
                await self._house.teller.settle(held, 0)
            self.refused_for = "store"
            self._house.journal.refused(self.id, self.user.name, "store", self.units, str(STORE_DOWN), None)
            self._house.report_store(self.id, error)
            return
        self._hold, self._refusal = None, refusal_reply(answer, self._house.teller.ledger.rules.unit)
        self.refused_for = answer.reason
        self._house.journal.refused(self.id, self.user.name, answer.reason, self.units, str(self._refusal), answer.retry_after)

    def start_recheck(self) -> None:
        """The account was changed while the message is still coming in: check it anew, now."""
        self._is_stale = True
        if self._hold is not None and (self._recheck is None or self._recheck.done()):
            self._recheck = asyncio.get_running_loop().create_task(self._check_anew())

    async def _check_anew(self) -> None:
        while self._is_stale and self._hold is not None:
            self._is_stale = False
            await self._reserve()

    def _is_safe(self) -> bool:
        """Whether the message may go out on what was reserved: nothing has changed, and the lease outlasts the attempt."""
        assert self._hold is not None
        has_time = self._hold.expires - time.monotonic() >= self._house.rules.forward_margin
        return has_time and not self._house.changes.since(self.user.name, self._mark)

    async def _turn_down(self, reply: Reply) -> Reply:
        """What the owner has set stands against the message, or is not to be had."""
        self.refused_for = "sender" if reply.code >= 500 else "store"
        await self._release("refused")
        return reply

    async def _release(self, reason: str) -> None:
        if self._hold is not None:
            hold, self._hold = self._hold, None
            await self._house.teller.settle(hold, 0)
            self._house.journal.released(self.id, self.user.name, reason)

    # -- the message ---------------------------------------------------------------------------------------------------------

    def _begin_upload(self) -> None:
        self._house.uploads.add(self)
        if self._house.changes.since(self.user.name, self._mark):  # heard before this could be found to be checked anew
            self.start_recheck()

    async def _await_recheck(self) -> None:
        assert self._recheck is not None
        try:
            await asyncio.wait({self._recheck})
        except asyncio.CancelledError:
            self._recheck.cancel()  # else it might reserve again what is given back now
            raise

    def _inspect(self, upload: Upload) -> trace.Header | Reply:
        """What is wrong with the message; if nothing is, what its header says, and what goes before it is written."""
        house, wire = self._house, upload.wire
        if upload.is_over:
            return Reply(552, "3.4", f"Message exceeds the limit of {house.rules.max_message_bytes} octets")
        if upload.is_given_up:
            return NO_ROOM
        if has_bare_newline(wire):
            return BARE
        header = trace.read_header(wire, house.hostname)
        if header.ours >= house.rules.max_passes or header.received > trace.MAX_RECEIVED:
            return LOOP
        to = self._envelope.recipients
        self._message = Message(trace.prefix(header, self._hop, self.id, house.date(), to[0].address if len(to) == 1 else ""), wire)
        return header

    async def _forward(self) -> Reply | bytes:
        house, envelope = self._house, self._envelope
        began = time.monotonic()
        self.is_forwarding = True
        try:
            terms = house.terms
            if len(envelope.recipients) > 1 and terms.is_split:  # else there is nothing to do between the envelope and the dot
                terms = replace(terms, before_dot=self._before_dot)
            if self._route.choices:
                attempt = await house.forward(self._route, self.user.name, envelope, self._message, terms)
            else:
                attempt = Attempt(dict.fromkeys(envelope.recipients, NOWHERE))
            if house.spool is None:
                end = dispose_whole(attempt.verdicts, self.id)
            else:
                end = dispose_split(envelope, attempt.verdicts, self.id)
                if end.standings or self._deposit is not None:
                    end = await self._preserve(end, attempt)
        except Withheld as withheld:
            return await self._withdraw(withheld.reply)
        hold, self._hold = self._hold, None
        assert hold is not None
        if end.ours:
            house.journal.alarm("upstream_misconfigured", id=self.id, cause=end.ours)
        if end.outcome != "taken":
            await house.teller.settle(hold, 0, self._rejected(end))
            self._tell_rejected(end.outcome, end.reply)
            return end.reply
        accepted, rejected = self.units, 0
        if end.standings:
            unit = house.teller.ledger.rules.unit
            accepted, rejected = counted(end.standings, unit), end.failed if unit == "recipients" else 0
        settlement = await house.teller.settle(hold, accepted, rejected)
        if self._deposit is not None and isinstance(settlement, Settlement):
            self._deposit.note_settled()
        said = str(end.reply)
        self._tell_taken(end, accepted, settlement, time.monotonic() - began, said)
        if attempt.late is not None and self._deposit is not None:
            self._deposit.hear_out(attempt.late)
        return line_of(said)

    async def _before_dot(self, refused: Verdicts) -> None:
        """Some were refused, some accepted: the entry is durable before the final dot, or the dot is not sent. Raises Withheld."""
        if refused:
            standings = in_flight(self._envelope, refused, "451 4.4.2 The final dot was sent")
            await self._put(standings, is_mine=True)

    async def _preserve(self, end: Disposition, attempt: Attempt) -> Disposition:
        """See that the spool has what it must answer for; raises Withheld if it cannot take it."""
        if end.in_doubt:  # on record before anything can come of it
            self._house.journal.in_doubt(self.id, end.in_doubt, str(next(one.reply for one in end.standings if one.in_doubt)))
        deposit = self._deposit
        try:
            if deposit is not None and deposit.is_made:
                await self._amend(deposit, end, attempt)
            elif end.standings and not await self._keep(end, attempt):
                end = replace(end, standings=())
        except SpoolUnavailable as error:  # it stands in the spool as it was before the dot, in doubt, and so the message is taken
            self._house.journal.alarm("spool_unavailable", id=self.id, error=str(error))
            end = Disposition("taken", Reply(250, "0.0", f"{self.id} Queued"), standings=deposit.standings if deposit is not None else ())
            self._house.journal.in_doubt(self.id, end.in_doubt, "451 4.3.0 The spool cannot be written")
        return end

    async def _amend(self, deposit: Deposit, end: Disposition, attempt: Attempt) -> None:
        """Record in the entry made before the dot what the dot's answer was; raises SpoolUnavailable."""
        if end.outcome == "rejected":
            await deposit.withdraw()
        elif attempt.late is None:
            await deposit.record(end.standings, counted(end.standings, self._house.teller.ledger.rules.unit))

    async def _keep(self, end: Disposition, attempt: Attempt) -> bool:
        """Put what was not delivered into the spool; False: only reports on deliveries are owed, and they are lost. Raises Withheld."""
        is_delivered = not any(one.state == "waiting" for one in end.standings)
        try:
            is_unreached = all(isinstance(v, Deferred) and v.unreached for v in attempt.verdicts.values())
            await self._put(end.standings, attempt.late is not None, is_unreached, is_sent=is_delivered or bool(end.in_doubt))
        except Withheld:
            if is_delivered:
                self._house.journal.alarm("report_lost", id=self.id, recipients=end.spooled)
                return False
            if attempt.late is not None:
                attempt.late.cancel()
            raise
        return True

    async def _put(self, standings: tuple[Standing, ...], is_mine: bool = False, is_unreached: bool = False, is_sent: bool = False) -> None:
        """Put the entry, on a lease that lasts; raises Withheld. What `is_sent` is taken on the lease that was checked before."""
        if not is_sent and not self._is_safe():
            await self._reserve()
            if self._hold is None:
                raise Withheld(self._refusal)
        accepted = counted(standings, self._house.teller.ledger.rules.unit)
        if self._deposit is None:
            self._deposit = Deposit(self._house, self.user, self._envelope, self.id, self.units, self._route.id)
        try:
            await self._deposit.make(standings, accepted, self._message.prefix, self._message.wire, is_mine, is_unreached)
        except SpoolUnavailable as error:
            self._house.journal.alarm("spool_unavailable", id=self.id, error=str(error))
            raise Withheld(SPOOL_DOWN) from None

    async def _withdraw(self, reply: Reply) -> Reply:
        """The message is not taken: nothing is charged, and the client keeps it."""
        if self._hold is not None:  # else it was refused, which is on record
            hold, self._hold = self._hold, None
            await self._house.teller.settle(hold, 0)
            self._tell_rejected("deferred", reply)
        return reply

    def _tell_rejected(self, outcome: str, reply: Reply) -> None:
        recipients = [recipient.address for recipient in self._envelope.recipients]
        self._house.journal.rejected(self.id, self.user.name, self._envelope.sender, recipients, outcome, str(reply))

    def _tell_taken(self, end: Disposition, accepted: int, settlement: Settlement | Kept, seconds: float, said: str) -> None:
        house, id, user, envelope = self._house, self.id, self.user.name, self._envelope
        recipients = [address for address, _, _ in envelope.recipients]
        # What somebody else has settled (retry may be faster) has its instant on record there.
        at = settlement.at if isinstance(settlement, Settlement) and settlement.outcome != "done" else 0
        spooled = end.spooled if end.standings else None
        house.journal.taken(id, user, envelope.sender, recipients, accepted, at, len(self._message.wire), seconds, said, spooled)
        if isinstance(settlement, Kept):
            house.journal.charge_waits(id, user, accepted, settlement.is_durable)
        elif settlement.outcome == "late":
            house.journal.settled(id, user, accepted, at, late=True)
            if settlement.is_overdraft:
                house.journal.overdraft(id, user, accepted, at)

    def _rejected(self, end: Disposition) -> int:
        """Units that count against the cap on rejected mail."""
        if not end.failed:
            return 0
        return 1 if self._house.teller.ledger.rules.unit == "messages" else end.failed
