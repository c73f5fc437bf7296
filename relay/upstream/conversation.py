"""The wire of one SMTP session with a smarthost: commands out, replies in (RFC 5321 section 4.2, RFC 2920).

Promises:
- Replies are matched to commands strictly in order; anything else the smarthost sends (a reply nobody asked for, a line that is no
  reply) breaks the conversation, and a broken conversation never answers again.
- Where a flight of commands is answered by the go-ahead (2yz to each, and 354 to the last), what was to follow is done in the same turn
  of the loop, and nobody is woken to read replies that say nothing else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

MAX_REPLY = 65_536
"""Octets of one reply, all its lines; more is no SMTP server."""

JOINED = 16_384
"""Octets of content up to which it is cheaper to put together what is sent together than to hand it over in pieces."""

FAMILIAR = 1024
"""Octets of a go-ahead that are remembered: a smarthost words it alike for every message, so that it need not be read each time."""

_CODES = {b"%d" % code: code for code in range(200, 600)}


class Broken(Exception):
    """The conversation cannot go on; the text says why."""


class Overdue(Exception):
    """The time is up. Where it was a reply that was waited for, the conversation is whole, and the reply still owed."""


class Conversation(asyncio.Protocol):
    """Speaks on a transport that is connected, secured and greeted."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._lines: list[str] = []
        self._code = 0
        self._octets = 0
        self._replies: deque[tuple[int, str]] = deque()
        self._owed = 0
        self._waiter: asyncio.Future[None] | None = None
        self._then: Callable[[], None] | None = None
        """What follows if all that comes next is the go-ahead."""
        self._familiar = b""
        """The go-ahead as it came the last time, and to how many commands."""
        self._familiar_count = 0
        self._fault: str = ""
        self.is_out_of_step = False
        """Something came that answers nothing that was asked: what was taken for replies before may have belonged elsewhere."""

    @property
    def is_clean(self) -> bool:
        """Whether a new transaction may begin: connected, nothing owed, nothing left over."""
        transport = self._transport
        return not (self._fault or self._owed or self._replies or self._buffer or transport is None or transport.is_closing())

    @property
    def owed(self) -> int:
        """Replies that were asked for and not yet taken."""
        return self._owed + len(self._replies)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Split what came into replies."""
        if self._fault:
            return
        if (then := self._then) is not None:
            self._then = None  # what comes in parts is read as it comes
            if data == self._familiar and self._owed == self._familiar_count and self._is_awaited:
                self._owed = 0
                then()
                return
        lines = (self._buffer + data if self._buffer else data).split(b"\n")
        self._buffer = lines.pop()
        for line in lines:
            if line[3:4] == b" " and self._owed and not self._lines and (code := _CODES.get(line[:3])):  # as nearly all are
                self._owed -= 1
                self._replies.append((code, line[4:].rstrip(b"\r").decode("utf-8", "replace")))
            else:
                self._octets += len(line) + 1
                self._take_line(line.rstrip(b"\r"))
                if self._fault:
                    break
        if (self._buffer or self._octets) and len(self._buffer) + self._octets > MAX_REPLY:
            self._break("a reply without an end")
        if then is not None and self._is_go_ahead():
            if len(data) <= FAMILIAR:
                self._familiar, self._familiar_count = data, len(self._replies)
            self._replies.clear()
            then()
        elif self._replies:
            self._wake()

    def _is_go_ahead(self) -> bool:
        """Whether every command of the flight was taken, the last one asks for the content, and somebody still waits for that."""
        if self._fault or self._owed or self._buffer or not self._is_awaited:
            return False
        *others, (last, _) = self._replies
        return last == 354 and all(code < 300 for code, _ in others)

    @property
    def _is_awaited(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def _take_line(self, line: bytes) -> None:
        code = _CODES.get(line[:3])
        if code is None or line[3:4] not in (b" ", b"-", b""):
            self._fall_out(f"no SMTP reply: {line[:80]!r}")
            return
        if self._owed == 0:
            self._fall_out(f"a reply to no command: {line[:80]!r}")
            return
        if self._lines and code != self._code:
            self._fall_out(f"a reply of several codes: {line[:80]!r}")
            return
        self._code = code
        self._lines.append(line[4:].decode("utf-8", "replace"))
        if line[3:4] != b"-":
            self._owed -= 1
            self._replies.append((code, "\n".join(self._lines)))
            self._lines = []
            self._octets = 0

    def eof_received(self) -> None:
        """The smarthost closed its side."""
        self._break("connection closed by the smarthost")

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._break(f"connection lost: {exc}" if exc else "connection lost")

    def _fall_out(self, why: str) -> None:
        self.is_out_of_step = True
        self._break(why)

    def _break(self, why: str) -> None:
        self._fault = self._fault or why
        self._then = None
        if self._transport is not None and not self._transport.is_closing():
            self._transport.abort()
        self._wake()

    def _wake(self) -> None:
        if (waiter := self._waiter) is not None and not waiter.done():
            waiter.set_result(None)

    def interrupt(self) -> None:
        """End the wait for a reply with Overdue, unless the reply is already there; nothing if nobody waits."""
        self._wake()

    def send(self, data: bytes, replies: int = 1, then: Callable[[], None] | None = None) -> None:
        """Write commands, and expect so many more replies; raises Broken.

        `then` is called once they are all there and are the go-ahead, if they come at once; they are not heard any more then, and it is
        its replies that are waited for.
        """
        if self._fault or self._transport is None:
            raise Broken(self._fault or "not connected")
        self._then = None if self._owed or self._replies or self._buffer else then
        self._owed += replies
        self._transport.write(data)

    def send_content(self, head: bytes, content: bytes, tail: bytes = b"") -> None:
        """Write what may be long, and expect one reply; raises Broken."""
        if self._fault or self._transport is None:
            raise Broken(self._fault or "not connected")
        self._owed += 1
        if len(content) <= JOINED:
            self._transport.write(b"".join((head, content, tail)))
        else:
            self._transport.writelines((head, content, tail) if tail else (head, content))

    async def reply(self) -> tuple[int, str]:
        """The next reply; raises Broken, or Overdue.

        Cancelling breaks the conversation: its reply would answer the next command. An interruption leaves it to be asked for again.
        """
        if not (self._replies or self._fault):
            try:
                await self.wait()
            except asyncio.CancelledError:
                self._break("abandoned")
                raise
        return self.take()

    def wait(self) -> asyncio.Future[None]:
        """What is done as soon as `take` has an answer, where none is there yet; who gives it up has to abort the conversation."""
        self._waiter = waiter = self._loop.create_future()
        return waiter

    def take(self) -> tuple[int, str]:
        """The next reply, after a wait for it; raises Broken, or Overdue."""
        if self._replies:
            return self._replies.popleft()
        if self._fault:
            raise Broken(self._fault)
        raise Overdue

    def heard(self) -> tuple[int, str] | None:
        """The next reply, if it is there: who takes it at once need not wait for it, which costs as much as reading it."""
        return self._replies.popleft() if self._replies else None

    async def ask(self, command: bytes) -> tuple[int, str]:
        """Send one command and wait for its reply; raises Broken."""
        self.send(command)
        return await self.reply()

    def abort(self) -> None:
        """End the conversation at once."""
        self._break("aborted")

    def quit(self) -> None:
        """End it politely, without waiting."""
        if self.is_clean and self._transport is not None:
            self._transport.write(b"QUIT\r\n")
            self._fault = "closed"
            self._transport.close()
        else:
            self.abort()
