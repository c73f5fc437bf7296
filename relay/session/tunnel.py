"""TLS on one connection: its records are taken apart and put together in memory, between the transport and the session.

Promises: nothing is said inside before the handshake is over, and nothing that came before it is heard after; a client that breaks the
protocol is told so as TLS has it, and cut off; the end of TLS is said, and the client's answer is not waited for (RFC 8446 section 6.1).

`loop.start_tls` would do the same with a task, two timers and 256 KiB for each connection, and as much again for each time it reads.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress

RECORD = 16_384
"""Octets of content that a record has at most (RFC 8446 section 5.1)."""
TICKETS = 4_096
"""Octets that TLS itself may have to say and keep until the session's next reply: more than the tickets of a handshake."""
MOST_UNREAD = 262_144
"""Octets that TLS itself may say (new keys are answered) to who reads nothing; the session bounds what it says."""


class Tunnel(asyncio.Protocol, asyncio.Transport):
    """The transport's protocol, and the session's transport."""

    __slots__ = ("_incoming", "_is_ended", "_is_open", "_on_open", "_outgoing", "_records", "_session", "_transport")

    def __init__(
        self, transport: asyncio.Transport, session: asyncio.Protocol, context: ssl.SSLContext, on_open: Callable[[], None]
    ) -> None:
        """Begin the handshake, as the server; `on_open` hears of its end."""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._records = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._transport = transport
        self._session = session
        self._on_open = on_open
        self._is_open = self._is_ended = False
        transport.set_protocol(self)

    # -- the transport's side ------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Records came in."""
        if self._is_ended:  # what comes behind the end is nobody's, and must not be kept
            return
        self._incoming.write(data)
        if self._is_open or self._shake():
            content = self._read()
            if content:
                self._session.data_received(content)
        if self._is_ended:
            self._session.eof_received()

    def _shake(self) -> bool:
        """Go on with the handshake; whether it is over."""
        try:
            self._records.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return False
        except ssl.SSLError:
            self._break()
            return False
        self._is_open = True
        # In TLS 1.3 nothing is left to send but a ticket, which nobody waits for: it goes out with the next reply.
        if self._records.version() != "TLSv1.3":
            self._send()
        self._on_open()
        return True

    def _read(self) -> bytes:
        """What is inside the records that are whole."""
        parts = []
        try:
            # Asked for more than there is, OpenSSL raises an error, which costs as much as a record.
            while not self._is_ended and (self._incoming.pending or self._records.pending()):
                parts.append(part := self._records.read(RECORD))
                self._is_ended = not part
        except ssl.SSLWantReadError:
            self._answer()
        except ssl.SSLError:
            self._break()
            return b""
        if self._outgoing.pending > TICKETS:
            self._answer()
        return b"".join(parts)

    def _answer(self) -> None:
        """Send what TLS itself has to say: keys may have been changed."""
        self._send()
        if self._transport.get_write_buffer_size() > MOST_UNREAD:
            self._transport.abort()

    def _break(self) -> None:
        """The client broke the protocol: an alert says how, and nothing more is heard."""
        self._is_ended = True
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._outgoing.pending and not self._transport.is_closing():
            self._transport.write(self._outgoing.read())

    def eof_received(self) -> bool | None:
        """The client closed its side, inside or outside."""
        return self._session.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._session.connection_lost(exc)
        del self._session, self._on_open  # which know this object: nobody should have to find out that all of them have gone

    def pause_writing(self) -> None:
        """The client does not read."""
        self._session.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        self._session.resume_writing()

    # -- the session's side --------------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send what the session says."""
        try:
            sent = self._records.write(data)
            while sent < len(data):
                sent += self._records.write(data[sent:])
        except ssl.SSLError:  # after an alert; the connection is closed then
            pass
        self._send()

    def close(self) -> None:
        """Say that this is the end, and close after what was written."""
        if self._is_open and not self._transport.is_closing():
            with suppress(ssl.SSLError):  # the client's answer is not there yet
                self._records.unwrap()
            self._send()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self._transport.is_closing()

    def get_write_buffer_size(self) -> int:
        """Octets that have not left yet."""
        return self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        """Read no more for now."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._transport.resume_reading()
