"""The store's client: one shared connection, no blind retries, and nothing sent twice on a guess.

Promises:
- A call either returns the store's answer or raises StoreUnavailable; then it may or may not have been carried out, and the caller
  decides (every script of the ledger can be repeated safely).
- No connection is used before the store behind it has shown the epoch this node belongs to: a store that comes back empty, or
  another store at the same address, never answers a call (StoreForeign). A Cluster is checked at start and on each miss instead.
- A script unknown to the server (restart, failover, new node) is sent whole; NOSCRIPT means that it did not run.
- What is called is on its way when the call returns, whether or not its answer is awaited.

What the calls mean is left to the rooms above.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

from relay.store.address import Address, Argument, Command
from relay.store.fault import StoreForeign, StoreRefused, StoreUnavailable
from relay.store.link import EPOCH_KEY, Link, Verify
from relay.store.wire import Waiter

if TYPE_CHECKING:
    from relay.store.cluster import Cluster

__all__ = ["EPOCH_KEY", "Argument", "Command", "Script", "Store", "StoreForeign", "StoreRefused", "StoreUnavailable", "Waiter"]

CLUSTER_SCHEME = "redis+cluster://"
PULSE = 2.0
"""Seconds of silence after which a subscription is asked whether it lives, and again until it is given up."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the digest the server knows it by."""

    text: str
    digest: str
    begin: Command = field(repr=False)
    """How the command that runs it begins: octets, so that no call encodes them anew."""

    @classmethod
    def of(cls, text: str) -> Script:
        """Make a script of its text."""
        digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        return cls(text, digest, (b"EVALSHA", digest.encode(), b"1"))

    @classmethod
    def load(cls, package: str, *names: str) -> Script:
        """Read a script from a package's files, joined in the order given."""
        folder = resources.files(package)
        return cls.of("\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names))


class Store:
    """One process's way to the store."""

    def __init__(self, url: str, timeout: float = 2.0, pulse: float = PULSE) -> None:
        """`timeout` bounds each call in seconds, `pulse` a subscription's silence; `redis+cluster://` names any node of a Cluster."""
        self.is_cluster = url.startswith(CLUSTER_SCHEME)
        self._pulse = pulse
        self._way = _cluster(url, timeout) if self.is_cluster else Link(Address(url), timeout)

    @property
    def epoch(self) -> bytes | None:
        """What every new connection must find; None before the first check (fitness.join sets it)."""
        return self._way.epoch

    @epoch.setter
    def epoch(self, value: bytes | None) -> None:
        self._way.epoch = value

    def expect(self, verify: Verify) -> None:
        """Let every new connection stand this too before it is used. A Cluster is checked at start only."""
        self._way.verify = verify

    def run(self, script: Script, key: Argument, *arguments: Argument) -> asyncio.Future[Any]:
        """Run a script on the keys of one hash tag; `key` is the only key it is told, the others it derives from it."""
        return self._way.call((*script.begin, key, *arguments), script.text)

    def tell(self, waiter: Waiter, script: Script, key: Argument, arguments: Sequence[Argument]) -> None:
        """Run a script as `run` does; the waiter hears the answer in the moment in which it is read, not a turn of the loop later."""
        self._way.send((*script.begin, key, *arguments), waiter, script.text)

    def share(self, *command: Argument) -> asyncio.Future[Any]:
        """Ask a question, as `command` does, unless the same one has still to leave: then its answer is awaited by all who asked.

        Whoever is cancelled while it awaits the future cancels it for all.
        """
        return self._way.share(command)

    def command(self, *command: Argument) -> asyncio.Future[Any]:
        """Send one command; await the future for its answer. Commands of the same moment leave together."""
        return self._way.call(command)

    async def many(self, commands: Sequence[Command]) -> list[Any]:
        """Send many commands together; answers in their order, the first error raised."""
        futures = [self._way.call(command) for command in commands]
        answers = await asyncio.gather(*futures, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return list(answers)

    def subscribe(self, channel: str) -> AsyncIterator[str | None]:
        """Yield None once the subscription stands, then each message; raises StoreUnavailable when it is lost."""
        return self._way.subscribe(channel, self._pulse)

    async def close(self) -> None:
        """Let what is on its way finish, then close every connection."""
        await self._way.close()


def _cluster(url: str, timeout: float) -> Cluster:
    # Here, because the library that knows Clusters is a sixth of a worker's memory.
    from relay.store.cluster import Cluster

    return Cluster("redis://" + url.removeprefix(CLUSTER_SCHEME), timeout)
