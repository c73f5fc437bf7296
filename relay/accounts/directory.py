"""The directory of how owners' mail goes out: read from the store, kept in memory, exact at each message.

Promises:
- What a look answers is at least as new as the moment at which it was begun: a change that was answered before holds for it. A look
  costs one question for the owner's version, which leaves with what is written next, and which all looks share that were begun before
  it left; all is read only where the version is another.
- Of one owner there is one reading at a time, which all who need it share, and a record that has not changed is not opened again.
- An owner is said to be unknown (and then has nothing set) only after the store has proved to be ours.

Memory is bounded by the number of owners and by the octets of their records; who was not asked for longest is forgotten.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from relay.accounts import record
from relay.accounts.owner import owner_key
from relay.accounts.record import Unreadable
from relay.accounts.secrets import Key
from relay.accounts.setting import Outfit, Policy, Setting, Signer
from relay.store import fitness
from relay.store.client import Script, Store, StoreForeign

__all__ = ["Directory", "Look", "Unreadable"]

REMEMBERED = 10_000
"""Owners remembered."""
REMEMBERED_OCTETS = 64 << 20
"""Of their records, in all."""
AT_ONCE = 20
"""Records opened before others have their turn."""

_READ = Script.load("relay.accounts", "outfit.lua")
_EMPTY = Outfit()
_STALE = b"?"
"""No version is written so."""

Record = TypeVar("Record", Setting, Signer)
Opened = dict[bytes, tuple[bytes, Record]]
"""By domain as the store has it: the record as it was found, and opened."""


class _Known:
    """What is remembered of an owner."""

    __slots__ = ("fault", "ordinal", "outfit", "settings", "signers", "version", "weight")

    def __init__(self, ordinal: int, version: bytes | None, outfit: Outfit | None) -> None:
        """`outfit` None: it could not be read; `fault` then says what of it."""
        self.ordinal, self.version, self.outfit, self.fault = ordinal, version, outfit, ""
        self.weight = 0
        self.settings: Opened[Setting] = {}
        self.signers: Opened[Signer] = {}


class Look:
    """One question for an owner's version, under way."""

    __slots__ = ("_answer", "_directory", "_ordinal", "_owner_id")

    def __init__(self, directory: Directory, owner_id: str, answer: asyncio.Future[Any], ordinal: int) -> None:
        self._directory = directory
        self._owner_id = owner_id
        self._answer = answer
        self._ordinal = ordinal

    async def outfit(self) -> Outfit:
        """What the owner has; raises StoreUnavailable, StoreRefused or Unreadable."""
        try:
            status, version = await self._answer
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return await self._directory.outfit(self._owner_id)  # one of those it was shared with has given up
        return self._directory.current(self._owner_id, status, version) or await self._directory.read(
            self._owner_id, status, version, self._ordinal
        )


class Directory:
    """Looks up what owners have set."""

    def __init__(self, store: Store, key: Key) -> None:
        self._store = store
        self._key = key
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._weight = 0
        self._ordinal = 0
        self._readings: dict[str, asyncio.Task[_Known | Exception]] = {}

    def look(self, owner_id: str) -> Look:
        """Ask for an owner's version, in the same round trip as what is written next."""
        return Look(self, owner_id, self._store.share(b"HMGET", owner_key(owner_id), b"status", b"out"), self._ordinal)

    async def outfit(self, owner_id: str) -> Outfit:
        """All of an owner, as it is now."""
        return await self.look(owner_id).outfit()

    def known(self, owner_id: str) -> Outfit | None:
        """What was last read of an owner, without asking."""
        known = self._known.get(owner_id)
        return None if known is None or known.version is _STALE else known.outfit

    def expire(self, owner_id: str) -> None:
        """This process has changed something of an owner: what was read before is known no more."""
        if (known := self._known.get(owner_id)) is not None:
            known.version = _STALE

    # -- for looks -----------------------------------------------------------------------------------------------------------

    def current(self, owner_id: str, status: bytes | None, version: bytes | None) -> Outfit | None:
        """What is remembered of an owner, if it has this version."""
        known = self._known.get(owner_id)
        if known is None or known.version != version or status is None:
            return None
        self._known.move_to_end(owner_id)
        return known.outfit

    async def read(self, owner_id: str, status: bytes | None, version: bytes | None, ordinal: int) -> Outfit:
        """Read an owner until it has this version, or was read after the look with this ordinal."""
        if status is None:
            await self._check_store()
            self._forget(owner_id)
            return _EMPTY
        known = self._known.get(owner_id)
        if version is None and known is None:
            known = _Known(ordinal, None, _EMPTY)
            self._remember(owner_id, known)
        while known is None or (known.version != version and known.ordinal <= ordinal):
            task = self._readings.get(owner_id)
            if task is None:
                task = self._readings[owner_id] = asyncio.get_running_loop().create_task(self._read(owner_id))
            await asyncio.wait({task})
            found = task.result()
            if isinstance(found, Exception):
                raise type(found)(*found.args)
            known = found
        if known.outfit is None:
            raise Unreadable(known.fault)
        return known.outfit

    # -- reading -------------------------------------------------------------------------------------------------------------

    async def _read(self, owner_id: str) -> _Known | Exception:
        """Read an owner and remember it; what went wrong is told to all who wait."""
        self._ordinal += 1
        ordinal = self._ordinal
        try:
            status, version, *parts = await self._store.run(_READ, owner_key(owner_id))
            if status is None:
                await self._check_store()
                known = _Known(ordinal, None, _EMPTY)
            else:
                known = await self._open(owner_id, _Known(ordinal, version, None), *parts)
            self._remember(owner_id, known)
            return known
        except Exception as error:
            return error
        finally:
            del self._readings[owner_id]

    async def _open(self, owner_id: str, found: _Known, *parts: Sequence[bytes]) -> _Known:
        """Open the records of an owner, but those that are known already."""
        settings, signers, policy = parts
        before = self._known.get(owner_id) or found
        try:
            found.settings = await self._open_each(owner_id, "setting", settings, before.settings, record.open_setting)
            found.signers = await self._open_each(owner_id, "signer", signers, before.signers, record.open_signer)
            with _named("the policy"):
                allowed = record.open_policy(self._key, owner_id, policy[1]) if policy else Policy()
            with _named("the version"):
                version = int(found.version or 0)
            found.outfit = Outfit(
                version,
                {domain.decode(): opened for domain, (_, opened) in sorted(found.settings.items())},
                allowed,
                {domain.decode(): opened for domain, (_, opened) in sorted(found.signers.items())},
            )
        except Unreadable as error:
            found.settings, found.signers, found.fault = {}, {}, str(error)
        found.weight = sum(len(sealed) for opened in (found.settings, found.signers) for sealed, _ in opened.values())
        return found

    async def _open_each(
        self,
        owner_id: str,
        part: str,
        flat: Sequence[bytes],
        before: Opened[Record],
        open_one: Callable[[Key, str, str, bytes], Record],
    ) -> Opened[Record]:
        opened: Opened[Record] = {}
        fresh = 0
        for domain, sealed in zip(flat[::2], flat[1::2], strict=True):
            same = before.get(domain)
            if same is not None and same[0] == sealed:
                opened[domain] = same
                continue
            with _named(_place(part, domain)):
                opened[domain] = sealed, open_one(self._key, owner_id, domain.decode(), sealed)
            fresh += 1
            if fresh % AT_ONCE == 0:
                await asyncio.sleep(0)
        return opened

    def _remember(self, owner_id: str, known: _Known) -> None:
        self._forget(owner_id)
        self._known[owner_id] = known
        self._weight += known.weight
        while len(self._known) > 1 and (len(self._known) > REMEMBERED or self._weight > REMEMBERED_OCTETS):
            self._weight -= self._known.popitem(last=False)[1].weight

    def _forget(self, owner_id: str) -> None:
        if (known := self._known.pop(owner_id, None)) is not None:
            self._weight -= known.weight

    async def _check_store(self) -> None:
        if not await fitness.is_ours(self._store):
            raise StoreForeign("the store has lost its epoch")


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Name what cannot be read: one such record makes all of its owner unreadable, and who is to mend it must find it."""
    try:
        yield
    except Unreadable as error:
        raise Unreadable(f"{place} cannot be read: {error}") from None
    except ValueError:
        raise Unreadable(f"{place} cannot be read: it is damaged") from None


def _place(part: str, domain: bytes) -> str:
    return f"the {part} of {domain.decode('utf-8', 'backslashreplace')!r}" if domain else f"the default {part}"
