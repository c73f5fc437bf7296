"""One connection of a load: SMTP from the client's side (RFC 5321, pipelined by RFC 2920).

Promises: every reply is matched to its command by order; what was not answered when the connection ended is told apart from what was
refused. What a server says takes no more memory than a reply may: one that is longer, or is none, ends the connection. Certificates are
not verified: a load measures, it carries nothing worth protecting.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from collections import deque
from collections.abc import Sequence
from functools import cache
from typing import Literal, NamedTuple, cast

from relay.loadkit.attempt import Attempt, Stage

Tls = Literal["none", "starttls", "implicit"]

MAX_REPLY = 65_536
"""Octets of one reply, all its lines; more is no SMTP server."""

UNASKED = 100
"""Replies beyond those that were asked for; a server that says more of its own accord says it without end."""

_CODES = {b"%d" % code: code for code in range(200, 600)}


class Answer(NamedTuple):
    """One reply; lines joined by newlines."""

    code: int
    text: str


class Unwelcome(Exception):
    """A connection that could not be made ready for mail; `code` 0 means it was not answered."""

    def __init__(self, stage: Stage, code: int, text: str) -> None:
        super().__init__(f"{stage}: {code or 'no reply'} {text}")
        self.stage: Stage = stage
        self.code = code
        self.text = text


class Caller(asyncio.Protocol):
    """One connection. Made by `dial`; `send` takes one message through; `quit` ends it."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._lines: list[str] = []
        self._octets = 0
        """Of the lines of the reply that has come in part."""
        self._answers: deque[Answer] = deque()
        self._wanted = 0
        self._waiter: asyncio.Future[None] | None = None
        self._waits_since = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._capabilities: frozenset[str] = frozenset()
        self._envelope: tuple[str, Sequence[str]] = ("", ())
        self._commands: list[bytes] = []
        self._flight = b""
        self._needs_reset = False
        self.is_lost = False
        self.entered_at = 0.0
        """When it had logged in, time.time()."""

    # -- replies -------------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take note of the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        """Sort octets into replies."""
        if self.is_lost:
            return
        *lines, self._buffer = (self._buffer + data).split(b"\r\n")
        for line in lines:
            self._octets += len(line) + 2
            if (code := _CODES.get(line[:3])) is None or self._octets > MAX_REPLY:
                self._cut()  # what is no reply cannot be matched to a command
                return
            text = line[4:].decode("utf-8", "replace")
            if line[3:4] == b"-":
                self._lines.append(text)
                continue
            if self._lines:
                text = "\n".join([*self._lines, text])
                self._lines.clear()
            self._octets = 0
            self._answers.append(Answer(code, text))
        if len(self._buffer) + self._octets > MAX_REPLY or len(self._answers) > self._wanted + UNASKED:
            self._cut()
        elif len(self._answers) >= self._wanted:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more will come."""
        self.is_lost = True
        if self._watch is not None:
            self._watch.cancel()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _say(self, octets: bytes) -> None:
        """Send, if there still is a connection: it may be lost with answers at hand that lead here."""
        if not self.is_lost:
            self._transport.write(octets)

    def _cut(self) -> None:
        self.is_lost = True
        self._buffer = b""
        self._lines.clear()
        self._transport.abort()
        self._wake()

    @property
    def is_usable(self) -> bool:
        """Whether another message may be sent: still connected, and nothing has come unasked (a 421 before closing)."""
        return not self.is_lost and not self._answers

    async def _hear(self, count: int) -> list[Answer]:
        """Wait for `count` replies; fewer mean that the connection ended or fell silent."""
        if len(self._answers) < count and not self.is_lost:
            self._wanted = count
            self._waiter = self._loop.create_future()
            self._waits_since = self._loop.time()
            if self._watch is None:
                self._watch = self._loop.call_later(self._timeout, self._look)
            try:
                await self._waiter
            finally:
                self._waiter = None
        return [self._answers.popleft() for _ in range(min(count, len(self._answers)))]

    def _look(self) -> None:
        """Give up a silent server. One timer looks after all of a connection's waits: two made and cancelled for each message would
        cost more than the message."""
        self._watch = None
        if self._waiter is None or self.is_lost:
            return
        left = self._waits_since + self._timeout - self._loop.time()
        if left <= 0:
            self._cut()
        else:
            self._watch = self._loop.call_later(left, self._look)

    # -- before the first message --------------------------------------------------------------------------------------------

    async def open(self, user: str, password: str, tls: Tls) -> None:
        """Greet, secure and authenticate. Raises Unwelcome."""
        self._expect("connect", await self._hear(1), 220)
        await self._greet()
        if tls == "starttls":
            await self._secure()
            await self._greet()
        if user:
            await self._log_in(user, password)
            self.entered_at = time.time()

    async def _greet(self) -> None:
        answer = await self._command("connect", b"EHLO load.example\r\n", 250)
        self._capabilities = frozenset(line.upper() for line in answer.text.split("\n")[1:])

    async def _secure(self) -> None:
        await self._command("connect", b"STARTTLS\r\n", 220)
        if self.is_lost:
            raise Unwelcome("connect", 0, "connection lost")
        loop = asyncio.get_running_loop()
        try:
            secured = await loop.start_tls(self._transport, self, unverified(), ssl_handshake_timeout=self._timeout)
        except OSError as error:
            self.is_lost = True
            raise Unwelcome("connect", 0, f"TLS: {error}") from None
        assert secured is not None
        self._transport = secured

    async def _log_in(self, user: str, password: str) -> None:
        mechanisms = next((line.split()[1:] for line in self._capabilities if line.startswith("AUTH ")), [])
        if "PLAIN" in mechanisms or "LOGIN" not in mechanisms:
            await self._command("auth", b"AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()) + b"\r\n", 235)
            return
        await self._command("auth", b"AUTH LOGIN\r\n", 334)
        await self._command("auth", base64.b64encode(user.encode()) + b"\r\n", 334)
        await self._command("auth", base64.b64encode(password.encode()) + b"\r\n", 235)

    async def _command(self, stage: Stage, line: bytes, code: int) -> Answer:
        self._say(line)
        return self._expect(stage, await self._hear(1), code)

    def _expect(self, stage: Stage, answers: Sequence[Answer], code: int) -> Answer:
        answer = answers[0] if answers else Answer(0, "connection lost")
        if answer.code != code:
            raise Unwelcome(stage, answer.code, answer.text)
        return answer

    # -- messages ------------------------------------------------------------------------------------------------------------

    async def send(self, attempt: Attempt, sender: str, recipients: Sequence[str], wire: bytes) -> None:
        """Take one message through, filling in the attempt. `wire` ends with the final dot."""
        attempt.started, attempt.started_at = time.monotonic(), time.time()
        attempt.entered_at = self.entered_at
        attempt.sender, attempt.recipients = sender, recipients
        if self._envelope != (sender, recipients):
            self._address(sender, recipients)
        answers = await self._fly()
        is_asked_for = len(answers) == len(self._commands) and answers[-1].code == 354
        accepted = sum([200 <= answer.code < 300 for answer in answers[1:-1]])
        self._needs_reset = not is_asked_for
        if is_asked_for and accepted and answers[0].code == 250:
            attempt.units = accepted
            if accepted < len(recipients):
                to = zip(recipients, answers[1:-1], strict=True)
                attempt.recipients = tuple(recipient for recipient, answer in to if answer.code < 300)
            await self._upload(attempt, wire)
        else:
            self._note(attempt, *_first_refusal(answers, len(self._commands)))
            if is_asked_for:
                self._say(b".\r\n")
                await self._hear(1)

    def _address(self, sender: str, recipients: Sequence[str]) -> None:
        """Write an envelope's commands; they serve until another envelope comes."""
        commands = [f"MAIL FROM:<{sender}>\r\n", *(f"RCPT TO:<{recipient}>\r\n" for recipient in recipients), "DATA\r\n"]
        self._envelope = (sender, recipients)
        self._commands = [command.encode() for command in commands]
        self._flight = b"".join(self._commands)

    async def _fly(self) -> list[Answer]:
        """Send MAIL, RCPT and DATA in one flight, or one by one where the server does not pipeline."""
        before = [b"RSET\r\n"] if self._needs_reset else []
        answers: list[Answer] = []
        if "PIPELINING" in self._capabilities:
            self._say(b"RSET\r\n" + self._flight if before else self._flight)
            answers = await self._hear(len(before) + len(self._commands))
            # Told to go in answer to RSET, there is no other answer, and that one is the message's.
            return answers[:1] if before and answers and answers[0].code == 421 else answers[len(before) :]
        for command in before + self._commands:
            self._say(command)
            heard = await self._hear(1)
            answers += heard
            if not heard:
                break
            if heard[0].code == 421:
                return answers[len(before) :] or heard
        return answers[len(before) :]

    async def _upload(self, attempt: Attempt, wire: bytes) -> None:
        # From here on the server may have all of it, whatever becomes of this end.
        attempt.stage, attempt.dot_sent = "dot", time.monotonic()
        self._say(wire)
        answers = await self._hear(1)
        answer = answers[0] if answers else Answer(0, "no reply")
        self._note(attempt, None if answer.code // 100 == 2 else "dot", answer)

    def _note(self, attempt: Attempt, stage: Stage | None, answer: Answer) -> None:
        attempt.replied, attempt.replied_at = time.monotonic(), time.time()
        attempt.stage, attempt.code, attempt.text = stage, answer.code, answer.text

    async def quit(self) -> None:
        """End the connection, in order if it is still there."""
        if self.is_lost:
            return
        self._answers.clear()
        self._say(b"QUIT\r\n")
        await self._hear(1)
        self._transport.close()
        self.is_lost = True

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()


def _first_refusal(answers: Sequence[Answer], expected: int) -> tuple[Stage, Answer]:
    """Which command of a flight stopped the message, and what was said to it."""
    silence = Answer(0, "connection lost")
    mail = answers[0] if answers else silence
    if mail.code != 250:
        return "mail", mail
    recipients = answers[1 : expected - 1]
    if any(answer.code // 100 == 2 for answer in recipients):
        return "data", answers[expected - 1] if len(answers) == expected else _last_word(answers)
    return "rcpt", recipients[0] if recipients else silence


def _last_word(answers: Sequence[Answer]) -> Answer:
    last = answers[-1]
    return last if last.code == 421 else Answer(0, "connection lost")


@cache
def unverified() -> ssl.SSLContext:
    """A context that takes any certificate. One for all: making it costs as much as a handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def dial(address: str, port: int, user: str, password: str, tls: Tls, timeout: float) -> Caller:
    """Connect and make ready for mail. Raises Unwelcome."""
    caller = Caller(timeout)
    context = unverified() if tls == "implicit" else None
    try:
        async with asyncio.timeout(timeout):
            await asyncio.get_running_loop().create_connection(lambda: caller, address, port, ssl=context)
    except (OSError, TimeoutError) as error:
        raise Unwelcome("connect", 0, str(error) or "timed out") from None
    try:
        await caller.open(user, password, tls)
    except BaseException:
        caller.abort()
        raise
    return caller
