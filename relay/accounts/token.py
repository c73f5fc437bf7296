"""Access tokens of owners: signed-in sessions, and static tokens that an operator issues (JSON Web Tokens, RFC 7519; HS256, RFC 7518).

Promises:
- A token lets in only with its record in the store, which is looked up each time together with its owner: what was closed, revoked or
  replaced, and whose owner is disabled, is nobody's from the next call on. So is a session whose owner's token was rotated since it was
  opened, for its record names the token it was opened under.
- Whose token it is says the token itself, under a signature; so all that is kept of an owner is in one slot of a Cluster, and a known key
  costs the same one round trip as an unknown one. Who is let in by none is told so only after the store has proved to be ours.
- The store alone reveals nothing that lets in: keys and tokens of sessions are kept as keyed hashes, static tokens not at all.

The order of the checks and their texts are Webitel's, whose `exp` is in milliseconds (which RFC 7519 section 4.1.4 would have in seconds).
"""

from __future__ import annotations

import hmac
import json
import time
import uuid
from collections.abc import Callable, Mapping
from secrets import token_hex
from typing import Any, NamedTuple

from jwt import PyJWS
from jwt.exceptions import PyJWTError

from relay.accounts import owner as owners
from relay.accounts.arranging import check_domain
from relay.accounts.owner import Owner, owner_key, parse_owner
from relay.accounts.provisioning import BadValue, UnknownOwner
from relay.accounts.secrets import Key
from relay.accounts.setting import fold
from relay.journal import Journal
from relay.store import fitness
from relay.store.client import Script, Store, StoreForeign
from relay.store.link import EPOCH_KEY

LIFETIME = 100 * 86400.0
MAX_LIFETIME = 100 * 366 * 86400.0
MAX_TOKEN = 4096
"""Characters of a token that is looked at."""
MAX_SESSIONS = 1_000
"""Of one owner; one more ends the one that would end first."""
MAX_TOKENS = 1_000

_KEEP = Script.load("relay.accounts", "admit.lua")
_ALGORITHM = "HS256"
_NO_HASH = bytes(32)
_NO_RECORD = bytes(64)
_NO_TIME = 253_402_300_800
"""The year 10000, in seconds since 1970; nobody was issued a token for so long."""


class Session(NamedTuple):
    """A session that was opened."""

    key: str
    token: str
    expires: int
    """Milliseconds since 1970."""


class Caller(NamedTuple):
    """Whose call it is."""

    owner: Owner
    domain: str
    """The only domain it speaks for; "" for any of the owner's."""
    key: str
    """Of its session; "" for a static token."""


class Issued(NamedTuple):
    """A static token, without the token."""

    id: str
    domain: str
    created: int
    """Seconds since 1970."""
    expires: int
    """Milliseconds since 1970; 0: never."""


class Denied(Exception):
    """Nobody's token; the text is Webitel's."""


class Tokens:
    """Opens, issues, checks and revokes. Every call raises StoreUnavailable when the store does not answer."""

    def __init__(self, store: Store, key: Key, journal: Journal, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives seconds since 1970."""
        self._store = store
        self._key = key
        self._journal = journal
        self._clock = clock
        self._jws = PyJWS(algorithms=[_ALGORITHM])

    # -- sessions ------------------------------------------------------------------------------------------------------------

    async def open_session(self, owner: Owner, lifetime: float = LIFETIME, *, secret: str | None = None) -> Session:
        """Sign an owner in; raises UnknownOwner.

        `secret` is the owner's token it signed in with: if that has been rotated meanwhile, the session lets nobody in. Without it, the
        session is one of whatever token the owner has now.
        """
        if secret is None:
            hashed: bytes = await self._store.command("HGET", owner_key(owner.owner_id), "token") or _NO_HASH
        else:
            hashed = self._key.hash_token(owner.owner_id, secret)
        now = self._now()
        expires = now + int(lifetime * 1000)
        key = str(uuid.uuid4())
        token = self._sign({"exp": expires, "id": token_hex(16), "o": owner.owner_id})
        value = b"%d " % expires + self._key.hash_session("token", token) + self._key.hash_session("owner", hashed)
        await self._keep(owner.owner_id, "sessions", self._field(key), value, now, MAX_SESSIONS, "replace")
        self._journal.event("session_opened", owner=owner.owner_id)
        return Session(key, token, expires)

    async def close_session(self, key: str, token: str) -> bool:
        """Sign out; whether there was such a session."""
        claims = self._claims(token)
        if claims is None or _is_static(claims):
            return False
        place = f"{owner_key(claims['o'])}:sessions"
        found: bytes | None = await self._store.command("HGET", place, self._field(key))
        if not self._is_session(found, token) or not await self._store.command("HDEL", place, self._field(key)):
            await self._check_store()
            return False
        self._journal.event("session_closed", owner=claims["o"])
        return True

    # -- who it is -----------------------------------------------------------------------------------------------------------

    async def admit(self, token: str, key: str) -> Caller:
        """Whose token it is; raises Denied."""
        claims = self._claims(token)
        if claims is None:
            raise Denied("Invalid token")
        if "exp" in claims and claims["exp"] <= self._now():  # the clock is read once: it may go on between two looks
            raise Denied("Token Expired")
        if _is_static(claims):
            return await self._admit_static(claims)
        if not key:
            raise Denied("Invalid Token or Key")
        owner, hashed, found = await self._look_up(claims["o"], "sessions", self._field(key))
        own = self._key.hash_session("owner", hashed or _NO_HASH)
        is_own = hmac.compare_digest((found or _NO_RECORD)[-len(own) :], own)
        if not (self._is_session(found, token) and is_own) or owner is None or not owner.is_enabled:
            raise Denied("Invalid User")
        return Caller(owner, "", key)

    async def _admit_static(self, claims: Mapping[str, Any]) -> Caller:
        owner, _, found = await self._look_up(claims["o"], "tokens", str(claims.get("id")))
        issued = _parse_issued(str(claims.get("id")), found)
        if issued is None or issued.domain != claims.get("d"):
            raise Denied("Not found token")
        if owner is None or not owner.is_enabled:
            raise Denied("Invalid User")
        return Caller(owner, issued.domain, "")

    async def _look_up(self, owner_id: str, part: str, field: str) -> tuple[Owner | None, bytes | None, bytes | None]:
        """An owner, the hash of its token, and a record of it, in one round trip, with which the store shows that it is ours."""
        key = owner_key(owner_id)
        row, found, epoch = await self._store.many(
            [("HMGET", key, *owners.FIELDS, "token"), ("HGET", f"{key}:{part}", field), ("GET", EPOCH_KEY)]
        )
        if epoch != self._store.epoch:
            raise StoreForeign("the store has lost its epoch")
        return parse_owner(owner_id, row), row[-1], found

    def _is_session(self, found: bytes | None, token: str) -> bool:
        hashed = self._key.hash_session("token", token)
        return hmac.compare_digest((found or _NO_RECORD)[-2 * len(hashed) : -len(hashed)], hashed)

    # -- static tokens -------------------------------------------------------------------------------------------------------

    async def issue(self, owner_id: str, domain: str, lifetime: float | None = None) -> tuple[str, str]:
        """Issue a static token for a domain ("": for every one of the owner's); returns its id and the token, which is not kept.

        Raises UnknownOwner and BadValue.
        """
        domain = fold(check_domain(domain, may_be_default=True))
        if lifetime is not None and not 0 < lifetime <= MAX_LIFETIME:
            raise BadValue("a lifetime is more than 0 seconds, and less than a century")
        now, id = self._now(), str(uuid.uuid4())
        expires = 0 if lifetime is None else now + int(lifetime * 1000)
        claims = {"v": 2, "t": "domain", "d": domain, "id": id, "o": owner_id}
        value = f"{expires} {json.dumps({'domain': domain, 'created': now // 1000})}"
        await self._keep(owner_id, "tokens", id, value, now, MAX_TOKENS, "refuse")
        self._journal.event("token_issued", owner=owner_id, id=id, domain=domain)
        return id, self._sign(claims | ({"exp": expires} if expires else {}))

    async def revoke(self, owner_id: str, id: str) -> bool:
        """Make a static token void; whether there was one."""
        field = id.encode("utf-8", "surrogatepass")
        if not await self._store.command("HDEL", f"{owner_key(owner_id)}:tokens", field):
            await self._check_store()
            return False
        self._journal.event("token_revoked", owner=owner_id, id=id)
        return True

    async def tokens(self, owner_id: str) -> list[Issued]:
        """An owner's static tokens, the oldest first, those that have run out too."""
        place = f"{owner_key(owner_id)}:tokens"
        ids = await self._store.command("HKEYS", place)
        rows = await self._store.command("HMGET", place, *ids) if ids else []
        found = [_parse_issued(id.decode("utf-8", "replace"), row) for id, row in zip(ids, rows, strict=True)]
        if not ids:
            await self._check_store()
        return sorted((issued for issued in found if issued is not None), key=lambda issued: (issued.created, issued.id))

    # -- signatures and records ----------------------------------------------------------------------------------------------

    async def _keep(self, owner_id: str, part: str, field: str, value: bytes | str, now: int, most: int, otherwise: str) -> None:
        answer = await self._store.run(_KEEP, owner_key(owner_id), part, field, value, now, most, otherwise)
        if answer == -1:
            await self._check_store()
            raise UnknownOwner("unknown owner")
        if answer == -3:
            raise BadValue(f"an owner has at most {most} tokens")

    def _sign(self, claims: Mapping[str, Any]) -> str:
        return self._jws.encode(json.dumps(claims, separators=(",", ":")).encode(), self._key.access, _ALGORITHM, sort_headers=False)

    def _claims(self, token: str) -> dict[str, Any] | None:
        """What a token says, if it is one of ours; whether it still holds is not looked at."""
        if not token.isascii() or len(token) > MAX_TOKEN:
            return None
        try:
            claims = json.loads(self._jws.decode(token, self._key.access, [_ALGORITHM]))
        except (PyJWTError, ValueError, RecursionError):
            return None
        return claims if isinstance(claims, dict) and isinstance(claims.get("o"), str) else None

    def _field(self, key: str) -> str:
        return self._key.hash_session("key", key).hex()

    def _now(self) -> int:
        return int(self._clock() * 1000)

    async def _check_store(self) -> None:
        if not await fitness.is_ours(self._store):
            raise StoreForeign("the store has lost its epoch")


def _is_static(claims: Mapping[str, Any]) -> bool:
    return claims.get("v") == 2 and claims.get("t") == "domain"


def _parse_issued(id: str, found: bytes | None) -> Issued | None:
    """Read the record of a static token; None where there is none, or it is damaged."""
    if found is None:
        return None
    expires, _, rest = found.partition(b" ")
    try:
        said = json.loads(rest)
        issued = Issued(id, said["domain"], said["created"], int(expires))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    is_sound = isinstance(issued.domain, str) and isinstance(issued.created, int)
    return issued if is_sound and 0 <= issued.created < _NO_TIME and 0 <= issued.expires < _NO_TIME * 1000 else None
