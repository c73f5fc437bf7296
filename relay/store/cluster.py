"""A Cluster, spoken to by redis-py, which knows its slots and nodes.

Only a process whose store is a Cluster imports this: redis-py is a sixth of a worker's memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import redis.exceptions
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from relay.store.address import Command
from relay.store.fault import StoreRefused, StoreUnavailable, translate_text
from relay.store.link import Verify
from relay.store.wire import Waiter, fail


class Cluster:
    """The way to a Cluster. Whose it is, is looked at when it is joined and on each miss, not on each new connection."""

    def __init__(self, url: str, timeout: float) -> None:
        """`url` names any node, as redis://; `timeout` bounds each call in seconds."""
        self.epoch: bytes | None = None
        self.verify: Verify | None = None
        self._timeout = timeout
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = asyncio.Lock()
        self._client: Any = RedisCluster.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=_never())

    def call(self, command: Command, text: str | None = None) -> asyncio.Future[Any]:
        """Send a command; await the future for its answer, StoreRefused or StoreUnavailable. `text`: of the script that it runs."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.send(command, future, text)
        return future

    def send(self, command: Command, waiter: Waiter, text: str | None = None) -> None:
        """Send a command; the waiter hears the answer in the moment in which it is there."""
        task = asyncio.create_task(self._answer(command, text, waiter))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def share(self, command: Command) -> asyncio.Future[Any]:
        """Send a command. Nothing is shared: each leaves at once, of its own."""
        return self.call(command)

    async def _answer(self, command: Command, text: str | None, waiter: Waiter) -> None:
        try:
            try:
                answer = await self._ask(command)
            except redis.exceptions.NoScriptError:
                if text is None:
                    raise
                answer = await self._ask(("EVAL", text, *command[2:]))
        except Exception as error:  # redis-py's Cluster client raises more than its own errors when nodes go
            fail(waiter, _translate(error))
        else:
            if not waiter.done():
                waiter.set_result(answer)

    async def _ask(self, command: Command) -> Any:
        async with asyncio.timeout(self._timeout):
            async with self._starting:  # redis-py's Cluster client must not be started by many calls at once
                await self._client.initialize()
            name, *arguments = command
            # It looks the command up by its name to route it, and wants a text for that.
            return await self._client.execute_command(name.decode() if isinstance(name, bytes) else name, *arguments)

    async def subscribe(self, channel: str, pulse: float) -> AsyncIterator[str | None]:
        """Yield None once the subscription stands, then each message; raises StoreUnavailable when it is lost."""
        # To one node: messages published in a Cluster reach every node's subscribers.
        node = self._client.get_default_node()
        async with Redis(host=node.host, port=int(node.port), retry=_never()) as client, client.pubsub() as pubsub:
            try:
                await pubsub.subscribe(channel)
                is_asked = False
                while True:
                    message = await pubsub.get_message(timeout=pulse)
                    if message is None:
                        # Silence: see that the connection lives, or a change could be missed without a sign of it.
                        if is_asked:
                            raise StoreUnavailable("the subscription is dead")
                        await pubsub.ping()
                    is_asked = message is None
                    if message is not None and message["type"] == "subscribe":
                        yield None
                    elif message is not None and message["type"] == "message":
                        yield message["data"].decode("utf-8", "replace")
            except (redis.exceptions.RedisError, OSError) as error:
                raise _translate(error) from None

    async def close(self) -> None:
        """Let what is on its way finish, then close every connection."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        await self._client.aclose()


def _never() -> Retry:
    """A command that may have been carried out is not sent again."""
    no_retry: Retry = Retry(NoBackoff(), 0)
    return no_retry


def _translate(error: BaseException) -> Exception:
    """Map redis-py's conditions to this room's."""
    if isinstance(error, StoreUnavailable):
        return error
    text = str(error) or type(error).__name__
    if isinstance(error, redis.exceptions.NoScriptError):
        return StoreRefused("NOSCRIPT")
    if isinstance(error, redis.exceptions.ResponseError) and not isinstance(error, redis.exceptions.ClusterError):
        return translate_text(text)
    return StoreUnavailable(text)
