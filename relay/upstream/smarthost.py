"""One session with a smarthost: aiosmtplib connects, secures and authenticates it; the transactions are ours.

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
import ssl
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import aiosmtplib

from relay.mail.envelope import Envelope, Recipient
from relay.mail.reply import Reply, from_upstream
from relay.mail.trace import is_header_ascii
from relay.mail.unitext import to_ascii
from relay.mail.verdict import Deferred, Delivered, Failed, Verdict, Verdicts
from relay.upstream.conversation import Broken, Conversation
from relay.upstream.progress import Progress, Stage
from relay.upstream.route import Route
from relay.upstream.terms import Terms

# Replies that speak of this relay's login or of its command sequence, never of the message.
_OUR_FAULTS = frozenset({500, 502, 503, 504, 530, 534, 535, 538})

WITHHELD = Deferred(Reply(451, "3.0", "Not sent: another recipient was refused"), withheld=True)

_NO_SMTPUTF8 = "the smarthost does not offer SMTPUTF8"
MAX_ORCPT = 500
"""Octets of ORCPT that any smarthost with DSN must take (RFC 3461 section 5)."""

WIND_UP = 2.0
"""Seconds in which a session must become fit again after a refusal: the client is waiting for the verdict it already has."""


class NoSession(Exception):
    """No session could be had; the verdict says why."""

    def __init__(self, verdict: Deferred) -> None:
        super().__init__(str(verdict.reply))
        self.verdict = replace(verdict, unreached=True)


class Message(NamedTuple):
    """What goes out: the fields put before the message, and the message in wire form, dot-stuffed, without its final dot."""

    prefix: bytes
    wire: bytes

    @property
    def size(self) -> int:
        """Octets as RFC 1870 section 5 counts them: without the stuffed dots."""
        return len(self.prefix) + len(self.wire) - self.wire.count(b"\r\n.") - self.wire.startswith(b".")


async def connect(route: Route, context: ssl.SSLContext | None, hostname: str) -> Smarthost:
    """Open a session: connect, greeting, TLS, EHLO, AUTH; raises NoSession."""
    client = aiosmtplib.SMTP(
        hostname=route.host, port=route.port, local_hostname=hostname, timeout=route.timeout, tls_context=context,
        use_tls=route.security == "tls", start_tls=route.security == "starttls",
    )  # fmt: skip
    try:
        await client.connect()
        await client.ehlo()
        if route.username:
            await _login(client, route)
        return Smarthost(client)
    except aiosmtplib.SMTPAuthenticationError as error:
        client.close()
        raise NoSession(_our_fault("3.5", f"login refused: {error.code}")) from None
    except ssl.SSLError as error:
        client.close()
        raise NoSession(_our_fault("7.5", f"TLS failed: {error.reason or error}")) from None
    except aiosmtplib.SMTPException as error:
        client.close()
        # aiosmtplib wraps a failed handshake in its own connect error.
        if isinstance(error.__cause__, ssl.SSLError):
            raise NoSession(_our_fault("7.5", f"TLS failed: {error.__cause__.reason or error.__cause__}")) from None
        if "STARTTLS" in str(error):
            raise NoSession(_our_fault("7.5", "STARTTLS is required and not offered")) from None
        raise NoSession(Deferred(Reply(451, "4.1", f"Upstream not reachable ({type(error).__name__})"))) from None
    except (OSError, ValueError) as error:
        client.close()
        raise NoSession(Deferred(Reply(451, "4.1", f"Upstream not reachable ({type(error).__name__})"))) from None
    except BaseException:
        client.close()
        raise


async def _login(client: aiosmtplib.SMTP, route: Route) -> None:
    """Try one mechanism, once: aiosmtplib's login() would repeat a wrong password with each of them."""
    offered = client.server_auth_methods
    if "plain" in offered:
        await client.auth_plain(route.username, route.password)
    elif "login" in offered:
        await client.auth_login(route.username, route.password)
    else:
        raise NoSession(_our_fault("3.5", "neither AUTH PLAIN nor LOGIN is offered"))


class Smarthost:
    """An open session."""

    def __init__(self, client: aiosmtplib.SMTP) -> None:
        self._client = client  # it owns the socket
        self._extensions = {name.lower(): value for name, value in client.esmtp_extensions.items()}
        self._has_dsn = "dsn" in self._extensions
        self._conversation = Conversation(asyncio.get_running_loop())
        transport = client.transport
        assert transport is not None
        transport.set_protocol(self._conversation)
        self._conversation.connection_made(transport)
        self.messages = 0
        self.idle_since = time.monotonic()

    @property
    def is_usable(self) -> bool:
        """Whether another transaction may begin on it."""
        return self._conversation.is_clean

    def close(self) -> None:
        """Say QUIT if that is possible, and go."""
        self._conversation.quit()

    def abort(self) -> None:
        """Cut the connection: nothing more is read or written."""
        self._conversation.abort()

    def offers(self, extension: str) -> bool:
        """Whether the smarthost's EHLO named an extension (lower case)."""
        return extension in self._extensions

    async def transact(self, envelope: Envelope, message: Message, progress: Progress, terms: Terms) -> Verdicts:
        """Offer a message to its recipients. Raises Broken, Overdue (only after the dot: hear_dot goes on), and what before_dot raises.

        Any refusal ends it before DATA, unless the terms allow it to be split: then it goes to those who were accepted. All is in one
        flight where a single recipient makes that safe (RFC 2920): its refusal makes DATA fail too.
        """
        self.messages += 1
        progress.stage = Stage.ENVELOPE
        if unsuited := self._unsuited(envelope, message):
            if not terms.is_split or len(unsuited) == len(envelope.recipients):
                return {**dict.fromkeys(envelope.recipients, WITHHELD), **unsuited}
            progress.said = unsuited
        suited = [recipient for recipient in envelope.recipients if recipient not in unsuited] if unsuited else envelope.recipients
        mail = self._mail(envelope, message)
        rcpts = [self._rcpt(recipient) for recipient in suited]
        pipelining = self.offers("pipelining")
        in_one_flight = pipelining and len(rcpts) == 1
        self._conversation.send(mail, *(rcpts if pipelining else ()), *([b"DATA\r\n"] if in_one_flight else ()),
                                replies=1 + pipelining * len(rcpts) + in_one_flight)  # fmt: skip
        accepted: Sequence[Recipient] = suited
        if not await self._hear_envelope(suited, rcpts, pipelining, progress, terms.is_split):
            accepted = [recipient for recipient in accepted if recipient not in progress.said]
            if not accepted:
                await self._wind_up()
                return self._in_step(progress)
        progress.stage = Stage.DATA
        try:
            code, text = await (self._conversation.reply() if in_one_flight else self._conversation.ask(b"DATA\r\n"))
            if code < 400 and code != 354:
                self._conversation.is_out_of_step = True
                raise Broken(f"answered DATA with {code}")
        except Broken:
            self._in_step(progress)  # a connection that is lost, as after 421, leaves what was said as it is
            raise
        if code != 354:
            progress.said |= dict.fromkeys(accepted, self._verdict(code, text))
            await self._wind_up()
            return self._in_step(progress)
        if terms.before_dot is not None:
            progress.stage = Stage.BEFORE_DOT
            await terms.before_dot(dict(progress.said))
            progress.check()
        self._conversation.send(message.prefix, message.wire, b".\r\n", replies=1)
        progress.reach_dot(self._conversation)
        return await self.hear_dot(accepted, progress)

    def _in_step(self, progress: Progress) -> Verdicts:
        """What was said of the recipients; raises Broken where a reply may have been taken for another's: then nothing was."""
        if self._conversation.is_out_of_step:
            progress.said = {}
            raise Broken("its replies do not match the commands")
        return progress.said

    async def hear_dot(self, accepted: Sequence[Recipient], progress: Progress) -> Verdicts:
        """The reply to the final dot, and all that was said before it. Raises Broken, Overdue."""
        code, text = await self._conversation.reply()
        if 300 <= code < 400:
            raise Broken(f"answered the final dot with {code}")
        verdict = self._verdict(code, text)
        return {**progress.said, **dict.fromkeys(accepted, verdict)} if progress.said else dict.fromkeys(accepted, verdict)

    async def _hear_envelope(
        self, recipients: Sequence[Recipient], rcpts: list[bytes], pipelining: bool, progress: Progress, is_split: bool
    ) -> bool:
        """The replies to MAIL and RCPT: whether all were accepted, else progress says who was not, or will not be served."""
        talk = self._conversation
        code, text = await talk.reply()
        if code == 421 and self.messages > 1:  # it had enough of this session, not of the message
            raise Broken(f"closed by the smarthost: {text}")
        if code >= 300:
            progress.said |= dict.fromkeys(recipients, self._verdict(code, text))
            return False
        # Of a message that may not be split nothing is said until all of it can be.
        refused = progress.said if is_split else {}
        before = len(refused)
        rest: Verdict | None = None if is_split else WITHHELD
        for heard, (recipient, rcpt) in enumerate(zip(recipients, rcpts, strict=True)):
            code, text = await (talk.reply() if pipelining else talk.ask(rcpt))
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
        """Make the session fit for another transaction after a refusal, or end it: the verdicts stand either way."""
        try:
            async with asyncio.timeout(WIND_UP):
                while self._conversation.owed:
                    code, _ = await self._conversation.reply()
                    if code == 354:  # with nobody to send to, the dot that ends it might be taken for a message
                        raise Broken("DATA accepted without a recipient")
                code, _ = await self._conversation.ask(b"RSET\r\n")
            if code != 250:
                raise Broken(f"answered RSET with {code}")
        except (Broken, TimeoutError):
            self.abort()

    def _verdict(self, code: int, text: str) -> Verdict:
        """What a reply says of the recipients it concerns; one that ends the session ends it."""
        if code < 300:
            return Delivered(from_upstream(code, text), self._has_dsn)
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
        if not self.offers("8bitmime") and not message.wire.isascii():
            whole = Failed(Reply(554, "6.3", "8-bit content, and the smarthost does not offer 8BITMIME"))
        limit = self._extensions.get("size", "").strip()
        if limit.isdigit() and 0 < int(limit) < message.size:
            whole = Failed(Reply(552, "3.4", f"Message of {message.size} octets exceeds the smarthost's limit of {limit}"))
        unsuited: dict[Recipient, Verdict] = {} if self.offers("smtputf8") else self._unsuited_to_ascii(envelope, message)
        return unsuited if whole is None else dict.fromkeys(envelope.recipients, whole)

    def _unsuited_to_ascii(self, envelope: Envelope, message: Message) -> dict[Recipient, Verdict]:
        """Whom a smarthost without SMTPUTF8 cannot serve (RFC 6531 section 3.5). An extension that was asked for and is not needed,
        is not missed; a header that was 8-bit without it goes as any other 8-bit content."""
        if not envelope.sender.isascii():
            return dict.fromkeys(envelope.recipients, Failed(Reply(550, "6.7", f"Non-ASCII sender address, and {_NO_SMTPUTF8}")))
        no_address = Failed(Reply(550, "6.7", f"Non-ASCII recipient address, and {_NO_SMTPUTF8}"))
        unsuited: dict[Recipient, Verdict] = {one: no_address for one in envelope.recipients if not one.address.isascii()}
        if envelope.smtputf8 and not is_header_ascii(message.wire):
            no_header = Failed(Reply(554, "6.9", f"UTF-8 in the header, and {_NO_SMTPUTF8}"))
            return {**dict.fromkeys(envelope.recipients, no_header), **unsuited}
        return unsuited

    def _mail(self, envelope: Envelope, message: Message) -> bytes:
        line = f"MAIL FROM:<{envelope.sender}>"
        if self.offers("size"):
            line += f" SIZE={message.size}"
        if self.offers("8bitmime") and (envelope.body == "8BITMIME" or not message.wire.isascii()):
            line += " BODY=8BITMIME"
        if envelope.smtputf8 and self.offers("smtputf8"):
            line += " SMTPUTF8"
        if self.offers("dsn"):
            line += f" RET={envelope.ret}" if envelope.ret else ""
            line += f" ENVID={envelope.envid}" if envelope.envid else ""
        return line.encode() + b"\r\n"

    def _rcpt(self, recipient: Recipient) -> bytes:
        line = f"RCPT TO:<{recipient.address}>"
        if self.offers("dsn"):
            line += f" NOTIFY={recipient.notify}" if recipient.notify else ""
            orcpt = recipient.orcpt if self.offers("smtputf8") else _orcpt_in_ascii(recipient.orcpt)
            line += f" ORCPT={orcpt}" if orcpt else ""
        return line.encode() + b"\r\n"


def _orcpt_in_ascii(orcpt: str) -> str:
    """ORCPT for who has no SMTPUTF8 (RFC 6533 section 3); "" where it would become longer than RFC 3461 section 5 makes room for."""
    spelled = orcpt if orcpt.isascii() else to_ascii(orcpt)
    return spelled if len(spelled) <= MAX_ORCPT else ""


def _our_fault(detail: str, text: str) -> Deferred:
    return Deferred(Reply(451, detail, f"Relay misconfigured: {text}"), ours=True)
