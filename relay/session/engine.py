"""The engine of one connection: octets in and out, lines, deadlines; aiosmtpd's SMTP with its own loop beneath the commands.

Promises:
- Replies leave in the order of their commands, those of a pipelined group in one write, once the engine waits for input, and never
  before the mail log has what was on its way to it (see outbox).
- Lines end at CRLF only; a message is followed by commands only after its end; nothing that came before TLS counts after it.
- Whatever the client does to the connection, a command that runs is not cancelled by it. A task is there only while one runs.
- A client that is silent too long holds its connection no longer than its deadline: Silent ends it. Input nobody has asked for yet is
  bounded. Messages are the intake's.

Of aiosmtpd 1.4.6 only the class is inherited: nothing of it runs. The attributes are slots, of which ten thousand idle connections have
each their own.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from typing import Any, cast

from aiosmtpd.smtp import SMTP

from relay.mail.reply import Reply
from relay.session.capture import Upload
from relay.session.house import Rules
from relay.session.outbox import Outbox
from relay.session.transaction import Gone, Silent
from relay.session.tunnel import Tunnel

MAX_LINE = 12_310
"""Octets of a line: what RFC 4954 section 4 asks for AUTH; other commands need less."""
MAX_BUFFER = 65_536
LINGER = 5.0
"""Seconds in which the last replies must be read: a connection that is closed is counted no more."""

_OVERLONG = bytes(MAX_LINE + 1)
"""Stands for what is thrown away of a line that is too long."""


class Engine(SMTP):
    """Reads lines and messages, writes replies."""

    __slots__ = (
        "_at", "_buffer", "_deadline", "_events", "_is_clogged", "_is_half_closed", "_is_held_back", "_is_lost", "_is_over", "_is_shaking",
        "_latest", "_out", "_outbox", "_room", "_rules", "_starving", "_task", "_timer", "_timer_at", "_transport", "_upload", "_waiter",
        "is_tls",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, rules: Rules, outbox: Outbox) -> None:
        # Not SMTP.__init__, which inspects its own class and looks up the host's name for each connection.
        self._events = loop
        self._rules = rules
        self._outbox = outbox
        self._transport: asyncio.Transport
        self._buffer = b""
        """What has come in; of it, what is before this octet has been read."""
        self._at = 0
        self._out: list[bytes] = []
        self._task: asyncio.Task[None] | None = None
        """What runs a command that must wait for something; what else comes in meanwhile waits for it."""
        self._waiter: asyncio.Future[Any] | None = None
        self._upload: Upload | None = None
        self._starving: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        self._latest = math.inf  # no wait goes beyond it
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._is_lost = self._is_half_closed = self._is_held_back = self._is_clogged = self._is_over = False
        self._room: asyncio.Future[None] | None = None
        self.is_tls = self._is_shaking = False

    def _feed(self, upload: Upload, data: bytes) -> bytes | None:
        """Give octets to the upload; returns what follows it once it is complete."""
        raise NotImplementedError

    def _due(self, upload: Upload) -> float:
        """When an upload must be there, had it nothing more to come (the loop's time)."""
        raise NotImplementedError

    def _go_on(self) -> None:
        """Carry out what has come in; no task is at it."""
        raise NotImplementedError

    def _fall_silent(self) -> None:
        """The client has let its deadline pass, and no task waits for it."""
        raise NotImplementedError

    # -- the transport's side ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Octets came in: of the message, or of commands."""
        if (upload := self._upload) is not None:
            rest = self._feed(upload, data)
            if rest is None:
                return
            data = rest
        if data:
            self._buffer = self._buffer[self._at :] + data if self._buffer else data
            self._at = 0
        if self._task is None:
            self._go_on()
        elif (waiter := self._waiter) is not None and not waiter.done():
            waiter.set_result(upload)
        if len(self._buffer) > MAX_BUFFER and not self._is_held_back and not self._is_over:
            self._is_held_back = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The client closed its side; what it sent before is still answered."""
        self._is_half_closed = True
        self._wake()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; a command that runs goes on."""
        self._is_lost = True
        if self._timer is not None:
            self._timer.cancel()
        self.resume_writing()
        self._wake()

    def pause_writing(self) -> None:
        """The client does not read what it is sent."""
        self._is_clogged = True

    def resume_writing(self) -> None:
        """It does again."""
        self._is_clogged = False
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _wake(self) -> None:
        """Nothing more will come in."""
        if self._task is None:
            self.finish()
        elif (waiter := self._waiter) is not None and not waiter.done():
            waiter.set_exception(Gone())

    # -- waiting, with a deadline --------------------------------------------------------------------------------------------

    def _input(self, deadline: float) -> asyncio.Future[Any]:
        """What is awaited until something comes in; it raises Silent at the deadline (the loop's time), and Gone. Raises Gone."""
        if self._is_lost or self._is_half_closed:
            raise Gone
        self._listen(deadline)
        self._waiter = waiter = self._events.create_future()
        return waiter

    def _listen(self, deadline: float) -> None:
        """Something must come in until then (the loop's time)."""
        if self._is_held_back:
            self._is_held_back = False
            if self._starving is None:
                self._transport.resume_reading()
        if deadline > self._latest:
            deadline = self._latest
        self._deadline = deadline
        if deadline < self._timer_at:
            self._set_timer(deadline)

    def _set_timer(self, when: float) -> None:
        """One timer a connection, set anew only when it fires: most deadlines move on before they come."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._events.call_at(when, self._on_timer), when

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, math.inf
        waiter, now = self._waiter, self._events.time()
        if self._is_over:
            self._transport.abort()
            return
        if self._task is not None and (waiter is None or waiter.done()):
            return
        if self._upload is not None and self._deadline <= now:
            self._deadline = min(self._due(self._upload), self._latest)  # every octet that came has bought its time
        if self._deadline > now:
            self._set_timer(self._deadline)
        elif self._task is None:
            self._fall_silent()
        elif waiter is not None:
            waiter.set_exception(Silent())

    # -- lines in, replies out -----------------------------------------------------------------------------------------------

    @property
    def unread(self) -> int:
        """Octets that have come in and were not read."""
        return len(self._buffer) - self._at

    def _cut(self, end: int) -> bytes | None:
        """The line that ends there, without its CRLF; None if it is too long."""
        at, self._at = self._at, end + 2
        return self._buffer[at:end] if end - at <= MAX_LINE else None

    def _tidy(self) -> None:
        """Keep only the line that has not come to its end, and send what was said."""
        if self._buffer:
            self._buffer = self._buffer[self._at :]
            self._at = 0
            if len(self._buffer) > MAX_LINE + 1:
                self._buffer = _OVERLONG + self._buffer[-1:]  # which may be the CR of its end
        if self._out:
            self._outbox.send(self)

    async def line(self, latest: float = math.inf) -> bytes | None:
        """The next line without its CRLF, None if it was too long; what was said before is sent before waiting for it.

        Waits for the patience there is with commands, and no longer than `latest` (the loop's time).
        """
        deadline = 0.0
        while (end := self._buffer.find(b"\r\n", self._at)) < 0:
            self._tidy()
            if self._is_clogged:
                await self._unclog()
            deadline = deadline or min(self._events.time() + self._rules.command_timeout, latest)
            await self._input(deadline)
        return self._cut(end)

    def say(self, reply: Reply) -> None:
        """Put a reply behind those already said."""
        self._out.append(bytes(reply))

    async def flush(self) -> None:
        """Send what was said, in one write, and the mail log before it; waits if the client does not read; raises Gone or Silent."""
        if self._out:
            self._outbox.flush()
            self.speak()
        if self._is_clogged:
            await self._unclog()

    def speak(self) -> None:
        """Send what was said, without waiting; if it was the last, the connection is closed."""
        if self._out:
            if not self._is_lost:
                self._transport.write(b"".join(self._out))
            self._out.clear()
        if self._is_over and not self._is_lost:
            self._transport.close()
            if self._transport.get_write_buffer_size():
                self._set_timer(self._events.time() + LINGER)

    async def _unclog(self) -> None:
        """Wait until the client reads; raises Gone or Silent."""
        self._room = self._events.create_future()
        try:
            async with asyncio.timeout_at(min(self._events.time() + self._rules.command_timeout, self._latest)):
                await self._room
        except TimeoutError:
            raise Silent from None
        if self._is_lost:
            raise Gone

    def leave(self, reply: Reply) -> None:
        """Say a last thing without waiting; who does not read is cut off."""
        self.say(reply)
        self._outbox.flush()
        self.speak()
        if self._is_clogged:
            self._transport.abort()

    # -- TLS, and the end ----------------------------------------------------------------------------------------------------

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Secure the connection, and hear nothing more before it is; what came before is thrown away (RFC 3207 section 4.2)."""
        self._outbox.flush()
        self.speak()
        self._at = len(self._buffer)
        self.is_tls = self._is_shaking = True
        if not self._is_lost:
            self._transport = Tunnel(self._transport, self, context, self._on_secured)

    def _on_secured(self) -> None:
        """What comes in from here on is from inside."""
        self._is_shaking = False

    def cut(self) -> None:
        """End it at once."""
        self._transport.abort()

    def finish(self) -> None:
        """Close the connection, after what was said; who does not read that is cut off."""
        self._is_over = True
        self._outbox.send(self)
