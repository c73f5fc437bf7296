"""The wire of one connection of a sink, and the hand that the sink's script has in every reply.

Promises: replies of what was taken together leave together (RFC 2920); a message that is cut off before it was answered is on record as
unanswered. While a script stalls, nothing is done. What is said of a line or a message is left to `conversation`.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from relay.loadkit.received import Received
from relay.loadkit.script import Action, Stage

if TYPE_CHECKING:
    from relay.loadkit.sink import Sink

GARBAGE = b"\x16\x03\x01\xff\x00 not a reply\r\n"

_ENHANCED = re.compile(rb"^(\d{3}[ -])\d\.\d\.\d+ ", re.MULTILINE)


class Scripted(asyncio.Protocol):
    """One connection; what it takes off its buffer is up to `_take`."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._manners = sink.manners
        self._buffer = bytearray()
        self._out: list[bytes] = []
        self._is_held = False
        self._is_ending = False
        self._closes = False
        self._sender: str | None = None
        self._pending: Received | None = None
        self._timer: asyncio.TimerHandle | None = None

    def _take(self) -> bool:
        """Take a line or a message off the buffer and answer it; False: there is none yet."""
        raise NotImplementedError

    # -- the transport -------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._sink.conversations.add(self)
        self._sink.intake.connections += 1
        self._greet()

    def _greet(self) -> None:
        self._answer("connect", (self._peer(),), self._greeting())
        self._flush()

    def _greeting(self) -> bytes:
        return f"220 {self._manners.hostname} ESMTP\r\n".encode("ascii")

    def _peer(self) -> str:
        return str((self._transport.get_extra_info("peername") or ("",))[0])

    def data_received(self, data: bytes) -> None:
        """Work through what has come."""
        self._buffer += data
        self._work()

    def connection_lost(self, exc: Exception | None) -> None:
        """Record what will not be answered any more."""
        self._sink.conversations.discard(self)
        self._is_ending = True
        if self._timer is not None:
            self._timer.cancel()
        self._forgo()

    def abort(self) -> None:
        """Cut the connection."""
        self._is_ending = True
        self._transport.abort()

    def _work(self) -> None:
        while self._buffer and not self._is_held and not self._is_ending:
            if not self._take():
                break
        self._flush()

    def _flush(self) -> None:
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()
        if self._closes:
            self._transport.close()

    def _leave(self) -> None:
        """Take nothing more; close once what was said has gone out."""
        self._is_ending = self._closes = True

    def _say(self, reply: bytes, is_verbatim: bool = False) -> None:
        if not is_verbatim and "ENHANCEDSTATUSCODES" not in self._manners.features:
            reply = _ENHANCED.sub(rb"\1", reply)
        self._sink.intake.replies[int(reply[:3])] += 1
        self._out.append(reply)

    # -- the script ----------------------------------------------------------------------------------------------------------

    def _answer(
        self, stage: Stage, subjects: Sequence[str], usual: bytes, then: Callable[[], None] | None = None, sender: str | None = None
    ) -> None:
        """Reply as the script has it, else as usual; `then` is done where the reply is positive."""
        action = self._decide(stage, subjects, self._sender or "" if sender is None else sender)
        if action is None:
            if then is not None:
                then()
            self._say(usual)
        elif not (seconds := action.pause(self._sink.random)):
            self._act(action, usual, then)
        else:
            self._is_held = True
            if seconds < math.inf:
                # A server that thinks does not see its client leave; one that never wakes would keep the dead connection.
                self._transport.pause_reading()
                self._timer = asyncio.get_running_loop().call_later(seconds, self._resume, action, usual, then)

    def _decide(self, stage: Stage, subjects: Sequence[str], sender: str) -> Action | None:
        sink = self._sink
        return sink.script.decide(stage, subjects, sender, sink.random, sink.elapsed) if sink.script.rules else None

    def _resume(self, action: Action, usual: bytes, then: Callable[[], None] | None) -> None:
        self._is_held = False
        self._transport.resume_reading()
        self._act(action, usual, then)
        self._work()

    def _act(self, action: Action, usual: bytes, then: Callable[[], None] | None) -> None:
        reply = action.reply or usual
        if action.drop == "before":
            self._forgo()
        elif action.is_garbage:
            self._forgo()
            self._out.append(GARBAGE)
        else:
            if reply[:1] in b"23" and then is not None:
                then()
            self._pending = None
            for _ in range(2 if action.is_twice else 1):
                self._say(reply, is_verbatim=bool(action.reply))
        if action.drop:
            self._flush()
            self.abort()
        elif action.is_close:
            self._leave()

    def _forgo(self) -> None:
        """Record the message that waits for its reply, if any, as unanswered."""
        if self._pending is not None:
            message, self._pending = self._pending, None
            self._sink.intake.add(message, answered=False)
