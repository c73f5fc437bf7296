"""One server, reached over one connection that all calls of a process share, and another for each subscription.

Promises:
- The connection is made when it is first needed, and again after it was lost; who calls meanwhile waits for it, no longer than the
  time that bounds its making.
- A new connection is not used before the store behind it has shown the expected epoch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from relay.store.address import Address, Argument, Command
from relay.store.fault import StoreForeign, StoreRefused, StoreUnavailable
from relay.store.subscription import Subscription
from relay.store.wire import Waiter, Wire, fail

EPOCH_KEY = b"relay:epoch"

Ask = Callable[..., Awaitable[Any]]
Verify = Callable[[Ask], Awaitable[None]]
Any_wire = TypeVar("Any_wire", bound=Wire)


class Link:
    """The way to one server."""

    def __init__(self, address: Address, timeout: float) -> None:
        """`timeout` bounds in seconds each call, and the making of a connection."""
        self.verify: Verify | None = None
        """What a connection must stand besides, before it is used; raises StoreUnavailable."""
        self._epoch: bytes | None = None
        self._address = address
        self._timeout = timeout
        self._wire: Wire | None = None
        self._queue: list[tuple[Command, Waiter, str | None]] = []
        self._connecting: asyncio.Task[None] | None = None
        self._subscriptions: set[Subscription] = set()

    @property
    def epoch(self) -> bytes | None:
        """What a connection must find before it is used; None is anything."""
        return self._epoch

    @epoch.setter
    def epoch(self, value: bytes | None) -> None:
        if value != self._epoch and self._wire is not None:
            self._wire.close()  # it was not asked for this one
        self._epoch = value

    def call(self, command: Command, text: str | None = None) -> asyncio.Future[Any]:
        """Send a command; await the future for its answer, StoreRefused or StoreUnavailable. `text`: of the script that it runs."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.send(command, future, text)
        return future

    def send(self, command: Command, waiter: Waiter, text: str | None = None) -> None:
        """Send a command; the waiter hears the answer in the moment in which it is read."""
        wire = self._wire
        if wire is not None and wire.is_open:
            wire.send(command, waiter, text)
        else:
            self._queue.append((command, waiter, text))
            if self._connecting is None:
                self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def share(self, command: Command) -> asyncio.Future[Any]:
        """Send a command, unless the same has still to leave; await the future for the answer that all of them get."""
        wire = self._wire
        return wire.share(command) if wire is not None and wire.is_open else self.call(command)

    async def subscribe(self, channel: str, pulse: float) -> AsyncIterator[str | None]:
        """Yield None once the subscription stands, then each message; raises StoreUnavailable when it is lost, StoreRefused."""
        subscription = await self._made(Subscription)
        self._subscriptions.add(subscription)
        try:
            subscription.listen(channel)
            while True:
                yield await subscription.heard(pulse)
        finally:
            subscription.close()
            self._subscriptions.discard(subscription)

    async def close(self) -> None:
        """Let what is on its way be answered, then close."""
        while self._connecting is not None:
            await asyncio.wait({self._connecting})
        for subscription in self._subscriptions:
            subscription.close()
        if self._wire is not None:
            await self._wire.finish()

    # -- connecting ----------------------------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        try:
            wire = self._wire = await self._made(Wire)
            queue, self._queue = self._queue, []
            for command, waiter, text in queue:
                if not waiter.done():
                    wire.send(command, waiter, text)
        except StoreUnavailable as error:
            self._fail(type(error), str(error))
        except BaseException:
            self._fail(StoreUnavailable, "connecting was ended")
            raise
        finally:
            self._connecting = None

    async def _made(self, kind: type[Any_wire]) -> Any_wire:
        """A new connection that has stood all it must; raises StoreUnavailable."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._open(kind)
        except (OSError, TimeoutError, StoreRefused) as error:
            raise StoreUnavailable(str(error) or "no connection in time") from None

    async def _open(self, kind: type[Any_wire]) -> Any_wire:
        loop, address = asyncio.get_running_loop(), self._address

        def factory() -> Any_wire:
            return kind(loop, self._timeout)

        if address.path:
            _, wire = await loop.create_unix_connection(factory, address.path)
        else:
            _, wire = await loop.create_connection(factory, address.host, address.port, ssl=address.tls)
        try:
            for command in address.greeting:
                await wire.ask(*command)
            if self._epoch is not None and (found := await wire.ask("GET", EPOCH_KEY)) != self._epoch:
                raise StoreForeign(f"epoch {show(found)} instead of {show(self._epoch)}")
            if self.verify is not None:
                await self.verify(wire.ask)
        except BaseException:
            wire.close()
            raise
        return wire

    def _fail(self, kind: type[StoreUnavailable], text: str) -> None:
        queue, self._queue = self._queue, []
        for _, waiter, _ in queue:
            fail(waiter, kind(text))


def show(value: bytes | None) -> str:
    """A value for a message to people."""
    return "none" if value is None else value.decode("ascii", "replace")


__all__: Sequence[str] = ("EPOCH_KEY", "Address", "Argument", "Ask", "Command", "Link", "Verify", "show")
