"""TLS on one connection of a sink, and what its script does to a handshake.

Promises: nothing that came before a handshake survives it (RFC 3207 section 4.2); where TLS is implicit (RFC 8314 section 3.3) nothing is
said before it. What is said once the connection is secure is left to `conversation`.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from typing import TYPE_CHECKING, cast

from relay.loadkit.script import Action
from relay.loadkit.scripted import GARBAGE, Scripted

if TYPE_CHECKING:
    from relay.loadkit.sink import Sink


class Secured(Scripted):
    """One connection that can be secured."""

    def __init__(self, sink: Sink) -> None:
        super().__init__(sink)
        self._is_secure = False
        self._handshake: asyncio.Task[None] | None = None

    def _greet(self) -> None:
        if self._manners.tls == "implicit" and not self._is_secure:
            self._begin_tls()
        else:
            super()._greet()

    def _secured(self) -> None:
        """The handshake is done."""
        raise NotImplementedError

    def _begin_tls(self) -> None:
        self._is_held = True
        self._buffer.clear()
        self._transport.pause_reading()
        self._handshake = asyncio.get_running_loop().create_task(self._shake_hands(self._decide("tls", (self._peer(),), "")))

    async def _shake_hands(self, action: Action | None) -> None:
        if self._is_ending or (action is not None and not await self._goes_on(action)):
            return
        try:
            secured = await self._upgrade(self._sink.context(action.certificate if action is not None else None))
        except (OSError, asyncio.CancelledError):
            secured = None
        if secured is None:
            self._transport.abort()
            self.connection_lost(None)  # which nobody else calls during a handshake
            return
        self._transport = secured
        self._is_held, self._is_secure = False, True
        self._secured()
        self._work()

    async def _upgrade(self, context: ssl.SSLContext) -> asyncio.Transport | None:
        loop = asyncio.get_running_loop()
        self._transport.pause_reading()  # again: uvloop begins to read after connection_made, whatever that said
        early = bytes(self._buffer)
        self._buffer.clear()
        upgrade = loop.create_task(loop.start_tls(self._transport, self, context, server_side=True))
        if early:
            await asyncio.sleep(0)  # from here on the transport's protocol is that of TLS; it begins before it is handed anything
            loop.call_soon(_hand_on, self._transport.get_protocol(), early)
        return await upgrade

    async def _goes_on(self, action: Action) -> bool:
        """Do what the script says before the handshake; False: there will be none."""
        seconds = action.pause(self._sink.random)
        if seconds == math.inf:
            self._transport.resume_reading()  # so that it is noticed when the client leaves
            return False
        await asyncio.sleep(seconds)
        if action.drop or action.is_garbage:
            if action.is_garbage and not self._is_ending:
                self._transport.write(GARBAGE)
            self._is_ending = True
            # An abort would take back what was written.
            self._transport.close() if action.is_garbage and not action.drop else self._transport.abort()
            return False
        return not self._is_ending


def _hand_on(protocol: asyncio.BaseProtocol, octets: bytes) -> None:
    """Give a protocol octets that came before it was there."""
    taker = cast(asyncio.BufferedProtocol, protocol)
    while octets:
        room = memoryview(taker.get_buffer(len(octets)))
        size = min(len(room), len(octets))
        room[:size] = octets[:size]
        taker.buffer_updated(size)
        octets = octets[size:]
