"""The throttle: guessing passwords and tokens, counted in the store by the address it comes from.

Promises: failures are counted for an address together with a name, and for an address alone; beyond a limit the address has to
wait, twice as long with each further failure. All workers and nodes count together. A name is never barred for an address that
did not fail itself, so nobody can lock another out. IPv6 is counted by /64, which is what one customer is given.

Attempts that are under way at the same moment are all checked before the first of them fails.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import math
from typing import Protocol

from relay.store.client import Script, Store

_FAILED = Script.load("relay.accounts", "throttle.lua")


class Limits(Protocol):
    """The settings of a throttle."""

    @property
    def failures_per_user(self) -> int:
        """Failures of one address with one name until it has to wait."""

    @property
    def failures_per_address(self) -> int:
        """Failures of one address with any names until it has to wait."""

    @property
    def window_seconds(self) -> int:
        """For how long a failure counts, and the longest wait."""


class Throttle:
    """Counts failures. Every call is one round trip and raises StoreUnavailable."""

    def __init__(self, store: Store, limits: Limits) -> None:
        self._store = store
        self._limits = limits

    async def check(self, address: str, name: str) -> int:
        """How many seconds this address has to wait before it may try this name; 0 is none."""
        key, pair = _key(address), _pair(name)
        waits = await asyncio.gather(self._store.command("PTTL", f"{key}{pair}:bar"), self._store.command("PTTL", f"{key}:bar"))
        longest: int = max(0, *waits)
        return math.ceil(longest / 1000)

    async def failed(self, address: str, name: str) -> None:
        """Count a failure."""
        limits = self._limits
        counters = (_pair(name), limits.failures_per_user, "", limits.failures_per_address)
        await self._store.run(_FAILED, _key(address), limits.window_seconds * 1000, *counters)

    async def succeeded(self, address: str, name: str) -> None:
        """Forget the failures of this address with this name; those of the address stay."""
        await self._store.command("DEL", _key(address) + _pair(name))


def _key(address: str) -> str:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "{t:local}"  # a unix socket has no address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return f"{{t:{ipaddress.ip_network((found, 64), strict=False).network_address}}}"
        found = found.ipv4_mapped
    return f"{{t:{found}}}"


def _pair(name: str) -> str:
    """A name as a suffix of fixed size: what a guesser writes never becomes part of a key."""
    return ":" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
