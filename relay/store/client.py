"""The store's client: one shared connection, no blind retries, and nothing sent twice on a guess.

Promises:
- A call either returns the store's answer or raises StoreUnavailable; then it may or may not have been carried out, and the caller
  decides (every script of the ledger can be repeated safely).
- No connection is used before the store behind it has shown the epoch this node belongs to: a store that comes back empty, or
  another store at the same address, never answers a call (StoreForeign). A Cluster is checked at start and on each miss instead.
- A script unknown to the server (restart, failover, new node) is sent whole; NOSCRIPT means that it did not run.

One server is spoken to over `link`, a Cluster and subscriptions by redis-py. What the calls mean is left to the rooms above.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import resources
from typing import Any

import redis.exceptions
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from relay.store.fault import StoreForeign, StoreRefused, StoreUnavailable, translate_text
from relay.store.link import EPOCH_KEY, Address, Argument, Command, Link, Verify, fail, show

__all__ = ["EPOCH_KEY", "Argument", "Command", "Script", "Store", "StoreForeign", "StoreRefused", "StoreUnavailable"]

CLUSTER_SCHEME = "redis+cluster://"
PULSE = 2.0
"""Seconds of silence after which a subscription is asked whether it lives, and again until it is given up."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the digest the server knows it by."""

    text: str
    digest: str

    @classmethod
    def of(cls, text: str) -> Script:
        """Make a script of its text."""
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())

    @classmethod
    def load(cls, package: str, *names: str) -> Script:
        """Read a script from a package's files, joined in the order given."""
        folder = resources.files(package)
        return cls.of("\n".join(folder.joinpath(name).read_text() for name in names))


class Store:
    """One process's way to the store."""

    def __init__(self, url: str, timeout: float = 2.0) -> None:
        """`timeout` bounds each call in seconds; a `redis+cluster://` URL names any node of a Cluster."""
        self.is_cluster = url.startswith(CLUSTER_SCHEME)
        self._timeout = timeout
        self._tasks: set[asyncio.Task[None]] = set()
        no_retry: Retry = Retry(NoBackoff(), 0)
        self._cluster: Any = None
        if self.is_cluster:
            plain = "redis://" + url.removeprefix(CLUSTER_SCHEME)
            self._cluster = RedisCluster.from_url(plain, socket_timeout=timeout, socket_connect_timeout=timeout, retry=no_retry)
            self._epoch: bytes | None = None
            self._starting = asyncio.Lock()
            return
        self._link = Link(Address(url), timeout)
        self._subscriber = Redis.from_url(
            url, socket_timeout=None, socket_connect_timeout=timeout, retry=no_retry, redis_connect_func=self._greet,
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )  # fmt: skip

    @property
    def epoch(self) -> bytes | None:
        """What every new connection must find; None before the first check (fitness.join sets it)."""
        return self._epoch if self.is_cluster else self._link.epoch

    @epoch.setter
    def epoch(self, value: bytes | None) -> None:
        if self.is_cluster:
            self._epoch = value
        else:
            self._link.epoch = value

    def expect(self, verify: Verify) -> None:
        """Let every new connection stand this too before it is used. A Cluster is checked at start only."""
        if not self.is_cluster:
            self._link.verify = verify

    async def _greet(self, connection: Any) -> None:
        """Make a subscriber's connection prove whose store it leads to."""
        await connection.on_connect()
        if self.epoch is not None:
            await connection.send_command("GET", EPOCH_KEY)
            found = await connection.read_response()
            if found != self.epoch:
                await connection.disconnect()  # redis-py would keep it for the next subscription
                raise StoreForeign(f"epoch {show(found)} instead of {show(self.epoch)}")

    # -- calls ---------------------------------------------------------------------------------------------------------------

    async def run(self, script: Script, key: str, *arguments: Argument) -> Any:
        """Run a script on the keys of one hash tag; `key` is the only key it is told, the others it derives from it."""
        try:
            return await self.command("EVALSHA", script.digest, 1, key, *arguments)
        except StoreRefused as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
        return await self.command("EVAL", script.text, 1, key, *arguments)

    def command(self, *command: Argument) -> asyncio.Future[Any]:
        """Send one command; await the future for its answer. Commands of the same moment leave together."""
        if not self.is_cluster:
            return self._link.call(command)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._ask_cluster(command, future))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return future

    async def _ask_cluster(self, command: Command, future: asyncio.Future[Any]) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                async with self._starting:  # redis-py's Cluster client must not be started by many calls at once
                    await self._cluster.initialize()
                answer = await self._cluster.execute_command(*command)
        except Exception as error:  # redis-py's Cluster client raises more than its own errors when nodes go
            fail(future, _translate(error))
        else:
            if not future.done():
                future.set_result(answer)

    async def many(self, commands: Sequence[Command]) -> list[Any]:
        """Send many commands together; answers in their order, the first error raised."""
        futures = [self.command(*command) for command in commands]
        answers = await asyncio.gather(*futures, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return list(answers)

    # -- changes -------------------------------------------------------------------------------------------------------------

    async def publish(self, channel: str, message: str) -> None:
        """Tell every subscriber of `channel`."""
        await self.command("PUBLISH", channel, message)

    async def subscribe(self, channel: str) -> AsyncIterator[str | None]:
        """Yield None once the subscription stands, then each message; raises StoreUnavailable when it is lost."""
        async with self._any_node() if self.is_cluster else nullcontext(self._subscriber) as client, client.pubsub() as pubsub:
            try:
                await pubsub.subscribe(channel)
                is_asked = False
                while True:
                    message = await pubsub.get_message(timeout=PULSE)
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

    def _any_node(self) -> Any:
        """A plain client to one node: messages published in a Cluster reach every node's subscribers."""
        node = self._cluster.get_default_node()
        return Redis(host=node.host, port=int(node.port), retry=Retry(NoBackoff(), 0))

    async def close(self) -> None:
        """Let what is on its way finish, then close every connection."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        if self.is_cluster:
            await self._cluster.aclose()
        else:
            await self._link.close()
            await self._subscriber.aclose()


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
