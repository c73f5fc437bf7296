"""An open connection to one server: commands of the same turn of the loop leave in one write, and answers come in their order.

Promises:
- Whatever breaks the order of answers (a lost connection, a time-out) fails every call that waits with StoreUnavailable, and the
  connection is not used again. Nothing is sent twice, but a script which the server said it does not know: that one has not run.
- A caller that gives up does not disturb the others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, cast

import hiredis

from relay.store.address import Command
from relay.store.fault import StoreUnavailable, translate_text

NOTHING: Any = object()
"""What a parser says when it has no whole answer."""
pack = cast(Callable[[Command], bytes], hiredis.pack_command)


class Waiter(Protocol):
    """Who waits for an answer: a future, or what hears it in the very moment in which it is read."""

    def done(self) -> bool:
        """Whether it still listens."""

    def set_result(self, result: Any, /) -> None:
        """Hear the answer."""

    def set_exception(self, exception: Any, /) -> None:
        """Hear why there is none."""


_Call = tuple[Waiter, float, Command, str | None]
"""Who waits, until when, for the answer to what; and the text of a script that was named by its digest."""


class Wire(asyncio.Protocol):
    """An open connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        """`timeout` bounds each call, in seconds."""
        self._loop = loop
        self._timeout = timeout
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(notEnoughData=NOTHING)
        self._out: list[bytes] = []
        self._deadline = 0.0
        """Of the calls in `_out`."""
        self._waiting: deque[_Call] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._shared: dict[Command, asyncio.Future[Any]] = {}
        """Questions that have not left yet."""
        self._lost: asyncio.Future[None] = loop.create_future()
        self.is_open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    # -- calls ---------------------------------------------------------------------------------------------------------------

    def send(self, command: Command, waiter: Waiter, text: str | None = None) -> None:
        """Send with all else of this turn of the loop; the waiter hears the answer. `text` is that of the script the command runs."""
        if not self.is_open:
            fail(waiter, StoreUnavailable("connection lost"))
            return
        packed = pack(command)
        if not self._out:
            self._loop.call_soon(self._flush)
            self._deadline = self._loop.time() + self._timeout
            if self._timer is None:
                self._timer = self._loop.call_at(self._deadline, self._on_timer)
        self._out.append(packed)
        self._waiting.append((waiter, self._deadline, command, text))

    def ask(self, *command: Any) -> asyncio.Future[Any]:
        """Send one command; await the future for its answer."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self.send(command, future)
        return future

    def share(self, command: Command) -> asyncio.Future[Any]:
        """Send one command, unless the same has still to leave: who asks then is answered with it."""
        future = self._shared.get(command)
        if future is None or future.done():
            future = self._shared[command] = self.ask(*command)
        return future

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._shared:
            self._shared = {}
        if self.is_open and self._transport is not None:
            self._transport.write(b"".join(out))

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self._waiting
        reader.feed(data)
        try:
            while (answer := reader.gets()) is not NOTHING:
                call = waiting.popleft()
                if answer.__class__ is hiredis.ReplyError:
                    self._refuse(call, str(answer))
                elif not call[0].done():
                    call[0].set_result(answer)
        except (hiredis.ProtocolError, IndexError) as error:
            self.end(f"not the store's protocol: {error}")

    def _refuse(self, call: _Call, why: str) -> None:
        """Hand on an error; a script that is unknown to the server (restart, failover, new node) is sent whole."""
        waiter, _, command, text = call
        if text is None or not why.startswith("NOSCRIPT"):
            fail(waiter, translate_text(why))
        elif not waiter.done():
            self.send(("EVAL", text, *command[2:]), waiter)

    # -- its end -------------------------------------------------------------------------------------------------------------

    def _on_timer(self) -> None:
        """One timer for all calls, set anew only when it fires: the oldest call decides."""
        self._timer = None
        if not self._waiting:
            return
        deadline = self._waiting[0][1]
        if deadline <= self._loop.time():
            self.end(f"no answer within {self._timeout:g} s")
        else:
            self._timer = self._loop.call_at(deadline, self._on_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(f"connection lost{f': {exc}' if exc else ''}")
        if not self._lost.done():
            self._lost.set_result(None)

    def end(self, why: str) -> None:
        """Fail all who wait, and cut the connection."""
        self.close()
        waiting, self._waiting = self._waiting, deque()
        for waiter, *_ in waiting:
            fail(waiter, StoreUnavailable(why))

    def close(self) -> None:
        """Cut the connection."""
        self.is_open = False
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def finish(self) -> None:
        """Wait for what is on its way, then close."""
        while self._waiting and self.is_open:
            await asyncio.wait([self.ask(b"PING")])  # which is answered after them
        self.close()
        await self._lost


def fail(waiter: Waiter, error: Exception) -> None:
    """Tell a caller, if it still listens; a call that was abandoned is nobody's error."""
    if not waiter.done():
        waiter.set_exception(error)
        if isinstance(waiter, asyncio.Future):
            waiter.exception()
