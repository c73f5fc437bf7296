"""Provisioning: the only writer of accounts.

Promises:
- When a call returns that sets a limit, a status of disabled or a new password, or that removes, no message that was let in before
  can be taken any more: each hold that was open is settled or was checked anew. So it is for a call that repeats another or gives
  a little more, for that other may still be waiting. Where holds outlast the wait, the journal says so (`change_overtaken`). Each
  change is published, so that workers act on connections that are open.
- An account is in its index before it exists, so a listing never misses one; what a crash leaves behind is an index entry alone.
- A name or an owner id is never given twice, and a user that was deleted is never brought back by a change that comes late.
- A user has its owner's status from the start and always: it is made disabled, gets the status that was read once it could be
  found, unless who changed it since was faster, and whoever writes a copy of a change last has read it anew since.
- A session of a user that was deleted never becomes one of a user of the same name that is made later.
- Who is not found is said to be unknown only after the store has proved to be ours; what cannot be a name is looked for all the same.

Who may ask for a change is left to the callers, except that a change can be confined to one owner's users.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from secrets import randbits
from typing import Any, Final

from relay.accounts import secrets
from relay.accounts.owner import OWNERS, PROFILES, Owner, is_owner_id, owner_key, users_key
from relay.accounts.registry import Registry
from relay.accounts.secrets import Key, SlowHash, is_generated_password
from relay.accounts.user import IN_THE_MAKING, User, is_generated_name, is_limit, parse_user, user_key, write_limit
from relay.journal import Journal
from relay.mail.address import is_user_name
from relay.quota.ledger import CHANGES, Ledger, read_holds
from relay.store import fitness
from relay.store.client import Argument, Script, Store, StoreForeign

ATTEMPTS = 10
"""How many generated names are tried; each is free with a chance of nearly one."""
SLICES = 64
"""How many waits for holds run side by side when an owner with many users is disabled."""
MAX_PASSWORD = 128
MAX_OWNER_NAME = 64
NOBODY = "-"
"""Stands for an owner id or a name without the form of one, which may not even be text, so that it costs the same work."""

_CREATE, _JOIN, _EDIT, _DELETE, _AMEND, _ENLIST, _UNLIST = (
    Script.load("relay.accounts", f"{name}.lua") for name in ("create", "join", "edit", "delete", "amend", "enlist", "unlist")
)


class Keep(Enum):
    """The wish to leave a limit as it is: None would be unlimited."""

    KEEP = 0


KEEP: Final = Keep.KEEP
Limit = int | None
Holds = dict[str, int]
"""Open holds, as the ledger shows them."""


class NotDone(Exception):
    """A change that cannot be made; nothing was changed. The text is one line and names no secret."""


class UnknownOwner(NotDone):
    """There is no such owner."""


class UnknownUser(NotDone):
    """There is no such user, or not among that owner's."""


class NameTaken(NotDone):
    """There is a user of that name, whoever's."""


class BadValue(NotDone):
    """A value that no account may have."""


class Provisioning:
    """Makes and changes accounts. Every call raises StoreUnavailable when it is not known whether it was carried out."""

    def __init__(
        self,
        store: Store,
        key: Key,
        registry: Registry,
        ledger: Ledger,
        journal: Journal,
        *,
        is_recoverable: bool = True,
        change_wait: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`is_recoverable` keeps sealed copies of passwords; `change_wait` is in seconds; `clock` gives seconds since 1970."""
        self._store = store
        self._key = key
        self._registry = registry
        self._ledger = ledger
        self._journal = journal
        self._is_recoverable = is_recoverable
        self._change_wait = change_wait
        self._clock = clock
        self._slow = SlowHash()
        self._last_score = 0.0

    # -- owners --------------------------------------------------------------------------------------------------------------

    async def add_owner(self, name: str, profile: str = "") -> tuple[Owner, str]:
        """Make an owner; returns it and its token, which is not kept and cannot be had again."""
        if not 1 <= len(name.encode("utf-8", "surrogatepass")) <= MAX_OWNER_NAME or not name.isprintable():
            raise BadValue(f"an owner's name has 1 to {MAX_OWNER_NAME} printable octets")
        if profile not in PROFILES:
            raise BadValue(f"unknown profile {profile!r}; known: {', '.join(filter(None, PROFILES))}")
        token = secrets.new_token()
        for _ in range(ATTEMPTS):
            owner = Owner(secrets.new_owner_id(), name, True, profile, int(self._clock()))
            hashed = self._key.hash_token(owner.owner_id, token)
            fields = ("name", name, "status", "E", "token", hashed, "profile", profile, "created", owner.created)
            await self._store.command("ZADD", OWNERS, "NX", repr(self._next_score()), owner.owner_id)
            if await self._store.run(_CREATE, owner_key(owner.owner_id), *fields) is None:
                self._journal.event("owner_added", owner=owner.owner_id)
                return owner, token
        raise NameTaken("no free owner id was found")

    async def rotate_token(self, owner_id: str) -> str:
        """Give an owner a new token; the old one is void at once."""
        token = secrets.new_token()
        await self._amend(owner_id, "token", self._key.hash_token(owner_id, token))
        self._journal.event("owner_token_rotated", owner=owner_id)
        return token

    async def set_owner_status(self, owner_id: str, is_enabled: bool) -> int:
        """Enable or disable an owner and all its users; returns how many there are, once it holds for each of them."""
        await self._amend(owner_id, "status", _status(is_enabled))
        self._journal.event("owner_enabled" if is_enabled else "owner_disabled", owner=owner_id)
        status = _status(is_enabled)
        while True:
            held = await self._copy_status(owner_id, status)
            # Another command may have changed it while the pages were written: who writes last must have read it since.
            found = await self._owner_status(owner_id)
            if found == status:
                break
            status = found
        if status == "D":
            await self._settle_down(held)
        return len(held)

    async def _amend(self, owner_id: str, field: str, value: Argument) -> None:
        if not await self._store.run(_AMEND, owner_key(owner_id), field, value):
            raise await self._unknown_owner()

    async def _copy_status(self, owner_id: str, status: str) -> dict[str, Holds]:
        """Write an owner's status to each of its users; returns them with their open holds."""
        held: dict[str, Holds] = {}
        async for page in self._registry.user_pages(owner_id):
            names = [entry.user.name for entry in page]
            edits = await asyncio.gather(*(self._edit(name, owner_id, "ostatus", status) for name in names))
            held |= {name: edit[1] if edit else {} for name, edit in zip(names, edits, strict=True)}
        return held

    async def _owner_status(self, owner_id: str) -> str:
        found: bytes | None = await self._store.command("HGET", owner_key(owner_id), "status")
        if found is None:
            raise await self._unknown_owner()
        return found.decode()

    # -- users: making -------------------------------------------------------------------------------------------------------

    async def add_user(self, owner_id: str, hourly: Limit, total: Limit) -> tuple[User, str]:
        """Make a user with a generated name and password; returns both."""
        _check_limits(hourly, total)
        password = secrets.new_password()
        for _ in range(ATTEMPTS):
            name = secrets.new_user_name()
            user = await self._create(owner_id, name, hourly, total, *self._keyed(name, password))
            if user is not None:
                self._journal.event("user_added", user=name, owner=owner_id)
                return user, password
        raise NameTaken("no free user name was found")

    async def import_user(self, owner_id: str, name: str, password: str, hourly: Limit, total: Limit) -> User:
        """Make a user whose name and password were made elsewhere."""
        check_import(name, password, hourly, total)
        if is_generated_password(password):
            secret = self._keyed(name, password)
        else:
            seal = (("seal", self._key.seal(name, password)),) if self._is_recoverable else ()
            secret = (("kind", "s"), ("hash", await self._slow.make(password)), *seal)
        user = await self._create(owner_id, name, hourly, total, *secret)
        if user is None:
            raise NameTaken(f"user {name} exists already")
        self._journal.event("user_imported", user=name, owner=owner_id)
        return user

    async def _create(self, owner_id: str, name: str, hourly: Limit, total: Limit, *secret: tuple[str, Argument]) -> User | None:
        """Write a user, its index entry first; None if the name is taken."""
        score = repr(self._next_score())
        if await self._store.run(_ENLIST, owner_key(owner_id), score, name) is None:
            raise await self._unknown_owner()
        generation = randbits(48)  # one that no user of this name ever had: old sessions must not become this one's
        fields: list[tuple[str, Argument]] = [
            ("owner", owner_id), ("status", "E"), ("ostatus", IN_THE_MAKING), ("gen", generation),
            ("hourly", write_limit(hourly)), ("total", write_limit(total)), *secret,
        ]  # fmt: skip
        holder = await self._store.run(_CREATE, user_key(name), *(part for field in fields for part in field))
        if holder is not None:
            if holder != owner_id.encode():
                await self._store.run(_UNLIST, users_key(owner_id), score, name)
            return None
        return await self._join(User(name, owner_id, True, generation, hourly, total))

    async def _join(self, user: User) -> User:
        """Give a user in the making its owner's status; returns the user with the one it has.

        From before the status is read, a command that changes it finds the user. What it writes stays.
        """
        status = await self._owner_status(user.owner_id)
        written = await self._store.run(_JOIN, user_key(user.name), user.generation, status)
        return replace(user, is_enabled=written == b"E")

    def _keyed(self, name: str, password: str) -> tuple[tuple[str, Argument], ...]:
        seal = self._key.seal(name, password) if self._is_recoverable else b""
        kept = ("hash", self._key.hash_password(name, password)[: secrets.KEPT])
        return (kept, ("seal", seal)) if seal else (kept,)

    def _next_score(self) -> float:
        """Milliseconds since 1970, a little later each time, so that an index keeps the order of creation."""
        self._last_score = max(round(self._clock() * 1000, 2), round(self._last_score + 0.01, 2))
        return self._last_score

    # -- users: changing -----------------------------------------------------------------------------------------------------

    async def edit_user(
        self,
        name: str,
        *,
        owner_id: str | None = None,
        hourly: Limit | Keep = KEEP,
        total: Limit | Keep = KEEP,
        is_enabled: bool | None = None,
    ) -> User:
        """Change limits and status; what is not given stays. With an `owner_id`, only that owner's user."""
        changes: list[Argument] = []
        for field, limit in (("hourly", hourly), ("total", total)):
            if not isinstance(limit, Keep):
                _check_limits(limit)
                changes += [field, write_limit(limit)]
        if is_enabled is not None:
            changes += ["status", _status(is_enabled)]
        after, held = await self._edit_known(name, owner_id, *changes)
        if is_enabled and not after.is_enabled:
            after = await self._join(after)  # a crash may have left it in the making
        if changes:
            limits = {"hourly": after.hourly, "total": after.total}
            self._journal.event("user_edited", user=name, owner=after.owner_id, enabled=after.is_enabled, **limits)
        # Whether it is less than before says nothing: another edit that took more may still be waiting.
        has_limit = any(isinstance(limit, int) for limit in (hourly, total))
        if changes and (has_limit or not after.is_enabled):
            await self._settle_down({name: held})
        return after

    async def reset_password(self, name: str, *, owner_id: str | None = None) -> str:
        """Give a user a new generated password; the old one is void at once, on open connections too."""
        password = secrets.new_password()
        fields: dict[str, Argument] = {"kind": "h", "seal": "", **dict(self._keyed(_name_of(name), password))}
        after, held = await self._edit_known(name, owner_id, *(part for field in fields.items() for part in field), "gen", 1)
        self._journal.event("user_password_reset", user=name, owner=after.owner_id)
        await self._settle_down({name: held})
        return password

    async def delete_user(self, name: str, *, owner_id: str | None = None) -> None:
        """Remove a user and its book. It is disabled first, so that what is in flight ends before its book does."""
        after, held = await self._edit_known(name, owner_id, "status", "D", "gen", 1)
        await self._settle_down({name: held})
        index = users_key(after.owner_id)
        score: bytes | float | None = await self._store.command("ZSCORE", index, name)
        holder = await self._store.run(_DELETE, user_key(name), after.owner_id, CHANGES, name)
        if score is not None:  # unless the name was imported again meanwhile
            await self._store.run(_UNLIST, index, score.decode() if isinstance(score, bytes) else repr(score), name)
        if holder is not None:
            self._journal.event("user_deleted", user=name, owner=after.owner_id)

    async def _edit(self, name: str, owner_id: str | None, *changes: Argument) -> tuple[User, Holds] | None:
        """Change a user's fields and publish it; the user after it and the holds open then, None if it is unknown."""
        wanted = "" if owner_id is None else owner_id if is_owner_id(owner_id) else NOBODY
        answer: Any = await self._store.run(_EDIT, user_key(name), wanted, CHANGES, _name_of(name), *changes)
        if answer is None:
            return None
        row, held = answer
        after = parse_user(name, row)
        return None if after is None else (after, read_holds(held))

    async def _edit_known(self, name: str, owner_id: str | None, *changes: Argument) -> tuple[User, Holds]:
        found = await self._edit(name, owner_id, *changes)
        if found is None:
            await self._check_store()
            raise UnknownUser(f"unknown user {name!r}")
        return found

    async def _settle_down(self, held: dict[str, Holds]) -> None:
        """Wait until nothing that was let in before the change can be taken any more; `held` was open when it was written."""
        items = [item for item in held.items() if item[1]]
        slices = [dict(items[i::SLICES]) for i in range(min(SLICES, len(items)))]
        waits = await asyncio.gather(*(self._ledger.wait_for_change(part, self._change_wait) for part in slices))
        for part, is_over in zip(slices, waits, strict=True):
            if not is_over:
                self._journal.event("change_overtaken", user=",".join(list(part)[:20]), users=len(part))

    # -- misses --------------------------------------------------------------------------------------------------------------

    async def _unknown_owner(self) -> UnknownOwner:
        await self._check_store()
        return UnknownOwner("unknown owner")

    async def _check_store(self) -> None:
        if not await fitness.is_ours(self._store):
            raise StoreForeign("the store has lost its epoch")


def check_import(name: str, password: str, hourly: Limit, total: Limit) -> None:
    """Raise BadValue unless a user could be imported so."""
    if not is_user_name(name):
        raise BadValue("a user name has 1 to 128 letters, digits, dots, underscores and hyphens")
    if not 1 <= len(password.encode("utf-8", "surrogatepass")) <= MAX_PASSWORD or not password.isprintable():
        raise BadValue(f"a password has 1 to {MAX_PASSWORD} printable octets")
    if is_generated_name(name) and not is_generated_password(password):
        # Its slow hash would show, by the time it takes, that the name exists.
        raise BadValue("a name of the form this relay generates needs a password of that form: 22 letters and digits")
    _check_limits(hourly, total)


def _check_limits(*limits: Limit) -> None:
    if not all(is_limit(limit) for limit in limits):
        raise BadValue("a limit is a positive whole number up to 10**12")


def _name_of(name: str) -> str:
    return name if is_user_name(name) else NOBODY


def _status(is_enabled: bool) -> str:
    return "E" if is_enabled else "D"
