"""One session with a smarthost, once it is open (see `opening`): its transactions.

Promises:
- Addresses and content go out octet for octet as they were accepted (aiosmtplib's own MAIL and RCPT re-parse addresses).
- Every recipient gets a verdict. Once the final dot is written, anything but a clear reply is doubt.
- Content is offered to all recipients or to none, unless the terms allow it to be split; what the caller does before the dot is done
  before the first octet of it.
- What the smarthost has no extension for is not sent to it in another form: who cannot be served without it is told so.
- The relay's own faults (login, TLS, configuration) are told apart from the message's, and are never permanent.
- A session is used again only after a transaction that ended as the protocol says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import aiosmtplib

from relay.mail.envelope import Envelope, Recipient
from relay.mail.reply import Reply, from_upstream
from relay.mail.trace import is_header_ascii
from relay.mail.unitext import to_ascii
from relay.mail.verdict import Deferred, Delivered, Failed, Verdict, Verdicts
from relay.upstream.conversation import Broken, Conversation, Overdue
from relay.upstream.progress import DOT, MAIL, Progress, Stage, Watch
from relay.upstream.terms import Terms

# Replies that speak of this relay's login or of its command sequence, never of the message.
_OUR_FAULTS = frozenset({500, 502, 503, 504, 530, 534, 535, 538})

WITHHELD = Deferred(Reply(451, "3.0", "Not sent: another recipient was refused"), withheld=True)

_NO_SMTPUTF8 = "the smarthost does not offer SMTPUTF8"
MAX_ORCPT = 500
"""Octets of ORCPT that any smarthost with DSN must take (RFC 3461 section 5)."""

WIND_UP = 2.0
"""Seconds in which a session must become fit again after a refusal: the client is waiting for the verdict it already has."""


class Message(NamedTuple):
    """What goes out: the fields put before the message, and the message in wire form, dot-stuffed, without its final dot."""

    prefix: bytes
    wire: bytes

    @property
    def size(self) -> int:
        """Octets as RFC 1870 section 5 counts them: without the stuffed dots."""
        return self.length - self.wire.count(b"\r\n.") - self.wire.startswith(b".")

    @property
    def length(self) -> int:
        """Octets as they are written; `size` with the stuffed dots, which takes no search."""
        return len(self.prefix) + len(self.wire)

    @property
    def is_stuffed(self) -> bool:
        """Whether a dot was put before a line of it, so that its wire form is not its content."""
        return self.wire.startswith(b".") or self.wire.find(b"\r\n.") >= 0


class Smarthost:
    """An open session."""

    def __init__(self, client: aiosmtplib.SMTP) -> None:
        self._client = client  # it owns the socket
        self._extensions = {name.lower(): value for name, value in client.esmtp_extensions.items()}
        self._has_dsn = self.offers("dsn")
        self._has_8bitmime = self.offers("8bitmime")
        self._has_smtputf8 = self.offers("smtputf8")
        self._has_pipelining = self.offers("pipelining")
        self._has_chunking = self.offers("chunking")
        self._has_size = self.offers("size")
        limit = self._extensions.get("size", "").strip()
        self._limit = int(limit) if limit.isdecimal() else 0
        """The longest message that it takes, in octets; 0: it does not say."""
        self._is_chunk = False
        """Whether the content that was sent last went by BDAT."""
        self._said: tuple[int, str] | None = None
        self._delivered: Delivered
        """What `_said` was: some word their answer to the dot alike for every message."""
        self._loop = loop = asyncio.get_running_loop()
        self._conversation = Conversation(loop)
        self._watch = Watch(loop, self._conversation)
        transport = client.transport
        assert transport is not None
        transport.set_protocol(self._conversation)
        self._conversation.connection_made(transport)
        self.messages = 0
        self.idle_since = self.began = time.monotonic()

    @property
    def is_usable(self) -> bool:
        """Whether another transaction may begin on it."""
        return self._conversation.is_clean

    def close(self) -> None:
        """Say QUIT if that is possible, and go."""
        self._watch.close()
        self._conversation.quit()

    def abort(self) -> None:
        """Cut the connection: nothing more is read or written."""
        self._watch.close()
        self._conversation.abort()

    def offers(self, extension: str) -> bool:
        """Whether the smarthost's EHLO named an extension (lower case)."""
        return extension in self._extensions

    async def transact(self, envelope: Envelope, message: Message, progress: Progress, terms: Terms) -> Verdicts:
        """Offer a message to its recipients. Raises Broken, Overdue (after the dot hear_dot goes on), and what before_dot raises.

        Any refusal ends it before any content, unless the terms allow it to be split: then it goes to those who were accepted.

        What can be is in one flight (RFC 2920). DATA is part of it where its 354 binds to nothing: whoever was accepted is to have the
        message, and if nobody was, the session ends there. Else the content goes as one chunk (RFC 3030), which saves the turn of DATA,
        but always behind the recipients' replies: some servers take a chunk whose recipients they refused for commands.
        """
        self.messages += 1
        progress.stage = MAIL
        suited: Sequence[Recipient] = envelope.recipients
        if unsuited := self._unsuited(envelope, message):
            if not terms.is_split or len(unsuited) == len(envelope.recipients):
                return {**dict.fromkeys(envelope.recipients, WITHHELD), **unsuited}
            progress.said = unsuited
            suited = [recipient for recipient in suited if recipient not in unsuited]
        is_data_asked = self._has_pipelining and (terms.is_split or len(suited) == 1)
        self._is_chunk = self._has_chunking and not is_data_asked and not message.is_stuffed
        talk = self._conversation
        self._watch.begin(progress)
        try:
            rcpts = self._send_envelope(envelope, suited, message, progress, is_data_asked, terms.before_dot is not None)
            await talk.wait()
            if progress.stage is DOT:
                return self._conclude(suited, talk.take(), progress)
            accepted = suited
            if not await self._hear_envelope(talk.take(), suited, rcpts, progress, terms.is_split):
                accepted = [recipient for recipient in suited if recipient not in progress.said]
                if not accepted:
                    await self._wind_up()
                    return self._in_step(progress)
            progress.stage = Stage.DATA
            if not self._is_chunk:
                heard = talk.heard() if is_data_asked else None
                if (heard is None or heard[0] != 354) and not await self._may_send(heard, is_data_asked, accepted, progress):
                    await self._wind_up()
                    return self._in_step(progress)
            if terms.before_dot is not None:
                progress.stage = Stage.BEFORE_DOT
                await terms.before_dot(dict(progress.said))
            progress.check()
            self._send_content(message, progress)
            return await self.hear_dot(accepted, progress)
        finally:
            self._watch.end()

    def _send_envelope(
        self, envelope: Envelope, recipients: Sequence[Recipient], message: Message, progress: Progress, is_data_asked: bool, is_held: bool
    ) -> list[bytes]:
        """MAIL, and with it all that may be; whether the content `is_held` back at the go-ahead. The commands for the recipients."""
        mail, rcpts = self._mail(envelope, message), [self._rcpt(recipient) for recipient in recipients]
        if is_data_asked:
            then = None if is_held else partial(self._send_content, message, progress)
            self._conversation.send(b"".join((mail, *rcpts, b"DATA\r\n")), len(rcpts) + 2, then)
        elif self._has_pipelining:
            self._conversation.send(b"".join((mail, *rcpts)), len(rcpts) + 1)
        else:
            self._conversation.send(mail)
        return rcpts

    def _send_content(self, message: Message, progress: Progress) -> None:
        """All of the content, and with it the dot; raises Broken."""
        if self._is_chunk:
            self._conversation.send_content(b"BDAT %d LAST\r\n%b" % (message.length, message.prefix), message.wire)
        else:
            self._conversation.send_content(message.prefix, message.wire, b".\r\n")
        progress.reach_dot(self._loop.time())

    async def _may_send(self, heard: tuple[int, str] | None, is_asked: bool, accepted: Sequence[Recipient], progress: Progress) -> bool:
        """The reply to DATA, which may be there already: whether the content may follow, else progress says why not. Raises Broken."""
        try:
            talk = self._conversation
            code, text = heard or (await talk.reply() if is_asked else await talk.ask(b"DATA\r\n"))
            if code < 400 and code != 354:
                self._conversation.is_out_of_step = True
                raise Broken(f"answered DATA with {code}")
        except Broken:
            self._in_step(progress)  # a connection that is lost, as after 421, leaves what was said as it is
            raise
        if code != 354:
            progress.said = {**progress.said, **dict.fromkeys(accepted, self._verdict(code, text))}
        return code == 354

    def _in_step(self, progress: Progress) -> Verdicts:
        """What was said of the recipients; raises Broken where a reply may have been taken for another's: then nothing was."""
        if self._conversation.is_out_of_step:
            progress.said = {}
            raise Broken("its replies do not match the commands")
        return progress.said

    async def hear_dot(self, accepted: Sequence[Recipient], progress: Progress) -> Verdicts:
        """The reply to the final dot, and all that was said before it. Raises Broken, Overdue."""
        return self._conclude(accepted, await self._conversation.reply(), progress)

    def _conclude(self, accepted: Sequence[Recipient], heard: tuple[int, str], progress: Progress) -> Verdicts:
        """The verdicts of a message whose dot was answered; raises Broken."""
        code, text = heard
        if 300 <= code < 400:
            raise Broken(f"answered the final dot with {code}")
        if self._is_chunk and code >= 400:
            self.abort()  # whether a refused chunk was read to its end, nobody can tell from here
        verdicts: Verdicts = dict.fromkeys(accepted, self._verdict(code, text))
        return {**progress.said, **verdicts} if progress.said else verdicts

    async def _hear_envelope(
        self, first: tuple[int, str], recipients: Sequence[Recipient], rcpts: Sequence[bytes], progress: Progress, is_split: bool
    ) -> bool:
        """The replies to MAIL, the `first`, and RCPT: whether all were accepted, else progress says who was not, or will not be served."""
        talk = self._conversation
        code, text = first
        progress.stage = Stage.ENVELOPE
        if code == 421 and self.messages > 1:  # it had enough of this session, not of the message
            raise Broken(f"closed by the smarthost: {text}")
        if code >= 300:
            verdict = self._verdict(code, text)
            if code == 421 and isinstance(verdict, Deferred):  # the end of the session, not of the message: as if there had been none
                verdict = replace(verdict, unreached=True)
            progress.said = {**progress.said, **dict.fromkeys(recipients, verdict)}
            return False
        # Of a message that may not be split nothing is said until all of it can be.
        refused = dict(progress.said) if is_split else {}
        if is_split:
            progress.said = refused
        before = len(refused)
        rest: Verdict | None = None if is_split else WITHHELD
        for heard, (recipient, rcpt) in enumerate(zip(recipients, rcpts, strict=True)):
            code, text = (talk.heard() or await talk.reply()) if self._has_pipelining else await talk.ask(rcpt)
            if code == 552 and len(refused) - before < heard and "2.2" not in text[:6]:
                code = 452  # too many recipients, in the words of RFC 821 (RFC 5321 section 4.5.3.1.10); a full mailbox says 5.2.2
            if code >= 300:
                refused[recipient] = self._verdict(code, text)
            if code == 421:  # it is closing: nothing more will be answered, and nobody served
                rest = rest or refused[recipient]
                break
        if len(refused) == before:
            return True
        progress.said = {**dict.fromkeys(recipients, rest), **refused} if rest else refused
        return False

    async def _wind_up(self) -> None:
        """Make the session fit for another transaction after a refusal, or end it: the verdicts stand, unless replies are out of step."""
        talk, code = self._conversation, 500
        try:
            async with asyncio.timeout(WIND_UP):
                while talk.owed:
                    code, _ = await talk.reply()
                    if code == 354:  # with nobody to send to, the dot that ends it might be taken for a message
                        raise Broken("DATA accepted without a recipient")
                last, (code, _) = code, await talk.ask(b"RSET\r\n")
            # DATA was refused if it was asked, and to RSET nobody says anything good but 250: else these are the replies to commands
            # before, and so may each that was heard have been.
            talk.is_out_of_step = last < 400 or code not in (250, *range(400, 600))
            if code != 250 or talk.is_out_of_step:
                raise Broken(f"answered RSET with {code}")
        except (Broken, Overdue, TimeoutError):
            self.abort()

    def _verdict(self, code: int, text: str) -> Verdict:
        """What a reply says of the recipients it concerns; one that ends the session ends it."""
        if code < 300:
            if self._said != (code, text):
                self._said, self._delivered = (code, text), Delivered(from_upstream(code, text), self._has_dsn)
            return self._delivered
        if code == 421:
            self.abort()
            return Deferred(Reply(451, "3.2", "upstream said: " + from_upstream(code, text).text))
        reply = from_upstream(code, text)
        if code in _OUR_FAULTS:
            return _our_fault("3.5", f"upstream said {code}")
        said = Reply(code if code >= 500 else 451, reply.detail, f"upstream said: {reply.text}")
        return Failed(said) if code >= 500 else Deferred(said)

    def _unsuited(self, envelope: Envelope, message: Message) -> dict[Recipient, Verdict]:
        """Whom this smarthost cannot serve with the message as it is, and why; it is never changed to fit."""
        whole: Failed | None = None
        if not self._has_8bitmime and not message.wire.isascii():
            whole = Failed(Reply(554, "6.3", "8-bit content, and the smarthost does not offer 8BITMIME"))
        if 0 < self._limit < message.length and self._limit < message.size:
            whole = Failed(Reply(552, "3.4", f"Message of {message.size} octets exceeds the smarthost's limit of {self._limit}"))
        unsuited: dict[Recipient, Verdict] = {}
        if not self._has_smtputf8:
            unsuited = self._unsuited_to_ascii(envelope, message)
        return unsuited if whole is None else dict.fromkeys(envelope.recipients, whole)

    def _unsuited_to_ascii(self, envelope: Envelope, message: Message) -> dict[Recipient, Verdict]:
        """Whom a smarthost without SMTPUTF8 cannot serve (RFC 6531 section 3.5). An extension that was asked for and is not needed,
        is not missed; a header that was 8-bit without it goes as any other 8-bit content."""
        if not envelope.sender.isascii():
            return dict.fromkeys(envelope.recipients, Failed(Reply(550, "6.7", f"Non-ASCII sender address, and {_NO_SMTPUTF8}")))
        unsuited: dict[Recipient, Verdict] = {}
        for recipient in envelope.recipients:
            if not recipient.address.isascii():
                unsuited[recipient] = Failed(Reply(550, "6.7", f"Non-ASCII recipient address, and {_NO_SMTPUTF8}"))
        if envelope.smtputf8 and not is_header_ascii(message.wire):
            no_header = Failed(Reply(554, "6.9", f"UTF-8 in the header, and {_NO_SMTPUTF8}"))
            return {**dict.fromkeys(envelope.recipients, no_header), **unsuited}
        return unsuited

    def _mail(self, envelope: Envelope, message: Message) -> bytes:
        sender, _, body, ret, envid, smtputf8 = envelope  # read at once: each by its name takes as long as all
        options = ""
        if self._has_size:
            # An estimate is enough (RFC 1870 section 4), and searching for dots would cost more than the rest: it counts the stuffed
            # ones too, so that it is never too low, but where it would then be too high.
            length = len(message.prefix) + len(message.wire)
            options = f" SIZE={message.size if 0 < self._limit < length else length}"
        if self._has_8bitmime and (body == "8BITMIME" or not message.wire.isascii()):
            options += " BODY=8BITMIME"
        if smtputf8 and self._has_smtputf8:
            options += " SMTPUTF8"
        if self._has_dsn and (ret or envid):
            options += f" RET={ret}" if ret else ""
            options += f" ENVID={envid}" if envid else ""
        return f"MAIL FROM:<{sender}>{options}\r\n".encode()

    def _rcpt(self, recipient: Recipient) -> bytes:
        address, notify, orcpt = recipient
        options = ""
        if self._has_dsn and (notify or orcpt):
            options = f" NOTIFY={notify}" if notify else ""
            orcpt = orcpt if self._has_smtputf8 else _orcpt_in_ascii(orcpt)
            options += f" ORCPT={orcpt}" if orcpt else ""
        return f"RCPT TO:<{address}>{options}\r\n".encode()


def _orcpt_in_ascii(orcpt: str) -> str:
    """ORCPT for who has no SMTPUTF8 (RFC 6533 section 3); "" where it would become longer than RFC 3461 section 5 makes room for."""
    spelled = orcpt if orcpt.isascii() else to_ascii(orcpt)
    return spelled if len(spelled) <= MAX_ORCPT else ""


def _our_fault(detail: str, text: str) -> Deferred:
    return Deferred(Reply(451, detail, f"Relay misconfigured: {text}"), ours=True)
