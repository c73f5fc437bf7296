"""A wire to the store that can lose what it carries."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import Literal

Mode = Literal["pass", "swallow", "cut", "withhold"]


class Proxy:
    """Forwards TCP connections to a unix socket.

    pass: both ways. swallow: requests arrive, replies are lost and the connection stays. cut: requests arrive, and where the reply
    should be the connection ends. withhold: requests are not passed on.
    """

    def __init__(self, target: str) -> None:
        self.mode: Mode = "pass"
        self.requests = 0
        """Octets of requests seen since it was set to 0."""
        self.url = ""
        """Of the store behind it, once started."""
        self._target = target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        """Listen on a free port of loopback; returns the URL of the store behind it."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self.url

    async def stop(self) -> None:
        """Cut everything."""
        assert self._server is not None
        self._server.close()
        await asyncio.sleep(0)  # who was just accepted
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A plain callback: asyncio's streams complain of a handler that is cancelled.
        task = asyncio.get_running_loop().create_task(self._join(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(_close, writer)
            try:
                inner_reader, inner_writer = await asyncio.open_unix_connection(self._target)
            except OSError:
                return
            stack.push_async_callback(_close, inner_writer)
            ways = [asyncio.create_task(self._requests(reader, inner_writer)), asyncio.create_task(self._replies(inner_reader, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.wait(ways)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                self.requests += len(data)
                if self.mode != "withhold":
                    writer.write(data)
                    await writer.drain()

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if self.mode == "cut":
                    return
                if self.mode == "pass":
                    writer.write(data)
                    await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
