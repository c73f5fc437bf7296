"""One change of a user made through the API while a load ran: what the oracle weighs edits, disables and new passwords by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["limits", "disable", "enable", "password", "delete"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Change:
    """What was asked of the API and when; instants in µs since 1970 by this machine's clock."""

    kind: Kind
    user: str
    asked: int
    """Just before the request was sent: nothing of the change can be true earlier."""
    answered: int
    """Just after its answer was read: the change must hold from here on."""
    hourly: int | None = None
    """Of `limits`: the new one; None is unlimited."""
    total: int | None = None
    error: str = ""
    """What the API said if it was not done."""
