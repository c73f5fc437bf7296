"""The store's side of a relay: a server of the operator's own, and a border before it that can be closed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

import hiredis

from relay.quota.ledger import Ledger
from relay.quota.limit import Rules
from relay.store.client import Store
from tests.running import free_port, store_server


class ServerOfStore:
    """A store of the operator's own, which may be killed and comes back on what it had."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.folder = folder
        self._stack = AsyncExitStack()
        self.pid = 0

    async def start(self) -> None:
        """Start it, and wait until it listens."""
        process = await self._stack.enter_async_context(store_server(self.port, self.folder))
        self.pid = process.pid

    async def end(self) -> None:
        """Kill it."""
        await self._stack.aclose()


Kind = Literal["reserve", "settle"]


class Operation(NamedTuple):
    """What the relay asked of the ledger."""

    kind: Kind
    id: str


class Border:
    """Between the relay and its store: can be closed, or close itself at an operation of the ledger, before or after it was done."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._trap: tuple[Kind, str] | None = None
        self._script = b""
        self.is_closed = False
        self.port = 0
        self.seen: list[Operation] = []
        """All that the relay has asked of the ledger."""

    @property
    def url(self) -> str:
        """The store's URL for the relay."""
        return f"redis://127.0.0.1:{self.port}"

    async def start(self, rules: Rules) -> None:
        """Open for traffic. The store knows the script of a ledger with these rules from here on: each call carries it out."""
        store = Store(f"redis://127.0.0.1:{self._to}")
        try:
            script = Ledger(store, rules).script
            self._script = script.digest.encode()
            await store.command("SCRIPT", "LOAD", script.text)
        finally:
            await store.close()
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End for good."""
        self.close()
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def close_at(self, kind: Kind, when: str) -> None:
        """Close at the next such operation: `before` the store has heard of it, or `after` it was carried out, its answer lost."""
        self._trap = (kind, when)

    def close(self) -> None:
        """Cut every connection; new ones are cut at once."""
        self.is_closed = True
        for writer in self._writers:
            writer.transport.abort()

    def open(self) -> None:
        """Let everything through again."""
        self.is_closed = False
        self._trap = None

    def count(self, kind: Kind, id: str = "") -> int:
        """How often it was asked for: of a message, or in all."""
        return sum(one.kind == kind and id in ("", one.id) for one in self.seen)

    def _operations(self, command: list[Any]) -> Iterator[Operation]:
        """What a command to the store asks of the ledger, as post.lua reads it."""
        if command[:2] != [b"EVALSHA", self._script]:
            return
        words = command[4:]  # behind the number of keys, which is one, and the key
        members, wishes = words[: len(words) // 2], words[len(words) // 2 :]
        for member, wish in zip(members, wishes, strict=True):
            yield Operation("settle" if not wish or b"," in wish else "reserve", member.rpartition(b":")[0].decode())

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_closed:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            there, out = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, out}
        back = asyncio.create_task(self._back(there, writer))
        try:
            await self._forth(reader, out)
        finally:
            back.cancel()
            self._writers -= {writer, out}
            writer.transport.abort()
            out.transport.abort()

    async def _forth(self, reader: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        commands = hiredis.Reader()
        with contextlib.suppress(OSError):
            while piece := await reader.read(1 << 16):
                commands.feed(piece)
                asked: list[Operation] = []
                while command := commands.gets():
                    asked += self._operations(command)
                self.seen += asked
                if self._trap is not None and any(one.kind == self._trap[0] for one in asked):
                    if self._trap[1] == "after":
                        self.is_closed = True  # what comes back is dropped from here on
                        out.write(piece)
                        await out.drain()
                        await asyncio.sleep(0.1)
                    self.close()
                    return
                out.write(piece)
                await out.drain()

    async def _back(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await there.read(1 << 16):
                if not self.is_closed:
                    writer.write(piece)
                    await writer.drain()
        writer.transport.abort()
