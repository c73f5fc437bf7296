"""Owners: who has users, and where the store keeps them.

Promise: nothing here does I/O; the keys of one owner share the hash tag `{o:<owner_id>}`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

OWNERS = "relay:owners"
"""The index of all owners: a sorted set of owner ids, scored by their creation in ms."""

PROFILES = ("", "poweremail")
"""Whose documents an owner's answers follow; "" is the body that serves every client."""

FIELDS = ("name", "status", "profile", "created")

_ID = re.compile(r"[1-9][0-9]{7}")


@dataclass(frozen=True, slots=True)
class Owner:
    """One owner; the token is known to its holder alone."""

    owner_id: str
    name: str
    is_enabled: bool
    profile: str
    created: int
    """Seconds since 1970."""


def is_owner_id(text: str) -> bool:
    """Whether `text` has the form of an owner id: eight digits, the first not 0."""
    return _ID.fullmatch(text) is not None


def owner_key(owner_id: str) -> str:
    """The key of an owner's hash; what is no owner id leads to a key that never exists."""
    return f"{{o:{owner_id if is_owner_id(owner_id) else ''}}}"


def users_key(owner_id: str) -> str:
    """The key of the index of an owner's users: a sorted set of names, scored by their creation in ms."""
    return f"{owner_key(owner_id)}:users"


def parse_owner(owner_id: str, row: Sequence[bytes | None]) -> Owner | None:
    """Read the values of FIELDS; None where there is no such owner."""
    name, status, profile, created = row[: len(FIELDS)]
    if name is None or status is None:
        return None
    return Owner(owner_id, name.decode("utf-8", "replace"), status == b"E", (profile or b"").decode(), int(created or 0))
