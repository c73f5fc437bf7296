"""The rooms behind a session, as stand-ins that answer at once: what is then measured is the session and nothing else.

They are objects with the methods a session calls; nothing of the session is changed. Only the journal is the real one, or one that is
silent, so that its share can be told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, cast

from relay.accounts.changes import Changes
from relay.accounts.directory import Directory
from relay.accounts.registry import Registry
from relay.accounts.setting import Outfit
from relay.accounts.throttle import Throttle
from relay.accounts.user import User
from relay.journal import Journal
from relay.mail.envelope import Envelope
from relay.mail.reply import Reply
from relay.mail.verdict import Delivered
from relay.quota.ledger import Hold, Settlement
from relay.quota.limit import Rules as QuotaRules
from relay.quota.teller import Teller
from relay.session.house import House, Rules
from relay.spool.spool import Spool
from relay.upstream.route import Route, Target, only
from relay.upstream.smarthost import Message
from relay.upstream.terms import Attempt, Terms

HOSTNAME = "relay.example"
ANY = 10**9
"""A limit that no benchmark meets."""
DELIVERED = Delivered(Reply(250, "0.0", "Ok: queued as 4Y1f0d2k3Xz9vB"))
HOLD = Hold("user", "id", 1, 1, math.inf)
NOTHING = Outfit()
SETTLED = Settlement("ok", 1_800_000_000_000_000, 1, 1, False)


@dataclass(frozen=True, slots=True)
class AnyLedger:
    """A ledger as a session sees it: its rules."""

    rules: QuotaRules = field(default_factory=QuotaRules)


@dataclass(frozen=True, slots=True)
class AnyTeller:
    """Lets everything through."""

    ledger: AnyLedger = field(default_factory=AnyLedger)

    async def reserve(self, user: str, id: str, units: int, generation: int) -> Hold:
        """There is room."""
        return HOLD

    async def settle(self, hold: Hold, accepted: int, rejected: int = 0) -> Settlement:
        """It is on record."""
        return SETTLED


@dataclass(frozen=True, slots=True)
class AnyAttempt:
    """An attempt to log in that need not wait."""

    wait: int = 0

    def __enter__(self) -> AnyAttempt:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is to be given back."""

    def succeeded(self) -> None:
        """Nothing is to be forgotten."""


@dataclass(frozen=True, slots=True)
class AnyRegistry:
    """Everybody is a user."""

    async def verify_user(self, name: str, password: str, attempt: AnyAttempt | None = None) -> User:
        """The password is right."""
        return User(name, "12345678", True, 1, None, None)


@dataclass(frozen=True, slots=True)
class AnyLook:
    """A question that is answered before it is asked."""

    async def outfit(self) -> Outfit:
        """Nothing is set."""
        return NOTHING


@dataclass(frozen=True, slots=True)
class EmptyDirectory:
    """No owner has set anything."""

    answer: AnyLook = field(default_factory=AnyLook)

    def look(self, owner_id: str) -> AnyLook:
        """Nothing is set."""
        return self.answer

    def known(self, owner_id: str) -> Outfit | None:
        """And that is known."""
        return NOTHING


@dataclass(frozen=True, slots=True)
class NoChanges:
    """Nobody's account is changed."""

    def mark(self) -> int:
        """The present."""
        return 1

    def since(self, user: str, mark: int) -> bool:
        """Nothing has happened."""
        return False


@dataclass(frozen=True, slots=True)
class NoThrottle:
    """Nobody has to wait."""

    def attempt(self, address: str, name: str) -> AnyAttempt:
        """It may be made."""
        return AnyAttempt()


@dataclass(slots=True)
class NoSpool:
    """A spool that nothing is put into, because everything is delivered."""

    incarnation: str = "bench"
    calls: list[str] = field(default_factory=list)


async def deliver(route: Route, user: str, envelope: Envelope, message: Message, terms: Terms) -> Attempt:
    """Every recipient is served."""
    return Attempt(dict.fromkeys(envelope.recipients, DELIVERED))


def silent_journal() -> Journal:
    """A journal that neither writes nor counts."""

    def nothing(self: Journal, *given: Any, **named: Any) -> None:
        pass

    names = [name for name in vars(Journal) if not name.startswith("_")]
    silent: type[Journal] = type("Silent", (Journal,), dict.fromkeys(names, nothing))
    return silent(-1, HOSTNAME)


def furnish(journal: Journal) -> House:
    """A house whose rooms are these."""
    return House(
        rules=Rules(HOSTNAME, max_commands=ANY, max_refusals=ANY, max_connections=ANY, max_connections_per_address=ANY),
        incarnation="bench000", registry=cast(Registry, AnyRegistry()), throttle=cast(Throttle, NoThrottle()),
        teller=cast(Teller, AnyTeller()), changes=cast(Changes, NoChanges()), forward=deliver, route=only(Target("127.0.0.1", 25)),
        directory=cast(Directory, EmptyDirectory()),
        terms=Terms(20.0, is_split=True, patience=600.0), journal=journal, spool=cast(Spool, NoSpool()),
    )  # fmt: skip
