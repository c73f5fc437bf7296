"""A relay and all it has to do with, for tests in which some of that fails.

A `Scene` is one relay with a smarthost that keeps what it takes and, where a test wants it, a store of the operator's own behind a
`Border`. Every message has a sender of its own, by which the account of promises 1 to 3 knows it; `closed` draws that account up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relay.config.settings import Settings as RelaySettings
from relay.daemon import quota_rules
from relay.loadkit.attempt import Attempt
from relay.loadkit.caller import Caller, Unwelcome, dial
from relay.loadkit.message import Template
from relay.loadkit.received import Received
from relay.loadkit.sink import Sink
from relay.quota.ledger import Ledger
from relay.quota.limit import Rules
from relay.spool.entry import Entry
from relay.spool.queue import Counts
from relay.spool.spool import Spool
from relay.store.client import Store
from relay.store.embedded import socket_url
from tests.account import Sent, assert_account
from tests.border import Border, ServerOfStore
from tests.copies import read_copy
from tests.evidence import read_evidence, read_sent
from tests.running import Relay, User, running
from tests.surroundings import resume_all, until

Settings = dict[str, dict[str, Any]]

QUICK: Settings = {
    "smtp": {"hostname": "relay.example", "workers": 1, "data_deadline_seconds": 3, "drain_seconds": 3},
    "upstream": {"forward_deadline_seconds": 1.5, "timeout_seconds": 1.5, "down_seconds": 0.2},
    "store": {"timeout_seconds": 0.5},
    "quota": {"lease_seconds": 60},
    "retry": {"first_wait_seconds": 0.5, "longest_wait_seconds": 1, "doubt_seconds": 2},
    "spool": {"reserve_bytes": 0},
}
"""Settings under which everything that is waited for is short."""
SHORT_LEASE: Settings = {"smtp": {"data_deadline_seconds": 0.5}, "upstream": {"forward_deadline_seconds": 1}, "quota": {"lease_seconds": 4}}
"""A lease as short as the settings' rules allow."""


@dataclass(slots=True)
class Scene:
    """One relay and all it has to do with."""

    relay: Relay
    sink: Sink
    store: ServerOfStore | None
    border: Border | None
    settings: Settings
    others: list[Relay] = field(default_factory=list)
    """More nodes on the same store."""
    users: list[User] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    at_dot: Callable[[], None] | None = None
    """Called once, at the instant at which the smarthost has decided to take a message and has not said so yet."""

    def on_message(self, message: Received) -> None:
        """Hear from the smarthost."""
        if message.answered and self.at_dot is not None:
            hook, self.at_dot = self.at_dot, None
            hook()

    @property
    def rules(self) -> Rules:
        """How the relay counts."""
        quota = self.settings["quota"]
        return Rules(window=quota.get("window_seconds", 3600), lease=quota["lease_seconds"])

    @property
    def store_url(self) -> str:
        """Where a test reaches the store itself, past any border."""
        return self.store.url if self.store is not None else socket_url(self.relay.folder / "data")

    @property
    def store_process(self) -> int:
        """The process id of the store's server."""
        return self.store.pid if self.store is not None else self.relay.store_pid()

    @property
    def spool_file(self) -> Path:
        """The spool's database."""
        return Path(self.settings["spool"].get("directory", self.relay.folder / "data")) / "spool.db"

    async def add_user(self, hourly: int = 1000, total: int = 1_000_000) -> User:
        """Make a user whose book is looked at in the end."""
        user = await self.relay.add_user(hourly, total)
        self.users.append(user)
        return user

    # -- mail ----------------------------------------------------------------------------------------------------------------

    async def dial(self, user: User, relay: Relay | None = None, timeout: float = 15.0) -> Caller:
        """A connection of a user; raises Unwelcome."""
        return await dial("127.0.0.1", (relay or self.relay).smtp, user.name, user.password, "none", timeout)

    async def dial_each(self, user: User) -> list[tuple[str, Caller, int]]:
        """A connection to each worker, with the worker's incarnation and process id."""
        started = {line["incarnation"]: line["pid"] for line in self.relay.events("worker_started") if line["worker"].startswith("smtp")}
        callers: dict[str, tuple[Caller, int]] = {}
        while len(callers) < len(started):
            count = len(self.relay.events("authenticated"))
            caller = await self.dial(user)
            incarnation = (await self.relay.await_event("authenticated", after=count))["id"][:8]
            if incarnation in callers:
                await caller.quit()
            else:
                callers[incarnation] = (caller, started[incarnation])
        return [(incarnation, *reached) for incarnation, reached in callers.items()]

    async def send(self, user: User, *names: str, caller: Caller | None = None, relay: Relay | None = None, size: int = 700) -> Sent:
        """Try to send one message to these names, on a connection of its own unless one is given, and note what was heard."""
        number = len(self.sent)
        load_id = f"m{number:04d}"
        mark = f"{load_id}@load.example"
        recipients = tuple(f"{name}@load.example" for name in names or ("to",))
        self.sent.append(Sent(mark, user.name, recipients, "silent"))  # until more is known
        attempt = Attempt(load_id, user.name, 0, len(recipients))
        own = caller
        try:
            own = own or await self.dial(user, relay)
            await own.send(attempt, mark, recipients, Template(size, len(load_id)).write(load_id, mark, recipients[0]))
        except Unwelcome as unwelcome:
            attempt.code, attempt.text, attempt.stage = unwelcome.code, unwelcome.text, unwelcome.stage
        finally:
            if caller is None and own is not None:
                await own.quit()
        self.sent[number] = sent = read_sent(attempt, mark, recipients)
        return sent

    async def until_taken(self, user: User, timeout: float = 10, caller: Caller | None = None) -> Sent:
        """Send until a message is taken; what was heard before must be temporary."""
        end = time.monotonic() + timeout
        while True:
            sent = await self.send(user, caller=caller)
            if sent.outcome == "taken":
                return sent
            assert sent.reply[:1] in "04", sent
            assert time.monotonic() < end, sent
            await asyncio.sleep(0.05)

    async def until_refused(self, user: User, timeout: float = 10) -> Sent:
        """Send until a message is refused for a limit; until then nobody may listen, or the store be away."""
        end = time.monotonic() + timeout
        while True:
            sent = await self.send(user)
            assert sent.outcome != "taken", sent
            if "limit reached" in sent.reply:
                return sent
            assert time.monotonic() < end, sent
            await asyncio.sleep(0.05)

    # -- the spool -----------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def spool(self) -> AsyncIterator[Spool]:
        """The spool as an operator opens it."""
        spool = Spool(self.spool_file, "", 0)
        try:
            yield spool
        finally:
            await spool.close()

    async def counts(self) -> Counts:
        """The spool in figures."""
        async with self.spool() as spool:
            return await spool.counts()

    async def entries(self) -> list[Entry]:
        """All that is in the spool, oldest first."""
        async with self.spool() as spool:
            return [entry async for page in spool.pages() for entry in page]

    async def charges(self) -> list[tuple[str, str, int, int, int]]:
        """What the vault keeps."""
        async with self.spool() as spool:
            return await spool.charges()

    # -- the end -------------------------------------------------------------------------------------------------------------

    async def at_rest(self, timeout: float = 15, held: int = 0) -> None:
        """Wait until nothing is owed but `held` entries, and nothing is in flight."""
        rest: list[str] = []

        async def is_at_rest() -> bool:
            rest[:] = await self._unrest(held)
            return not rest

        try:
            await until(is_at_rest, timeout)
        except AssertionError:
            raise AssertionError(f"not at rest after {timeout:g} s: {rest}") from None

    async def _unrest(self, held: int) -> list[str]:
        counts = await self.counts()
        found = [f"{counts}"] if counts.waiting or counts.claimed or counts.charges or counts.held != held else []
        for user in self.users:
            in_flight = (await self.relay.usage(user))["in_flight"]
            found += [f"{user.name}: {in_flight} in flight"] if in_flight else []
        return found

    async def closed(self, held: int = 0, timeout: float = 15) -> None:
        """Wait for rest; then the accounts of promises 1 to 3 close, every book agrees with itself, and nothing was a bug."""
        await self.at_rest(timeout, held)
        copies = [read_copy(message) for message in self.sink.messages if message.answered]
        names = [user.name for user in self.users]
        assert_account(await read_evidence([self.relay, *self.others], self.store_url, names, self.sent, copies, self.rules))
        assert not self.relay.events("bug"), self.relay.events("bug")[0]["traceback"]
        await self.relay.cli("ledger", "verify")  # fails on any difference

    @asynccontextmanager
    async def ledger(self) -> AsyncIterator[Ledger]:
        """The ledger, past any border."""
        store = Store(self.store_url, 10.0)
        try:
            yield Ledger(store, self.rules)
        finally:
            await store.close()


@asynccontextmanager
async def scene(
    place: Path,
    more: Settings | None = None,
    *,
    own_store: bool = False,
    bordered: bool = False,
    is_started: bool = True,
) -> AsyncIterator[Scene]:
    """A relay with the quick settings, and more of them; its store is embedded, or the operator's own, behind a border if wanted."""
    async with AsyncExitStack() as stack:
        sink = Sink(keep=True, on_message=lambda message: made.on_message(message))
        await sink.start()
        stack.push_async_callback(sink.stop)
        store = border = None
        if own_store or bordered:
            store = ServerOfStore(place / "store")
            stack.push_async_callback(store.end)
            await store.start()
        if bordered and store is not None:
            border = Border(store.port)
            stack.push_async_callback(border.stop)
            await border.start(quota_rules(RelaySettings.model_validate(merged(QUICK, more or {}))))
        relay = await stack.enter_async_context(running(place / "relay", sink.port, is_started=False))
        url = border.url if border is not None else store.url if store is not None else ""
        shared: Settings = {"upstream": {"port": sink.port}, "store": {"url": url}, "accounts": {"key_file": str(place / "key")}}
        settings = merged(QUICK, shared, more or {})
        configure(relay, settings)
        made = Scene(relay, sink, store, border, settings)
        if is_started:
            await relay.start()
        stack.callback(resume_all)
        yield made


@asynccontextmanager
async def second_node(found: Scene) -> AsyncIterator[Relay]:
    """Another relay on the same store, which it reaches past the border."""
    assert found.store is not None
    async with running(found.relay.folder.with_name("two"), found.sink.port, is_started=False) as relay:
        configure(relay, merged(found.settings, {"smtp": {"hostname": "two.example"}, "store": {"url": found.store.url}}))
        await relay.start()
        found.others.append(relay)
        yield relay


def merged(*all_of_them: Settings) -> Settings:
    """Settings in which the later ones win."""
    settings: Settings = {}
    for some in all_of_them:
        for section, values in some.items():
            settings[section] = settings.get(section, {}) | values
    return settings


def configure(relay: Relay, settings: Settings) -> None:
    """Write the relay's configuration file."""
    settings = merged({"api": {"port": relay.api}, "data": {"directory": str(relay.folder / "data")}}, settings)
    settings = merged(settings, {"journal": {"file": str(relay.journal)}})
    lines = []
    for section, values in settings.items():
        lines.append(f"[{section}]")
        lines += [f"{name} = {repr(value) if not isinstance(value, bool) else str(value).lower()}" for name, value in values.items()]
    lines += ["[[smtp.listen]]", f"port = {relay.smtp}", "auth_without_tls = true"]
    relay.config.write_text("\n".join(lines) + "\n")
