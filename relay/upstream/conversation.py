"""The wire of one SMTP session with a smarthost: commands out, replies in (RFC 5321 section 4.2, RFC 2920).

Promises: replies are matched to commands strictly in order; anything else the smarthost sends (a reply nobody asked for, a line
that is no reply) breaks the conversation, and a broken conversation never answers again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

MAX_REPLY = 65_536
"""Octets of one reply, all its lines; more is no SMTP server."""

JOINED = 65_536
"""Octets up to which it is cheaper to put together what is sent together than to hand it over in pieces."""

_CODES = {b"%d" % code: code for code in range(200, 600)}


class Broken(Exception):
    """The conversation cannot go on; the text says why."""


class Overdue(Exception):
    """The wait for a reply was interrupted; the conversation is whole, and the reply still owed."""


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
        self._waiter: asyncio.Future[bool] | None = None
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
        if len(self._buffer) + self._octets > MAX_REPLY:
            self._break("a reply without an end")
        if self._replies:
            self._wake()

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
        if self._transport is not None and not self._transport.is_closing():
            self._transport.abort()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(True)

    def interrupt(self) -> None:
        """End the wait for a reply with Overdue, unless the reply is already there; nothing if nobody waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(False)

    def send(self, *data: bytes, replies: int = 1) -> None:
        """Write, and expect so many more replies; raises Broken."""
        if self._fault or self._transport is None:
            raise Broken(self._fault or "not connected")
        self._owed += replies
        if sum(map(len, data)) <= JOINED:
            self._transport.write(b"".join(data))
        else:
            self._transport.writelines(data)

    async def reply(self) -> tuple[int, str]:
        """The next reply; raises Broken, or Overdue.

        Cancelling breaks the conversation: its reply would answer the next command. An interruption leaves it to be asked for again.
        """
        while not self._replies:
            if self._fault:
                raise Broken(self._fault)
            self._waiter = self._loop.create_future()
            try:
                has_come = await self._waiter
            except asyncio.CancelledError:
                self._break("abandoned")
                raise
            if not (has_come or self._replies or self._fault):
                raise Overdue
        return self._replies.popleft()

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
