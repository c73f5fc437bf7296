"""The engine of one connection: octets in and out, lines, deadlines; aiosmtpd's SMTP with its own loop beneath the commands.

Promises:
- Replies leave in the order of their commands, those of a pipelined group in one write, before the engine waits for input.
- Lines end at CRLF only; a message is followed by commands only after CRLF.CRLF; nothing that came before TLS counts after it.
- Whatever the client does to the connection, a command that runs is not cancelled by it.
- A client that is silent too long is told 421 before the connection closes. Input nobody has asked for yet is bounded.

Of aiosmtpd 1.4.6 and asyncio the base class and streams.FlowControlMixin (_paused, _drain_helper) are relied on.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio.streams import FlowControlMixin
from typing import Any, cast

from aiosmtpd.smtp import SMTP

from relay.mail.reply import Reply
from relay.session.capture import Capture
from relay.session.transaction import Gone

MAX_LINE = 12_310
"""Octets of a line: what RFC 4954 section 4 asks for AUTH; other commands need less."""
MAX_BUFFER = 65_536
HANDSHAKE_TIMEOUT = 30.0
START_MAIL = b"354 End data with <CR><LF>.<CR><LF>\r\n"


class Engine(SMTP):
    """Reads lines and messages, writes replies."""

    def __init__(self, loop: asyncio.AbstractEventLoop, patience: float) -> None:
        """`patience` is how many seconds the engine waits for a line, or for the client to read."""
        # Not SMTP.__init__, which inspects its own class and looks up the host's name for each connection.
        FlowControlMixin.__init__(self, loop)
        self._events = loop
        self._patience = patience
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._out: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._capture: Capture | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_lost = self._is_half_closed = self._is_held_back = False
        self.is_tls = False

    # -- the transport's side ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Octets came in: of the message, or of commands."""
        if self._capture is not None:
            rest = self._capture.feed(data)
            if rest is None:
                return
            self._capture = None
            data = rest
        self._buffer += data
        if len(self._buffer) > MAX_BUFFER and not self._is_held_back:
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
        FlowControlMixin.connection_lost(self, exc)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- waiting, with a deadline --------------------------------------------------------------------------------------------

    async def _wait(self, deadline: float) -> None:
        """Wait until something comes in; raises Gone, or TimeoutError at the deadline (the loop's time)."""
        if self._is_lost or self._is_half_closed:
            raise Gone
        if self._is_held_back:
            self._is_held_back = False
            self._transport.resume_reading()
        self._deadline = deadline
        if self._timer is None or deadline < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._events.call_at(deadline, self._on_timer)
        self._waiter = self._events.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _on_timer(self) -> None:
        """One timer a connection, set anew only when it fires: most deadlines move on before they come."""
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if self._events.time() >= self._deadline:
            self._waiter.set_exception(TimeoutError())
        else:
            self._timer = self._events.call_at(self._deadline, self._on_timer)

    # -- in and out ----------------------------------------------------------------------------------------------------------

    async def line(self) -> bytes | None:
        """The next line without its CRLF, None if it was too long; what was said before is sent before waiting for it."""
        deadline = 0.0
        is_over = False
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > MAX_LINE:
                is_over = True
                del self._buffer[:-1]
            await self.flush()
            deadline = deadline or self._events.time() + self._patience
            await self._wait(deadline)
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return None if is_over or end > MAX_LINE else line

    async def message(self, limit: int, patience: float) -> Capture:
        """Say 354 and read a message to its end, within `patience` seconds; raises Gone or TimeoutError."""
        capture = self._capture = Capture(limit)
        rest = capture.feed(bytes(self._buffer))
        self._buffer.clear()
        if rest is not None:
            self._capture = None
            self._buffer += rest
        self._out.append(START_MAIL)
        await self.flush()
        deadline = self._events.time() + patience
        try:
            while self._capture is not None:
                await self._wait(deadline)
        finally:
            self._capture = None
        return capture

    def say(self, reply: Reply) -> None:
        """Put a reply behind those already said."""
        self._out.append(bytes(reply))

    async def flush(self) -> None:
        """Send what was said, in one write; waits if the client does not read; raises Gone or TimeoutError."""
        if not self._out:
            return
        if not self._is_lost:
            self._transport.write(b"".join(self._out))
        self._out.clear()
        if self._paused and not self._is_lost:  # type: ignore[attr-defined]
            try:
                async with asyncio.timeout(self._patience):
                    await self._drain_helper()  # type: ignore[attr-defined]
            except ConnectionError:
                raise Gone from None

    def leave(self, reply: Reply) -> None:
        """Say a last thing without waiting; who does not read is cut off."""
        self.say(reply)
        if not self._is_lost and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()
        if self._paused:  # type: ignore[attr-defined]
            self._transport.abort()

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Secure the connection; raises Gone if that fails. Input of before is thrown away (RFC 3207 section 4.2)."""
        await self.flush()
        # No await in between: what the last flight of the handshake brings along is already from inside.
        self._buffer.clear()
        self._is_held_back = False
        self.is_tls = True
        try:
            upgrade: Any = self._events.start_tls(self._transport, self, context, server_side=True, ssl_handshake_timeout=HANDSHAKE_TIMEOUT)
            transport = await upgrade
        except (OSError, TimeoutError):  # ssl.SSLError is an OSError
            raise Gone from None
        if transport is None:
            raise Gone
        self._transport = transport

    def finish(self) -> None:
        """Close the connection, after what was written."""
        if self._timer is not None:
            self._timer.cancel()
        self._transport.close()
