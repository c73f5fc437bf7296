"""The store's client: calls made in the same moment share one pipeline, and nothing is ever sent twice on a guess.

Promises:
- A call either returns the store's answer or raises StoreUnavailable; then it may or may not have been carried out, and the caller
  decides (every script of the ledger can be repeated safely). redis-py's own retries, which repeat non-idempotent commands after
  a lost reply, are off.
- No connection is used before the store behind it has shown the epoch this node belongs to: a store that comes back empty, or
  another store at the same address, never answers a call (StoreForeign). A Cluster is checked at start and on each miss instead.
- A script unknown to the server (restart, failover, new node) is loaded and run again; NOSCRIPT means that it did not run.

What the calls mean is left to the rooms above.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from importlib import resources
from typing import Any

import redis.exceptions
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

EPOCH_KEY = b"relay:epoch"
CLUSTER_SCHEME = "redis+cluster://"
Argument = bytes | str | int
Command = tuple[Argument, ...]


class StoreUnavailable(Exception):
    """The store did not answer in time; what was asked may or may not have been done."""


class StoreForeign(StoreUnavailable):
    """The store that answers is not the one this node's accounts and ledger live in: it came back empty, or it is another."""


class StoreRefused(Exception):
    """The store answered with an error of its own; the text is its. A script that meets one has written nothing."""


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

    def __init__(self, url: str, timeout: float = 2.0, lanes: int = 2) -> None:
        """`timeout` bounds each call in seconds; `lanes` is how many batches may be on their way at once."""
        self.epoch: bytes | None = None
        """What every new connection must find; None before the first check (fitness.join sets it)."""
        self.is_cluster = url.startswith(CLUSTER_SCHEME)
        self._timeout = timeout
        self._lanes = lanes
        self._flying = 0
        self._pending: list[tuple[Command, asyncio.Future[Any]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        no_retry: Retry = Retry(NoBackoff(), 0)
        self._cluster: Any = None
        self._redis: Any = None
        if self.is_cluster:
            plain = "redis://" + url.removeprefix(CLUSTER_SCHEME)
            self._cluster = RedisCluster.from_url(plain, socket_timeout=timeout, socket_connect_timeout=timeout, retry=no_retry)
        else:
            self._redis = Redis.from_url(
                url, socket_timeout=None, socket_connect_timeout=timeout, retry=no_retry, redis_connect_func=self._greet,
                maint_notifications_config=MaintNotificationsConfig(enabled=False),
            )  # fmt: skip

    async def _greet(self, connection: Any) -> None:
        """Make a new connection prove whose store it leads to, before any call uses it."""
        await connection.on_connect()
        if self.epoch is not None:
            await connection.send_command("GET", EPOCH_KEY)
            found = await connection.read_response()
            if found != self.epoch:
                raise StoreForeign(f"epoch {_show(found)} instead of {_show(self.epoch)}")

    # -- calls ---------------------------------------------------------------------------------------------------------------

    async def run(self, script: Script, key: str, *arguments: Argument) -> Any:
        """Run a script on the keys of one hash tag; `key` is the only key it is told, the others it derives from it."""
        command: Command = ("EVALSHA", script.digest, 1, key, *arguments)
        try:
            return await self.command(*command)
        except StoreRefused as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
        return await self.command("EVAL", script.text, 1, key, *arguments)

    def command(self, *command: Argument) -> asyncio.Future[Any]:
        """Send one command with the next batch; await the future for its answer."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending.append((command, future))
        if self._flying < self._lanes:
            self._flying += 1
            task = asyncio.create_task(self._fly())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return future

    async def many(self, commands: Sequence[Command]) -> list[Any]:
        """Send many commands in one batch; answers in their order, the first error raised."""
        futures = [self.command(*command) for command in commands]
        answers = await asyncio.gather(*futures, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return list(answers)

    async def _fly(self) -> None:
        """One lane: take all that waits, send it as one pipeline, hand out the answers, until nothing waits."""
        try:
            while self._pending:
                batch, self._pending = self._pending, []
                await self._send(batch)
        finally:
            self._flying -= 1

    async def _send(self, batch: list[tuple[Command, asyncio.Future[Any]]]) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                answers = await self._execute([command for command, _ in batch])
        except (redis.exceptions.RedisError, OSError, TimeoutError, StoreUnavailable) as error:
            answers = [_translate(error)] * len(batch)
        except BaseException:
            for _, future in batch:
                future.cancel()
            raise
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                # A new instance each: one exception raised in many tasks would gather all their tracebacks.
                error_type = type(translated := _translate(answer))
                future.set_exception(error_type(str(translated)))
                future.exception()  # an abandoned call is nobody's error
            else:
                future.set_result(answer)

    async def _execute(self, commands: list[Command]) -> list[Any]:
        if self._cluster is not None:
            calls = [self._cluster.execute_command(*command) for command in commands]
            return list(await asyncio.gather(*calls, return_exceptions=True))
        if len(commands) == 1:
            return [await self._redis.execute_command(*commands[0])]
        async with self._redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            return list(await pipeline.execute(raise_on_error=False))

    # -- changes -------------------------------------------------------------------------------------------------------------

    async def publish(self, channel: str, message: str) -> None:
        """Tell every subscriber of `channel`."""
        await self.command("PUBLISH", channel, message)

    async def subscribe(self, channel: str) -> AsyncIterator[str | None]:
        """Yield None once the subscription stands, then each message; raises StoreUnavailable when it is lost."""
        client = self._redis if self._cluster is None else self._any_node()
        async with client.pubsub() as pubsub:
            try:
                await pubsub.subscribe(channel)
                async with aclosing(pubsub.listen()) as messages:
                    async for message in messages:
                        if message["type"] == "subscribe":
                            yield None
                        elif message["type"] == "message":
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
        if self._cluster is not None:
            await self._cluster.aclose()
        else:
            await self._redis.aclose()


def _translate(error: BaseException) -> Exception:
    """Map redis-py's conditions to this room's at its border."""
    if isinstance(error, StoreUnavailable | StoreRefused):
        return error
    if isinstance(error, TimeoutError | OSError | redis.exceptions.ConnectionError | redis.exceptions.TimeoutError):
        return StoreUnavailable(str(error) or type(error).__name__)
    text = str(error)
    # Loading its data, out of memory, not persisting, read-only replica, cluster down: it cannot do its work now.
    if isinstance(error, redis.exceptions.ClusterError) or text.startswith(
        ("BUSY ", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "OOM", "READONLY", "TRYAGAIN", "Background", "No connection")
    ):
        return StoreUnavailable(text)
    if isinstance(error, redis.exceptions.NoScriptError):
        return StoreRefused("NOSCRIPT")
    return StoreRefused(f"{type(error).__name__}: {text}")


def _show(value: bytes | None) -> str:
    return "none" if value is None else value.decode("ascii", "replace")
