"""One real SMTP conversation, to find out whether a smarthost can be used: connection, TLS, login, and a short message.

Promises: it takes no longer than it may; whatever the smarthost does is told as a value, in words that say what to change; none of them
has a secret in it, or an address that a name led to. An address that is none is never sent.
"""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import NamedTuple

import aiosmtplib

from relay.mail.address import is_mailbox
from relay.mail.reply import sanitise
from relay.upstream.fault import NoSession, Stage, at, heard, late, of_error
from relay.upstream.guard import Forbidden, Guard
from relay.upstream.opening import Opening
from relay.upstream.route import Target, tls_context

__all__ = ["Stage", "Trial", "try_out"]

_REFUSED: dict[Stage, tuple[str, str]] = {
    "sender": ("it refuses the sender {sender}", "EENVELOPE"),
    "recipient": ("it refuses the recipient {recipient}", "EENVELOPE"),
    "content": ("it refuses the message", "EMESSAGE"),
}


class Trial(NamedTuple):
    """What came of it."""

    is_success: bool
    stage: Stage
    """Where it failed; "time" where it was still waiting for something when it had to end, and the text says for what."""
    text: str
    """A sentence that an admin can act on."""
    code: str = ""
    """nodemailer's word for the kind of failure: EDNS, ECONNECTION, ETLS, EAUTH, EENVELOPE, EMESSAGE, ETIMEDOUT."""
    reply: str = ""
    """What the smarthost said last."""
    message_id: str = ""
    """Of the message that it took."""


async def try_out(target: Target, guard: Guard, hostname: str, sender: str, recipient: str, budget: float) -> Trial:
    """Send a short message; never raises for what the smarthost does, and takes no longer than `budget` seconds."""
    for stage, address in (("sender", sender), ("recipient", recipient)):
        if not is_mailbox(address, is_utf8=True):
            return Trial(False, "sender" if stage == "sender" else "recipient", f"the {stage} is no mail address", "EENVELOPE")
    attempt = _Attempt(target, guard, hostname)
    try:
        async with asyncio.timeout(budget):
            trial = await attempt.send(sender, recipient)
    except NoSession as none:
        trial = _of(none)
    except TimeoutError:
        trial = _of(late(attempt.stage, target))
    finally:
        attempt.close()
    return trial


def _of(none: NoSession) -> Trial:
    return Trial(False, "time" if none.code == "ETIMEDOUT" else none.stage, none.text, none.code, none.reply)


class _Attempt:
    """One trial under way."""

    def __init__(self, target: Target, guard: Guard, hostname: str) -> None:
        self._target = target
        self._guard = guard
        self._hostname = hostname
        self._opening: Opening | None = None
        self._client: aiosmtplib.SMTP | None = None
        self._stage: Stage = "tls"

    @property
    def stage(self) -> Stage:
        """How far it came."""
        return self._opening.stage if self._opening is not None and self._client is None else self._stage

    def close(self) -> None:
        """Cut the connection, if there still is one."""
        if self._client is not None:
            self._client.close()

    async def send(self, sender: str, recipient: str) -> Trial:
        """Open a session and offer the message; raises NoSession, TimeoutError."""
        self._guard_first()
        try:
            # The authorities of the system are hundreds, and read anew.
            context = await asyncio.to_thread(tls_context, self._target)
        except OSError:
            return Trial(False, "tls", "the certificates given for it cannot be read: they must be PEM, a key without a passphrase", "ETLS")
        self._opening = Opening(self._target, context, self._hostname, self._guard)
        client = self._client = await self._opening.open()
        try:
            return await self._converse(client, sender, recipient)
        except aiosmtplib.SMTPResponseException as refusal:
            if refusal.code < 200:
                raise of_error(refusal, self._stage, self._target) from None
            words, code = _REFUSED[self._stage]
            reply = heard(refusal.code, refusal.message, self._target)
            said = words.format(sender=sanitise(sender), recipient=sanitise(recipient))
            return Trial(False, self._stage, f"{at(self._target)}: {said} ({reply})", code, reply)
        except (aiosmtplib.SMTPException, OSError) as error:
            raise of_error(error, self._stage, self._target) from None

    def _guard_first(self) -> None:
        """See that it may be dialled at all, before anything is prepared for it; raises NoSession."""
        try:
            self._guard.check(self._target)
        except Forbidden as error:
            raise of_error(error, "guard", self._target) from None

    async def _converse(self, client: aiosmtplib.SMTP, sender: str, recipient: str) -> Trial:
        """MAIL, RCPT, DATA, QUIT; raises SMTPResponseException for the first refusal, at its stage."""
        is_ascii = sender.isascii() and recipient.isascii()
        self._stage = "sender" if not sender.isascii() else "recipient"
        if not is_ascii and not client.supports_extension("smtputf8"):
            return Trial(False, self._stage, f"{at(self._target)}: it takes ASCII addresses only (it does not offer SMTPUTF8)", "EENVELOPE")
        self._stage = "sender"
        # By hand: aiosmtplib's own would parse the addresses anew, and send what it makes of them.
        options = b"" if is_ascii else b" BODY=8BITMIME SMTPUTF8"
        await _ask(client, b"MAIL", b"FROM:<" + sender.encode() + b">" + options)
        self._stage = "recipient"
        await _ask(client, b"RCPT", b"TO:<" + recipient.encode() + b">")
        self._stage = "content"
        message_id = f"<{uuid.uuid4().hex}@{self._hostname}>"
        accepted = await client.data(_message(sender, recipient, message_id))
        reply = heard(accepted.code, accepted.message, self._target)
        if client.protocol is not None:
            with suppress(aiosmtplib.SMTPServerDisconnected):
                client.protocol.write(b"QUIT\r\n")  # what there was to learn is known: its answer is not waited for
        return Trial(True, "done", f"{at(self._target)}: it took a message for {sanitise(recipient)}", "", reply, message_id)


async def _ask(client: aiosmtplib.SMTP, *command: bytes) -> None:
    """One command; raises SMTPResponseException unless it is granted."""
    answer = await client.execute_command(*command)
    if not 200 <= answer.code < 300:
        raise aiosmtplib.SMTPResponseException(answer.code, answer.message)


def _message(sender: str, recipient: str, message_id: str) -> bytes:
    """The message of a trial, by RFC 5322; it asks nobody for an answer (RFC 3834 section 5)."""
    fields = (
        f"Date: {format_datetime(datetime.now(UTC))}", f"From: <{sender}>", f"To: <{recipient}>", f"Message-ID: {message_id}",
        "Subject: Test of a mail server", "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0", "Content-Type: text/plain; charset=us-ascii",
    )  # fmt: skip
    text = "This message was sent to see whether mail can be sent by this server. Nothing needs to be done."
    return "\r\n".join((*fields, "", text, "")).encode()
