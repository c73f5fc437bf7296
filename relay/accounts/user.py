"""SMTP users: who may send how much, and where the store keeps them.

Promise: nothing here does I/O; all keys of one user share the hash tag `{u:<name>}`, those of the ledger too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from relay.mail.address import is_user_name

MAX_LIMIT = 10**12

FIELDS = ("owner", "status", "ostatus", "gen", "hourly", "total")
CREDENTIALS = (*FIELDS, "kind", "hash")
"""`kind` is s where the hash is a slow one, else h or not there: most passwords are generated, and need no such mark."""
LISTED = (*FIELDS, "seal")

IN_THE_MAKING = "N"
"""What stands for the owner's status (`ostatus`) until it was read: neither E nor D, and nobody may send under it."""

_GENERATED = re.compile(r"smtp[1-9][0-9]{8}")


@dataclass(frozen=True, slots=True)
class User:
    """One SMTP user as its sessions need it."""

    name: str
    owner_id: str
    is_enabled: bool
    """Its own status and its owner's."""
    generation: int
    """Starts where none of this name ever was and grows with each password reset, so that a session opened with an older password,
    or with that of a deleted user of the same name, is told apart."""
    hourly: int | None
    """None is unlimited."""
    total: int | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One SMTP user as a listing shows it."""

    user: User
    is_switched_on: bool
    """Its own status, whatever its owner's."""
    password: str | None
    """None where it cannot be shown again."""


def user_key(name: str) -> str:
    """The key of a user's hash; what is no user name leads to a key that never exists."""
    return f"{{u:{name if is_user_name(name) else ''}}}"


def is_generated_name(name: str) -> bool:
    """Whether a name has the form that provisioning generates."""
    return _GENERATED.fullmatch(name) is not None


def is_limit(value: int | None) -> bool:
    """Whether `value` may be a limit: a positive number, or None for unlimited."""
    return value is None or 1 <= value <= MAX_LIMIT


def write_limit(value: int | None) -> str:
    """Write a limit as the store keeps it."""
    return "" if value is None else str(value)


def parse_user(name: str, row: Sequence[bytes | None]) -> User | None:
    """Read the values of FIELDS (more may follow); None where there is no such user."""
    owner, status, owner_status, generation, hourly, total = row[: len(FIELDS)]
    if owner is None:
        return None
    return User(name, owner.decode(), status == owner_status == b"E", int(generation or 0), _parse_limit(hourly), _parse_limit(total))


def _parse_limit(value: bytes | None) -> int | None:
    return int(value) if value else None
