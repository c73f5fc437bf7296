"""The engine of one connection: octets in and out, lines, messages, deadlines; aiosmtpd's SMTP with its own loop beneath the commands.

Promises:
- Replies leave in the order of their commands, those of a pipelined group in one write, before the engine waits for input.
- Lines end at CRLF only; a message is followed by commands only after its end; nothing that came before TLS counts after it.
- Whatever the client does to the connection, a command that runs is not cancelled by it.
- A client that is silent too long, or uploads too slowly, holds its connection no longer than its deadline: Silent ends it.
  Input nobody has asked for yet is bounded, and that of messages is the budget's.

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
from relay.session.budget import Budget
from relay.session.capture import Capture, Upload
from relay.session.house import Rules
from relay.session.transaction import Gone, Silent

MAX_LINE = 12_310
"""Octets of a line: what RFC 4954 section 4 asks for AUTH; other commands need less."""
MAX_BUFFER = 65_536
HANDSHAKE_TIMEOUT = 30.0
LINGER = 5.0
"""Seconds in which the last replies must be read: a connection that is closed is counted no more."""
SHUTDOWN_TIMEOUT = 5.0
"""Seconds in which the other side must answer the end of TLS."""
START_MAIL = b"354 End data with <CR><LF>.<CR><LF>\r\n"


class Engine(SMTP):
    """Reads lines and messages, writes replies."""

    __slots__ = (
        "_budget", "_buffer", "_deadline", "_events", "_excused", "_held", "_is_clogged", "_is_half_closed", "_is_held_back", "_is_lost",
        "_is_read", "_is_shaking", "_latest", "_out", "_room", "_rules", "_seated", "_starving", "_timer", "_transport", "_upload",
        "_waiter", "is_tls",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, rules: Rules, budget: Budget) -> None:
        # Not SMTP.__init__, which inspects its own class and looks up the host's name for each connection.
        self._events = loop
        self._rules = rules
        self._budget = budget
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._out: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._upload: Upload | None = None
        self._seated: Upload | None = None
        self._held = 0  # octets of this connection in the budget
        self._starving: asyncio.TimerHandle | None = None
        self._excused = 0.0  # seconds that an upload had to wait for the budget
        self._deadline = 0.0
        self._latest = math.inf  # no wait goes beyond it
        self._timer: asyncio.TimerHandle | None = None
        self._is_lost = self._is_half_closed = self._is_held_back = self._is_clogged = False
        self._room: asyncio.Future[None] | None = None
        self.is_tls = self._is_shaking = False
        self._is_read = False
        """The message that 354 asked for has come in whole."""

    @property
    def account(self) -> str:
        """Whose memory a message of this connection takes; "" while nobody has logged in."""
        return ""

    # -- the transport's side ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Octets came in: of the message, or of commands."""
        if self._upload is not None:
            rest = self._feed(data)
            if rest is None:
                return
            data = rest
        self._buffer += data
        if len(self._buffer) > MAX_BUFFER and not self._is_held_back and not self._is_shaking:
            self._is_held_back = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """The client closed its side; what it sent before is still answered."""
        self._is_half_closed = True
        self._wake()
        return not self.is_tls  # TLS cannot be half closed

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; a command that runs goes on."""
        self._is_lost = True
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
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- waiting, with a deadline --------------------------------------------------------------------------------------------

    def _input(self, deadline: float) -> asyncio.Future[None]:
        """What is awaited until something comes in; it raises Silent at the deadline (the loop's time). Raises Gone."""
        if self._is_lost or self._is_half_closed:
            raise Gone
        if self._is_held_back:
            self._is_held_back = False
            if self._starving is None:
                self._transport.resume_reading()
        self._deadline = deadline = min(deadline, self._latest)
        if self._timer is None or deadline < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._events.call_at(deadline, self._on_timer)
        self._waiter = waiter = self._events.create_future()
        return waiter

    def _on_timer(self) -> None:
        """One timer a connection, set anew only when it fires: most deadlines move on before they come."""
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if self._events.time() >= self._deadline:
            self._waiter.set_exception(Silent())
        else:
            self._timer = self._events.call_at(self._deadline, self._on_timer)

    # -- lines in, replies out -----------------------------------------------------------------------------------------------

    def whole_line(self) -> bytes | None:
        """The next line without its CRLF, if it is there already and not too long."""
        end = self._buffer.find(b"\r\n")
        if not 0 <= end <= MAX_LINE:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    async def line(self, latest: float = math.inf) -> bytes | None:
        """The next line without its CRLF, None if it was too long; what was said before is sent before waiting for it.

        Waits for the patience there is with commands, and no longer than `latest` (the loop's time).
        """
        deadline = 0.0
        is_over = False
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > MAX_LINE + 1:  # the last of them may be the CR of a line that is not too long
                is_over = True
                del self._buffer[:-1]
            if self._out:
                self._send()
            if self._is_clogged:
                await self._unclog()
            deadline = deadline or min(self._events.time() + self._rules.command_timeout, latest)
            await self._input(deadline)
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return None if is_over or end > MAX_LINE else line

    def say(self, reply: Reply) -> None:
        """Put a reply behind those already said."""
        self._out.append(bytes(reply))

    async def flush(self) -> None:
        """Send what was said, in one write; waits if the client does not read; raises Gone or Silent."""
        if self._out:
            self._send()
        if self._is_clogged:
            await self._unclog()

    def _send(self) -> None:
        if not self._is_lost:
            self._transport.write(b"".join(self._out))
        self._out.clear()

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
        if not self._is_lost and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()
        if self._is_clogged:
            self._transport.abort()

    # -- messages in ---------------------------------------------------------------------------------------------------------

    async def message(self) -> Capture:
        """Say 354 and read a message to its end; raises Gone or Silent."""
        capture = Capture(self._rules.max_message_bytes)
        self._is_read = False
        self._out.append(START_MAIL)
        self.take_seat(capture)
        try:
            await self.receive(capture, self._events.time() + self._rules.data_deadline)
        finally:
            self.leave_seat()
        self._is_read = True
        return capture

    def take_seat(self, upload: Upload) -> None:
        """A message begins: until it is complete, between its chunks too, the budget may have it wait, or given up."""
        self._seated, self._excused = upload, 0.0
        self._budget.begin(self)

    def leave_seat(self) -> None:
        """It is complete, or broken off."""
        upload, self._seated = self._seated, None
        if not self._budget.end(self, self._held) and upload is not None:
            upload.give_up()
            self.release()
        if self._starving is not None:
            self.relieve()

    async def receive(self, upload: Upload, latest: float, began: float = 0.0) -> None:
        """Read an upload, or a chunk of it, to its end; raises Gone, or Silent if it is too slow or takes longer than `latest`."""
        self._upload = upload
        try:
            if self._buffer:
                data = bytes(self._buffer)
                self._buffer.clear()
                if rest := self._feed(data):
                    self._buffer += rest
            if self._upload is not None and self._out:  # else what was said goes out with the rest of its group
                self._send()
                if self._is_clogged:
                    await self._unclog()
            if not began:
                began = self._events.time()
            rate, grace = self._rules.min_rate, self._rules.grace
            due = min(latest, began + grace + self._excused + upload.octets / rate) if rate else latest
            while self._upload is not None:
                try:
                    await self._input(due)
                except Silent:
                    # Every octet that came has bought its time.
                    due = min(latest, began + grace + self._excuse() + upload.octets / rate) if rate else due
                    if due <= self._events.time() or self._latest <= self._events.time():
                        raise
        finally:
            self._upload = None

    def _feed(self, data: bytes) -> bytes | None:
        """Give octets to the upload; returns what follows it once it is complete."""
        upload = self._upload
        assert upload is not None
        rest = upload.feed(data)
        if upload.is_given_up or upload.is_over:
            self.release()
        else:
            octets = len(data) - len(rest) if rest is not None else len(data)
            self._held += octets
            self._budget.take(octets)
        if rest is not None:
            self._upload = None
        return rest

    def release(self) -> None:
        """The octets of the message are needed no more."""
        if self._held:
            held, self._held = self._held, 0
            self._budget.give_back(self, held)

    def starve(self) -> None:
        """The budget has no room: read no more of the upload, and give it up if that lasts."""
        upload = self._seated
        if upload is not None and not upload.is_given_up and not upload.is_over and self._starving is None:
            self._transport.pause_reading()
            self._starving = self._events.call_later(self._rules.upload_wait, self._give_up)

    def relieve(self) -> None:
        """There is room again, or none is needed: read on."""
        if self._starving is not None:
            self._excused = self._excuse()
            self._starving.cancel()
            self._starving = None
            if not self._is_held_back and not self._transport.is_closing():
                self._transport.resume_reading()

    def _excuse(self) -> float:
        """Seconds that the upload had to wait for the budget, up to now."""
        if self._starving is None:
            return self._excused
        return self._excused + self._rules.upload_wait - max(0.0, self._starving.when() - self._events.time())

    def _give_up(self) -> None:
        if self._seated is not None:
            self._seated.give_up()
            self.release()
        self.relieve()

    # -- TLS, and the end ----------------------------------------------------------------------------------------------------

    async def start_tls(self, context: ssl.SSLContext, is_first: bool = False) -> None:
        """Secure the connection; raises Gone if that fails. Input of before is thrown away (RFC 3207 section 4.2).

        Where TLS `is_first`, what has come in is its own, and the first octets of the handshake.
        """
        await self.flush()
        # No await in between: what the last flight of the handshake brings along is already from inside.
        early = bytes(self._buffer) if is_first else b""
        self._buffer.clear()
        self._is_held_back = False
        self.is_tls = self._is_shaking = True
        patience = min(HANDSHAKE_TIMEOUT, self._latest - self._events.time())
        if self._is_lost or self._is_half_closed or self._transport.is_closing() or patience <= 0:
            raise Gone
        self._transport.pause_reading()
        start: Any = self._events.start_tls
        upgrade = self._events.create_task(
            start(self._transport, self, context, server_side=True, ssl_handshake_timeout=patience, ssl_shutdown_timeout=SHUTDOWN_TIMEOUT)
        )
        try:
            if early:
                await asyncio.sleep(0)  # from here on the transport's protocol is that of TLS; it begins before it is handed anything
                self._events.call_soon(_hand_on, self._transport.get_protocol(), early)
            transport = await upgrade
        except (OSError, TimeoutError):  # ssl.SSLError is an OSError
            raise Gone from None
        if transport is None:
            raise Gone
        self._transport, self._is_shaking = transport, False
        # What the last flight of the handshake brought along came before there was this transport to hold back.
        self._is_held_back = len(self._buffer) > MAX_BUFFER
        if self._is_held_back:
            transport.pause_reading()

    def finish(self) -> None:
        """Close the connection, after what was written; who does not read that is cut off."""
        if self._timer is not None:
            self._timer.cancel()
        self.release()
        self._transport.close()
        if not self._is_lost and self._transport.get_write_buffer_size():
            self._events.call_later(LINGER, self._transport.abort)


def _hand_on(protocol: Any, octets: bytes) -> None:
    """Give a protocol octets that came before it was there (asyncio.BufferedProtocol)."""
    while octets:
        room = memoryview(protocol.get_buffer(len(octets)))
        size = min(len(room), len(octets))
        room[:size] = octets[:size]
        protocol.buffer_updated(size)
        octets = octets[size:]
