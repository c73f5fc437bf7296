"""A loop without sockets and without waiting: its clock jumps to the next timer when nothing else is left to do.

So a session's deadlines cost no time, every run of the same octets is the same, and a session that waits for nothing at all is found.
"""

from __future__ import annotations

import asyncio
import selectors
import ssl
from typing import Any

TOKEN = b"<TLS>"
"""What a client says in place of a handshake: whatever else it says there is no TLS."""


class Stuck(Exception):
    """Everybody waits, and no timer will end it."""


class _Clock(selectors.SelectSelector):
    """Waits for nobody."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Nothing ever comes in; the time that it would have taken has passed."""
        if timeout is None:
            raise Stuck
        self.now += max(0.0, timeout)
        return []


class InstantLoop(asyncio.SelectorEventLoop):
    """The loop, which also keeps what nobody handled."""

    def __init__(self) -> None:
        self._clock = _Clock()
        super().__init__(self._clock)
        self._clock_resolution = 1e-6  # of a float that counts the seconds of many thousand sessions
        self.faults: list[str] = []
        self.set_exception_handler(lambda loop, context: self.faults.append(f"{context['message']}: {context.get('exception')!r}"))

    def time(self) -> float:
        """The clock of the timers."""
        return self._clock.now

    def pass_time(self, seconds: float) -> None:
        """Let so much happen as happens in this time."""
        self.run_until_complete(asyncio.sleep(seconds))


class Line(asyncio.Transport):
    """A client's end of a connection, and a transport that behaves as uvloop's at the other."""

    def __init__(self, loop: InstantLoop, protocol: asyncio.Protocol, address: str = "192.0.2.1", limit: int = 65_536) -> None:
        """`limit` is how much may be written that the client does not read."""
        super().__init__()
        self._loop = loop
        self._protocol: Any = protocol
        self._address = address
        self._limit = limit
        self._is_closing = self._is_paused = self._is_full = self._is_ended = False
        self._behind = bytearray()
        self._unread = bytearray()
        self.heard = bytearray()
        """What the client has read."""
        self.is_lost = False
        self.does_read = True
        """Whether the client reads."""
        protocol.connection_made(self)

    # -- the client's side ---------------------------------------------------------------------------------------------------

    def send(self, octets: bytes) -> None:
        """The client sends; what is not read now waits."""
        if not self._is_closing and not self._is_ended and octets:
            self._behind += octets
            self._loop.call_soon(self._deliver)

    def end(self) -> None:
        """The client closes its side."""
        self._is_ended = True
        self._loop.call_soon(self._deliver)

    def lose(self) -> None:
        """The connection breaks."""
        self._force(ConnectionResetError())

    def read(self, does_read: bool) -> None:
        """The client stops reading, or takes all there is and goes on."""
        self.does_read = does_read
        if does_read and not self.is_lost:
            self.heard += self._unread
            self._unread.clear()
            if self._is_full:
                self._is_full = False
                self._protocol.resume_writing()
            if self._is_closing:
                self._loop.call_soon(self._lose, None)

    def _deliver(self) -> None:
        if self._is_paused or self._is_closing:
            return
        while self._behind and not self._is_paused and not self._is_closing:
            octets = bytes(self._behind[:262_144])
            del self._behind[:262_144]
            self._protocol.data_received(octets)
        if self._is_ended and not self._behind and not self._is_closing:
            self._is_paused = True  # once
            if not self._protocol.eof_received():
                self.close()

    # -- the relay's side ----------------------------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Only where it comes from."""
        return (self._address, 4321) if name == "peername" else default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Who hears the client from now on."""
        self._protocol = protocol

    def write(self, data: Any) -> None:
        """To the client; uvloop's is not alive any more once the connection was lost."""
        if self.is_lost:
            raise RuntimeError("unable to perform operation: the handler is closed")
        if self._is_closing:
            return
        if self.does_read:
            self.heard += data
            return
        self._unread += data
        if len(self._unread) > self._limit and not self._is_full:
            self._is_full = True
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        """What the client has not read."""
        return len(self._unread)

    def pause_reading(self) -> None:
        """Deliver nothing for now."""
        self._is_paused = True

    def resume_reading(self) -> None:
        """Deliver again."""
        if self._is_paused and not self._is_closing:
            self._is_paused = False
            self._loop.call_soon(self._deliver)

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self._is_closing

    def close(self) -> None:
        """Close, after what was written."""
        if not self._is_closing:
            self._is_closing = True
            if not self._unread:
                self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        """Close at once."""
        self._force(None)

    def _force(self, error: Exception | None) -> None:
        self._is_closing = True
        self._unread.clear()
        self._loop.call_soon(self._lose, error)

    def _lose(self, error: Exception | None) -> None:
        if not self.is_lost:
            self._protocol.connection_lost(error)
            self.is_lost = True


class TokenContext:
    """In place of ssl.SSLContext: the token stands for the handshake, and what comes behind it is as it is."""

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, server_side: bool) -> _Token:
        """The server's side of a connection."""
        return _Token(incoming, outgoing)


class _Token:
    """In place of ssl.SSLObject."""

    def __init__(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._seen = b""

    def do_handshake(self) -> None:
        """Compare."""
        self._seen += self._incoming.read()
        if self._seen.startswith(TOKEN):
            self._seen = self._seen[len(TOKEN) :]
        elif TOKEN.startswith(self._seen):
            raise ssl.SSLWantReadError
        else:
            raise ssl.SSLError("no TLS")

    def version(self) -> str:
        """As if it were this one."""
        return "TLSv1.3"

    def pending(self) -> int:
        """What came with the token."""
        return len(self._seen)

    def read(self, length: int) -> bytes:
        """What the client said."""
        self._seen += self._incoming.read()
        found, self._seen = self._seen[:length], self._seen[length:]
        return found

    def write(self, data: memoryview) -> int:
        """Less than is asked for, as may be."""
        return self._outgoing.write(data[:100])

    def unwrap(self) -> None:
        """There is nothing to say."""
