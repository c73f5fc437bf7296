"""One connection to one server, shared by all calls of a process: commands made in the same turn of the loop leave in one write.

Promises:
- Answers are matched to commands in order; whatever breaks that (a lost connection, a time-out) fails every call that waits with
  StoreUnavailable, and the connection is not used again. Nothing is sent twice.
- A new connection is not used before the store behind it has shown the expected epoch.
- A caller that gives up does not disturb the others.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio.connection import parse_url

from relay.store.fault import StoreForeign, StoreRefused, StoreUnavailable, translate_text

EPOCH_KEY = b"relay:epoch"
Argument = bytes | str | int
Command = tuple[Argument, ...]

Ask = Callable[..., Awaitable[Any]]
Verify = Callable[[Ask], Awaitable[None]]

_NOTHING: Any = object()


class Address:
    """Where a server is and how it is entered, from a redis://, rediss:// or unix:// URL."""

    def __init__(self, url: str) -> None:
        given = parse_url(url)
        self.path: str = given.get("path", "")
        self.host: str = given.get("host", "localhost")
        self.port = int(given.get("port", 6379))
        self.tls = _tls(given) if url.startswith("rediss://") else None
        self.greeting: list[Command] = []
        if password := given.get("password"):
            self.greeting.append(("AUTH", *filter(None, [given.get("username")]), password))
        if database := int(given.get("db", 0)):
            self.greeting.append(("SELECT", database))


def _tls(given: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=given.get("ssl_ca_certs"))
    if given.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Link:
    """The connection, made when it is first needed and again after it was lost."""

    def __init__(self, address: Address, timeout: float) -> None:
        """`timeout` bounds in seconds each call, and the making of a connection."""
        self.verify: Verify | None = None
        """What a connection must stand besides, before it is used; raises StoreUnavailable."""
        self._epoch: bytes | None = None
        self._address = address
        self._timeout = timeout
        self._wire: _Wire | None = None
        self._queue: list[tuple[bytes, asyncio.Future[Any]]] = []
        self._connecting: asyncio.Task[None] | None = None

    @property
    def epoch(self) -> bytes | None:
        """What a connection must find before it is used; None is anything."""
        return self._epoch

    @epoch.setter
    def epoch(self, value: bytes | None) -> None:
        if value != self._epoch and self._wire is not None:
            self._wire.close()  # it was not asked for this one
        self._epoch = value

    def call(self, command: Command) -> asyncio.Future[Any]:
        """Send a command; await the future for its answer, StoreRefused or StoreUnavailable."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        packed = _pack(command)
        wire = self._wire
        if wire is not None and wire.is_open:
            wire.send(packed, future)
        else:
            self._queue.append((packed, future))
            if self._connecting is None:
                self._connecting = asyncio.get_running_loop().create_task(self._connect())
        return future

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                wire = await self._open()
            self._wire = wire
            queue, self._queue = self._queue, []
            for packed, future in queue:
                if not future.done():
                    wire.send(packed, future)
        except StoreUnavailable as error:
            self._fail(type(error), str(error))
        except (OSError, TimeoutError, StoreRefused) as error:
            self._fail(StoreUnavailable, str(error) or "no connection in time")
        except BaseException:
            self._fail(StoreUnavailable, "connecting was ended")
            raise
        finally:
            self._connecting = None

    async def _open(self) -> _Wire:
        loop, address = asyncio.get_running_loop(), self._address

        def factory() -> _Wire:
            return _Wire(loop, self._timeout)

        if address.path:
            _, wire = await loop.create_unix_connection(factory, address.path)
        else:
            _, wire = await loop.create_connection(factory, address.host, address.port, ssl=address.tls)
        try:
            for command in address.greeting:
                await self._ask(wire, command)
            if self._epoch is not None and (found := await self._ask(wire, ("GET", EPOCH_KEY))) != self._epoch:
                raise StoreForeign(f"epoch {show(found)} instead of {show(self._epoch)}")
            if self.verify is not None:
                await self.verify(lambda *command: self._ask(wire, command))
        except BaseException:
            wire.close()
            raise
        return wire

    @staticmethod
    async def _ask(wire: _Wire, command: Command) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        wire.send(_pack(command), future)
        return await future

    def _fail(self, kind: type[StoreUnavailable], text: str) -> None:
        queue, self._queue = self._queue, []
        for _, future in queue:
            fail(future, kind(text))

    async def close(self) -> None:
        """Let what is on its way be answered, then close."""
        while self._connecting is not None:
            await asyncio.wait({self._connecting})
        if self._wire is not None:
            await self._wire.finish()


class _Wire(asyncio.Protocol):
    """An open connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self._loop = loop
        self._timeout = timeout
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._out: list[bytes] = []
        self._waiting: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._lost: asyncio.Future[None] = loop.create_future()
        self.is_open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, packed: bytes, future: asyncio.Future[Any]) -> None:
        """Send with all else of this turn of the loop; the future hears the answer."""
        if not self.is_open:
            fail(future, StoreUnavailable("connection lost"))
            return
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(packed)
        deadline = self._loop.time() + self._timeout
        self._waiting.append((deadline, future))
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._on_timer)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self.is_open and self._transport is not None:
            self._transport.write(b"".join(out))

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        try:
            while (answer := reader.gets()) is not _NOTHING:
                _, future = self._waiting.popleft()
                if future.done():
                    continue
                if isinstance(answer, hiredis.ReplyError):
                    fail(future, translate_text(str(answer)))
                else:
                    future.set_result(answer)
        except (hiredis.ProtocolError, IndexError) as error:
            self._end(f"not the store's protocol: {error}")

    def _on_timer(self) -> None:
        """One timer for all calls, set anew only when it fires: the oldest call decides."""
        self._timer = None
        if not self._waiting:
            return
        deadline = self._waiting[0][0]
        if deadline <= self._loop.time():
            self._end(f"no answer within {self._timeout:g} s")
        else:
            self._timer = self._loop.call_at(deadline, self._on_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"connection lost{f': {exc}' if exc else ''}")
        if not self._lost.done():
            self._lost.set_result(None)

    def _end(self, why: str) -> None:
        self.is_open = False
        self.close()
        waiting, self._waiting = self._waiting, deque()
        for _, future in waiting:
            fail(future, StoreUnavailable(why))

    def close(self) -> None:
        """Cut the connection."""
        self.is_open = False
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def finish(self) -> None:
        """Wait for what is on its way, then close."""
        waiting = [future for _, future in self._waiting]
        if waiting:
            await asyncio.wait(waiting)
        self.close()
        await self._lost


def _pack(command: Any) -> bytes:
    packed: bytes = hiredis.pack_command(command)
    return packed


def fail(future: asyncio.Future[Any], error: Exception) -> None:
    """Tell a caller, if it still listens; a call that was abandoned is nobody's error."""
    if not future.done():
        future.set_exception(error)
        future.exception()


def show(value: bytes | None) -> str:
    """A value for a message to people."""
    return "none" if value is None else value.decode("ascii", "replace")


__all__: Sequence[str] = ("EPOCH_KEY", "Address", "Argument", "Ask", "Command", "Link", "Verify", "fail", "show")
