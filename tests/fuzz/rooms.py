"""The rooms behind a session, as stand-ins that do what a script says and keep account of what they were asked.

They are objects with the methods a session calls; nothing of the session is changed. What no session may do is a fault of `Books`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, cast

from relay.accounts.changes import Changes
from relay.accounts.directory import Directory
from relay.accounts.presence import Presence
from relay.accounts.registry import Registry
from relay.accounts.setting import Outfit
from relay.accounts.throttle import Throttle
from relay.accounts.user import User
from relay.journal import Journal
from relay.mail.envelope import Envelope, Recipient
from relay.mail.reply import Reply
from relay.mail.verdict import Deferred, Delivered, Failed, Verdict
from relay.quota.ledger import Hold, Reason, Refusal, Settlement
from relay.quota.limit import Rules as QuotaRules
from relay.quota.teller import Kept, Teller
from relay.session.house import House, Rules
from relay.store.fault import StoreUnavailable
from relay.upstream.route import Route, Target, only
from relay.upstream.smarthost import Message
from relay.upstream.terms import Attempt, Terms

HOSTNAME = "relay.example"
NAME, PASSWORD = "app", "secret"
GONE = "away"
"""The user whose account is disabled, with the same password."""

LATENCY = 0.01
"""Seconds that a room takes to answer."""

VERDICTS: dict[str, Verdict] = {
    "delivered": Delivered(Reply(250, "0.0", "Ok: queued as 1")),
    "deferred": Deferred(Reply(451, "2.1", "Not now")),
    "failed": Failed(Reply(501, "1.3", "Never")),  # of a code that is an error of the client's where the relay says it
}
REFUSED: dict[str, Reason] = {
    "hourly": "hourly", "total": "total", "in_flight": "in_flight", "disabled": "disabled", "stale": "stale", "unknown": "unknown",
}  # fmt: skip
RESERVES = ("ok", *REFUSED, "store")
"""What a reserve may be answered; "store": not at all."""
FORWARDS = tuple(VERDICTS)


@dataclass(frozen=True, slots=True)
class Script:
    """What happens in the rooms, call by call; what is not scripted goes well."""

    reserves: Sequence[str] = ()
    forwards: Sequence[str] = ()
    settles: Sequence[str] = ()
    """"ok" or "kept": the store did not answer."""
    logins: Sequence[str] = ()
    """"ok", "store", "wait" (the throttle says no) or "crowded" (there are too many connections)."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A message that was forwarded, and whether it was delivered."""

    sender: str
    recipients: tuple[str, ...]
    wire: bytes
    is_taken: bool


@dataclass(slots=True)
class Books:
    """What was asked of the rooms, and what should not have been."""

    faults: list[str] = field(default_factory=list)
    offers: list[Offer] = field(default_factory=list)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    settled: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    """What the teller settles itself, in its own time."""
    logins: int = 0
    present: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    """Attempts to log in that are under way."""


class Record(Journal):
    """The journal's own functions and counters, with the lines kept instead of written."""

    def __init__(self, books: Books) -> None:
        super().__init__(-1, "fuzz")
        self._books = books

    def event(self, name: str, **fields: Any) -> None:
        """Keep it."""
        self._books.events.append((name, fields))
        if name == "bug":
            self._books.faults.append(fields["traceback"])


@dataclass(slots=True)
class _Ledger:
    rules: QuotaRules = field(default_factory=QuotaRules)


@dataclass(slots=True)
class _Teller:
    books: Books
    reserves: Iterator[str]
    settles: Iterator[str]
    ledger: _Ledger = field(default_factory=_Ledger)

    async def reserve(self, user: str, id: str, units: int, generation: int) -> Hold | Refusal:
        """As scripted; an id that is open already is checked anew."""
        await self._answer(id)
        if id in self.books.settled:
            self.books.faults.append(f"{id} reserved after it was settled")
        if user != NAME or not self.books.logins:
            self.books.faults.append(f"reserved for {user}")
        answer = next(self.reserves, "ok")
        if answer == "store":
            raise StoreUnavailable("scripted")
        if answer == "ok":
            self.books.held.add(id)
            return Hold(user, id, units, generation, time.monotonic() + 420.0)
        self.books.held.discard(id)
        return Refusal(REFUSED[answer], 1, 1, None if answer == "total" else 60, None if answer == "total" else 1_800_000_000)

    async def _answer(self, id: str) -> None:
        """Who does not wait for the answer leaves it to the teller to give back what may be held."""
        try:
            await asyncio.sleep(LATENCY)
        except BaseException:
            self.books.held.discard(id)
            self.books.kept.add(id)
            raise

    async def settle(self, hold: Hold, accepted: int, rejected: int = 0) -> Settlement | Kept:
        """Once for each id."""
        await self._answer(hold.id)
        if hold.id in self.books.settled or hold.id not in self.books.held | self.books.kept:
            self.books.faults.append(f"{hold.id} settled, and was not held")
        self.books.held.discard(hold.id)
        self.books.settled.add(hold.id)
        return Kept(True) if next(self.settles, "ok") == "kept" else Settlement("ok", 1_800_000_000_000_000, 1, 1, False)


@dataclass(slots=True)
class _Attempt:
    books: Books
    wait: int = 0
    is_open: bool = False
    was_in_line: bool = False

    def __enter__(self) -> _Attempt:
        self.books.attempts += 1
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.books.attempts -= 1

    async def admitted(self) -> bool:
        """As scripted."""
        await asyncio.sleep(LATENCY)
        return not self.wait

    async def failed(self) -> None:
        """It is counted."""
        await asyncio.sleep(LATENCY)

    def succeeded(self) -> None:
        """It is not."""


@dataclass(slots=True)
class _Accounts:
    """Registry, throttle and presence; one script speaks of all three."""

    books: Books
    script: Iterator[str]
    answer: str = "ok"

    def attempt(self, address: str, name: str) -> _Attempt:
        """An attempt to log in begins."""
        self.answer = next(self.script, "ok")
        return _Attempt(self.books, wait=60 if self.answer == "wait" else 0)

    async def verify_user(self, name: str, password: str, attempt: _Attempt | None = None) -> User | None:
        """Two are known."""
        answer = self.answer  # of this attempt, whoever else begins one now
        if attempt is not None and not await attempt.admitted():
            return None
        await asyncio.sleep(LATENCY)
        if answer == "store":
            raise StoreUnavailable("scripted")
        if name not in (NAME, GONE) or password != PASSWORD:
            return None
        return User(name, "12345678", name == NAME, 1, None, None)

    async def find_user(self, name: str) -> User | None:
        """Nobody, as the ledger says."""
        await asyncio.sleep(LATENCY)
        return None

    async def enter(self, user: str) -> bool:
        """One more connection."""
        answer = self.answer
        await asyncio.sleep(LATENCY)
        if answer == "crowded":
            return False
        self.books.logins += 1
        self.books.present[user] += 1
        return True

    def leave(self, user: str) -> None:
        """One less."""
        self.books.present[user] -= 1
        if self.books.present[user] < 0:
            self.books.faults.append(f"{user} left and was not there")


@dataclass(slots=True)
class News:
    """What has changed in accounts."""

    sequence: int = 1
    last: int = 0

    def mark(self) -> int:
        """The present."""
        return self.sequence

    def since(self, user: str, mark: int) -> bool:
        """Whether the user has changed."""
        return self.last > mark

    def tell(self, house: House) -> None:
        """The user is changed."""
        self.sequence += 1
        self.last = self.sequence
        house.on_change(NAME)


@dataclass(slots=True)
class _Directory:
    """No owner has set anything, and it takes its time to say so."""

    def look(self, owner_id: str) -> _Directory:
        """A question that is its own answer."""
        return self

    async def outfit(self, owner_id: str = "") -> Outfit:
        """Nothing."""
        await asyncio.sleep(LATENCY)
        return Outfit()

    def known(self, owner_id: str) -> Outfit | None:
        """It was asked before."""
        return Outfit()


@dataclass(slots=True)
class _Smarthost:
    books: Books
    script: Iterator[str]

    async def forward(self, route: Route, user: str, envelope: Envelope, message: Message, terms: Terms) -> Attempt:
        """As scripted, the same for every recipient."""
        await asyncio.sleep(LATENCY)
        outcome = next(self.script, "delivered")
        if not self.books.held:
            self.books.faults.append("forwarded without a hold")
        addresses = tuple(recipient.address for recipient in envelope.recipients)
        self.books.offers.append(Offer(envelope.sender, addresses, message.wire, outcome == "delivered"))
        verdicts: dict[Recipient, Verdict] = dict.fromkeys(envelope.recipients, VERDICTS[outcome])
        return Attempt(verdicts)


@dataclass(slots=True)
class Furnished:
    """A house of stand-ins, its books, and the news of it."""

    house: House
    books: Books
    news: News


def furnish(script: Script, rules: Rules) -> Furnished:
    """A house with these rules, in which this happens."""
    books, news = Books(), News()
    accounts = _Accounts(books, iter(script.logins))
    house = House(
        rules=replace(rules, failure_floor=0.0), incarnation="fuzz", registry=cast(Registry, accounts), throttle=cast(Throttle, accounts),
        teller=cast(Teller, _Teller(books, iter(script.reserves), iter(script.settles))), changes=cast(Changes, news),
        directory=cast(Directory, _Directory()), route=only(Target("127.0.0.1", 25)),
        forward=_Smarthost(books, iter(script.forwards)).forward,
        terms=Terms(20.0), journal=Record(books),
        presence=cast(Presence, accounts),
    )  # fmt: skip
    return Furnished(house, books, news)
