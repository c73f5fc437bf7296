"""The registry: looks up owners and users, and whether a secret is theirs.

Promises:
- Who is found costs one round trip. Who is not found is said to be unknown only after the store has proved to be ours: a store that
  came back empty raises StoreForeign instead, so it never makes a client's good password bad.
- A password that was right before and is given again is never let in by memory: memory says how the throttle is asked, and spares a
  slow hash whose stored form is still the same. A wrong one is not remembered.
- A wrong password and an unknown name take the same steps and the same time; so do an unknown user and another owner's.
- Listings are read in pages; an index entry without its account is skipped, and removed once it is too old to be one in the making.

Writing is left to provisioning.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from hashlib import blake2b
from typing import NamedTuple

from relay.accounts import owner as owners
from relay.accounts import user as users
from relay.accounts.owner import OWNERS, Owner, is_owner_id, owner_key, parse_owner, users_key
from relay.accounts.secrets import Key, SlowHash, is_kept_of
from relay.accounts.throttle import Attempt
from relay.accounts.user import Entry, User, is_generated_name, parse_user, user_key
from relay.store import fitness
from relay.store.client import Script, Store, StoreForeign

PAGE = 500
GRACE = 3600.0
"""Seconds after which an index entry without an account is not one in the making."""
REMEMBERED = 10_000
"""How many passwords a process remembers to have been right, by their keyed hashes."""

_UNLIST = Script.load("relay.accounts", "unlist.lua")
_NO_HASH = bytes(32)

Row = list[bytes | None]


class _Known(NamedTuple):
    """A password that was right."""

    mark: bytes
    row: Row
    """What the store had of the user then."""
    user: User | None


_NOBODY = _Known(_NO_HASH, [], None)


class Registry:
    """Looks accounts up. Every call raises StoreUnavailable when the store does not answer."""

    def __init__(self, store: Store, key: Key, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives seconds since 1970."""
        self._store = store
        self._key = key
        self._clock = clock
        self._slow = SlowHash()
        self._salt = secrets.token_bytes(32)
        self._verified: OrderedDict[str, _Known] = OrderedDict()

    # -- users ---------------------------------------------------------------------------------------------------------------

    async def find_user(self, name: str, owner_id: str | None = None) -> User | None:
        """Look a user up; with an `owner_id`, only among that owner's."""
        row: Row = await self._store.command("HMGET", user_key(name), *users.FIELDS)
        user = parse_user(name, row)
        if user is None or owner_id not in (None, user.owner_id):
            await self._check_store()
            return None
        return user

    async def find_entry(self, name: str, owner_id: str | None = None) -> Entry | None:
        """Look a user up as a listing shows it; with an `owner_id`, only among that owner's."""
        row: Row = await self._store.command("HMGET", user_key(name), *users.LISTED)
        user = parse_user(name, row)
        if user is None or owner_id not in (None, user.owner_id):
            await self._check_store()
            return None
        return self._entry(name, row)

    async def verify_user(self, name: str, password: str, attempt: Attempt | None = None) -> User | None:
        """The user whose name and password these are, enabled or not; None if they are nobody's, or the attempt is not admitted."""
        mark = self._mark(name, password)
        known = self._verified.get(name, _NOBODY)
        is_known = hmac.compare_digest(known.mark, mark)
        if attempt is not None and is_known:
            # Presumably right: what was found before says how to ask, the store's answer alone who it is.
            found, on_record = self._store.command("HMGET", user_key(name), *users.CREDENTIALS), attempt.look()
            user = self._known_again(name, known, await found)
            if user is None:
                self._verified.pop(name, None)  # from now on it is a guess like any other
            elif not await on_record or await attempt.confirmed():
                return user
            elif attempt.wait:
                return None
        row = await self._read(user_key(name), users.CREDENTIALS, attempt)
        if row is None:
            return None
        user = parse_user(name, row)
        if await self._is_password(name, password, row, known if is_known else _NOBODY) and user is not None:
            self._remember(name, _Known(mark, row, user))
            return user
        await self._check_store()
        return None

    async def _is_password(self, name: str, password: str, row: Row, known: _Known) -> bool:
        """Whether a password is the one of a row; `known` is what was found when it was right before."""
        is_slow, stored = row[-2] == b"s", row[-1] or _NO_HASH
        is_match = is_kept_of(stored, self._key.hash_password(name, password)) and not is_slow
        if is_match or is_generated_name(name):
            return is_match
        # A name that somebody brought may have a slow hash, so every failure with such a name takes as long. (A name of the
        # generated form never has one: provisioning refuses to import it.)
        if is_slow and row[-2:] == known.row[-2:]:  # a slow hash would cap the rate of connections
            return True
        return await self._slow.matches(password, stored if is_slow else SlowHash.NOBODY) and is_slow

    def _mark(self, name: str, password: str) -> bytes:
        """What a password is known by in this process."""
        return blake2b(f"{name}\0{password}".encode("utf-8", "surrogatepass"), key=self._salt, digest_size=32).digest()

    def _known_again(self, name: str, known: _Known, row: Row) -> User | None:
        """The user of a password that was right before, if it still is by what the store says now."""
        if row == known.row:
            return known.user
        user = parse_user(name, row)
        if user is not None and row[-2:] == known.row[-2:]:
            self._remember(name, _Known(known.mark, row, user))
            return user
        return None

    def _remember(self, name: str, known: _Known) -> None:
        self._verified[name] = known
        if len(self._verified) > REMEMBERED:
            self._verified.popitem(last=False)

    async def user_pages(self, owner_id: str) -> AsyncIterator[list[Entry]]:
        """Yield an owner's users in the order of their creation, a page at a time; no page is empty."""
        async for page in self._pages(users_key(owner_id)):
            rows = await self._store.many([("HMGET", user_key(name), *users.LISTED) for name, _ in page])
            entries = [self._entry(name, row) for (name, _), row in zip(page, rows, strict=True)]
            found = [entry for entry in entries if entry is not None and entry.user.owner_id == owner_id]
            if len(found) < len(page):
                names = {entry.user.name for entry in found}
                await self._repair(users_key(owner_id), [item for item in page if item[0] not in names])
            if found:
                yield found

    def _entry(self, name: str, row: Row) -> Entry | None:
        user = parse_user(name, row)
        if user is None:
            return None
        sealed = row[-1]
        return Entry(user, row[1] == b"E", self._key.unseal(name, sealed) if sealed else None)

    # -- owners --------------------------------------------------------------------------------------------------------------

    async def find_owner(self, owner_id: str) -> Owner | None:
        """Look an owner up."""
        row: Row = await self._store.command("HMGET", owner_key(owner_id), *owners.FIELDS)
        owner = parse_owner(owner_id, row)
        if owner is None:
            await self._check_store()
        return owner

    async def verify_owner(self, owner_id: str, token: str, attempt: Attempt | None = None) -> Owner | None:
        """The owner whose id and token these are, enabled or not; None if they are nobody's, or the attempt is not admitted."""
        row = await self._read(owner_key(owner_id), (*owners.FIELDS, "token"), attempt)
        if row is None:
            return None
        owner = parse_owner(owner_id, row)
        is_match = hmac.compare_digest(self._key.hash_token(owner_id, token), row[-1] or _NO_HASH)
        if is_match and owner is not None and is_owner_id(owner_id):
            return owner
        await self._check_store()
        return None

    async def owner_pages(self) -> AsyncIterator[list[Owner]]:
        """Yield all owners in the order of their creation, a page at a time; no page is empty."""
        async for page in self._pages(OWNERS):
            rows = await self._store.many([("HMGET", owner_key(owner_id), *owners.FIELDS) for owner_id, _ in page])
            parsed = {owner_id: parse_owner(owner_id, row) for (owner_id, _), row in zip(page, rows, strict=True)}
            await self._repair(OWNERS, [item for item in page if parsed[item[0]] is None])
            if found := [owner for owner in parsed.values() if owner is not None]:
                yield found

    async def _read(self, key: str, fields: Sequence[str], attempt: Attempt | None) -> Row | None:
        """Read fields in the same round trip in which an attempt is admitted; None if it is not."""
        answer = self._store.command("HMGET", key, *fields)
        if attempt is not None:
            if not await attempt.admitted():
                return None
            if attempt.was_in_line:  # a secret may have been reset meanwhile
                answer = self._store.command("HMGET", key, *fields)
        row: Row = await answer
        return row

    # -- pages and misses ----------------------------------------------------------------------------------------------------

    async def _pages(self, index: str) -> AsyncIterator[list[tuple[str, float]]]:
        """Yield (member, score) in pages of an index that may change meanwhile: nothing that stays in it is left out."""
        score = "-inf"
        seen: set[str] = set()  # the members with this very score
        is_empty = True
        while True:
            raw = await self._store.command("ZRANGE", index, score, "+inf", "BYSCORE", "LIMIT", 0, PAGE + len(seen), "WITHSCORES")
            items = [item for item in _pairs(raw) if item[0] not in seen]
            if not items:
                break
            is_empty = False
            last = items[-1][1]
            again = {member for member, found in items if found == last}
            seen = again | seen if score == repr(last) else again
            score = repr(last)
            yield items
        if is_empty:
            await self._check_store()

    async def _repair(self, index: str, dangling: Sequence[tuple[str, float]]) -> None:
        oldest = (self._clock() - GRACE) * 1000
        stale = [(member, score) for member, score in dangling if score < oldest]
        await asyncio.gather(*(self._store.run(_UNLIST, index, repr(score), member) for member, score in stale))

    async def _check_store(self) -> None:
        if not await fitness.is_ours(self._store):
            raise StoreForeign("the store has lost its epoch")


def _pairs(raw: Sequence[object]) -> list[tuple[str, float]]:
    """Read the answer to WITHSCORES, flat (RESP2) or in pairs (RESP3)."""
    flat: list[object] = []
    for item in raw:
        flat.extend(item if isinstance(item, list | tuple) else [item])
    return [(_text(flat[i]), float(_text(flat[i + 1]))) for i in range(0, len(flat), 2)]


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
