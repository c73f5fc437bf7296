"""What the routes work with, handed to them by the one who builds the application."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from fastapi import Request

from relay.accounts.arranging import Arranging
from relay.accounts.directory import Directory
from relay.accounts.provisioning import Provisioning
from relay.accounts.registry import Registry
from relay.accounts.throttle import Throttle
from relay.accounts.token import Tokens
from relay.journal import Journal
from relay.quota.ledger import Ledger
from relay.spool.spool import Spool
from relay.store.client import Store
from relay.upstream.guard import Guard


class ApiSettings(Protocol):
    """The settings of the HTTP door."""

    @property
    def errors_always_200(self) -> bool:
        """Whether a vendor dialect's errors are sent with status 200."""

    @property
    def max_body_bytes(self) -> int:
        """The largest request body."""

    @property
    def test_recipient(self) -> str:
        """Whom the test messages of the dialects go to; "": nobody, and tests are refused."""

    @property
    def test_budget_seconds(self) -> float:
        """How long a test of a smarthost may take."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """The rooms behind the door."""

    settings: ApiSettings
    registry: Registry
    provisioning: Provisioning
    ledger: Ledger
    throttle: Throttle
    journal: Journal
    store: Store
    directory: Directory
    arranging: Arranging
    tokens: Tokens
    guard: Guard
    hostname: str
    """The relay's, in EHLO."""
    spool: Spool | None = None
    """None where it could not be opened; the queue is answered as unavailable then."""
    testing: dict[str, int] = field(default_factory=dict)
    """Tests of smarthosts under way, by owner."""


def rooms_of(request: Request) -> Rooms:
    """The rooms of the application that serves this request."""
    rooms: Rooms = request.app.state.rooms
    return rooms


def address_of(request: Request) -> str:
    """The client's address, by which guessing is counted; "" on a unix socket."""
    return request.client.host if request.client else ""
