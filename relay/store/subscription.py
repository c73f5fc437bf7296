"""A connection of its own that hears what is published on a channel (RESP2, as every version of Redis and Valkey speaks it).

Promise: a subscription that is dead is found out. After a silence it is asked whether it lives (PING, which is allowed while
subscribed), and without an answer within as long again it is given up: StoreUnavailable.
"""

from __future__ import annotations

import asyncio
from typing import Any

import hiredis

from relay.store.address import Argument
from relay.store.fault import StoreUnavailable, translate_text
from relay.store.wire import NOTHING, Wire, pack


class Subscription(Wire):
    """A connection on which calls can be made until it listens."""

    _heard: asyncio.Queue[Any] | None = None

    def listen(self, channel: str) -> None:
        """Make it a subscription: from here on, what comes is pushed."""
        self._heard = asyncio.Queue()
        self._say(b"SUBSCRIBE", channel)

    async def heard(self, pulse: float) -> str | None:
        """None once the subscription stands, then each message; `pulse` is the longest silence borne, in seconds."""
        assert self._heard is not None
        is_asked = False
        while True:
            try:
                async with asyncio.timeout(pulse):
                    pushed = await self._heard.get()
            except TimeoutError:
                # Silence: see that the connection lives, or a change could be missed without a sign of it.
                if is_asked:
                    raise StoreUnavailable("the subscription is dead") from None
                is_asked = True
                self._say(b"PING")
                continue
            is_asked = False
            if isinstance(pushed, Exception):
                raise pushed
            if pushed[0] == b"subscribe":
                return None
            if pushed[0] == b"message":
                return str(pushed[2], "utf-8", "replace")

    def _say(self, *command: Argument) -> None:
        if self.is_open and self._transport is not None:
            self._transport.write(pack(command))

    def data_received(self, data: bytes) -> None:
        if self._heard is None:
            super().data_received(data)
            return
        self._reader.feed(data)
        try:
            while (pushed := self._reader.gets()) is not NOTHING:
                self._heard.put_nowait(translate_text(str(pushed)) if isinstance(pushed, hiredis.ReplyError) else pushed)
        except hiredis.ProtocolError as error:
            self.end(f"not the store's protocol: {error}")

    def end(self, why: str) -> None:
        super().end(why)
        if self._heard is not None:
            self._heard.put_nowait(StoreUnavailable(why))
