"""The rooms of one worker, joined in this process as the daemon joins them, with a scripted smarthost behind and real sockets before."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop

from relay.accounts.arranging import Arranging
from relay.accounts.changes import Changes
from relay.accounts.directory import Directory
from relay.accounts.provisioning import Provisioning
from relay.accounts.registry import Registry
from relay.accounts.secrets import Key
from relay.accounts.throttle import Throttle
from relay.journal import Journal
from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from relay.quota.ledger import CHANGES, Ledger
from relay.quota.limit import Rules as QuotaRules
from relay.quota.table import Charge, Table
from relay.quota.teller import Teller
from relay.session.certificate import Certificate
from relay.session.door import Door
from relay.session.house import House, Rules
from relay.session.listener import Listeners, bind
from relay.session.protocol import Protocol
from relay.session.proxy import Balancers
from relay.session.ticket import Tickets
from relay.spool.spool import Spool
from relay.store.client import Store
from relay.upstream.dispatch import Dispatch
from relay.upstream.guard import Guard
from relay.upstream.route import Choice, Target, only
from relay.upstream.terms import Terms
from tests.certificate import write_pair

HOSTNAME = "relay.example"


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop of production."""
    return {"uvloop": uvloop.new_event_loop}


@dataclass(frozen=True, slots=True)
class Guesses:
    """The throttle's settings."""

    failures_per_user: int = 5
    failures_per_address: int = 50
    window_seconds: int = 300


@dataclass(frozen=True, slots=True)
class Account:
    """An SMTP user of a test."""

    name: str
    password: str
    owner_id: str

    @property
    def plain(self) -> bytes:
        """What AUTH PLAIN says for it."""
        return base64.b64encode(f"\0{self.name}\0{self.password}".encode())


@dataclass(slots=True)
class Wire:
    """A client that says exactly what it is told to."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *lines: bytes) -> None:
        """Write lines, each with its CRLF, in one go."""
        await self.write(b"".join(line + b"\r\n" for line in lines))

    async def write(self, octets: bytes) -> None:
        """Write octets as they are."""
        if self.writer.transport.is_closing():  # uvloop would call it a RuntimeError
            raise ConnectionResetError("closed")
        self.writer.write(octets)
        await self.writer.drain()

    async def reply(self) -> bytes:
        """The next reply, all its lines; b"" when the connection has ended."""
        lines = []
        async with asyncio.timeout(10):
            while line := await self.reader.readline():
                lines.append(line)
                if line[3:4] != b"-":
                    break
        return b"".join(lines)

    async def ask(self, line: bytes) -> bytes:
        """Send one line and return its reply."""
        await self.send(line)
        return await self.reply()

    async def secure(self, context: ssl.SSLContext) -> None:
        """Do the handshake, as after STARTTLS."""
        await self.writer.start_tls(context, server_hostname="localhost")

    async def log_in(self, account: Account) -> None:
        """EHLO and AUTH."""
        assert (await self.ask(b"EHLO client.example")).startswith(b"250-")
        assert (await self.ask(b"AUTH PLAIN " + account.plain)).startswith(b"235 ")

    async def begin(self, *recipients: bytes) -> bytes:
        """MAIL, RCPT and DATA in one group; returns the reply to DATA."""
        recipients = recipients or (b"to@example.net",)
        await self.send(b"MAIL FROM:<app@example.com>", *(b"RCPT TO:<%b>" % one for one in recipients), b"DATA")
        for _ in range(1 + len(recipients)):
            assert (await self.reply()).startswith(b"250 ")
        return await self.reply()

    async def offer(self, wire: bytes, *recipients: bytes) -> bytes:
        """Send a message in wire form (without its final dot); returns the last reply to it."""
        reply = await self.begin(*recipients)
        if reply.startswith(b"354 "):
            await self.write(wire + b".\r\n")
            reply = await self.reply()
        return reply

    async def is_closed(self) -> bool:
        """Whether the relay has ended the connection, with nothing more said."""
        async with asyncio.timeout(10):
            try:
                return await self.reader.read() == b""
            except (ConnectionError, ssl.SSLError):
                return True

    async def close(self) -> None:
        """End the connection from this side."""
        self.writer.close()
        with suppress(ConnectionError, ssl.SSLError, TimeoutError):
            await self.writer.wait_closed()


@dataclass(slots=True)
class Worker:
    """The rooms, joined."""

    house: House
    listeners: Listeners
    sink: Sink
    ledger: Ledger
    provisioning: Provisioning
    arranging: Arranging
    """As another process has it: the worker learns of its changes by the store alone."""
    log: Path
    ports: dict[str, int]
    trust: ssl.SSLContext
    wires: list[Wire] = field(default_factory=list)

    async def connect(self, door: str = "plain") -> Wire:
        """A client at a door; the greeting is not read yet."""
        if door == "implicit":
            streams = await asyncio.open_connection("127.0.0.1", self.ports[door], ssl=self.trust, server_hostname="localhost")
        else:
            streams = await asyncio.open_connection("127.0.0.1", self.ports[door])
        self.wires.append(wire := Wire(*streams))
        return wire

    async def enter(self, account: Account, door: str = "plain") -> Wire:
        """A client that was greeted and has logged in."""
        wire = await self.connect(door)
        assert (await wire.reply()).startswith(b"220 ")
        if door == "starttls":
            await wire.ask(b"EHLO client.example")
            await wire.ask(b"STARTTLS")
            await wire.secure(self.trust)
        await wire.log_in(account)
        return wire

    async def add_user(self, hourly: int | None = 1000, total: int | None = None) -> Account:
        """A user of an owner of its own."""
        owner, _ = await self.provisioning.add_owner("owner")
        user, password = await self.provisioning.add_user(owner.owner_id, hourly, total)
        return Account(user.name, password, owner.owner_id)

    async def put_setting(self, account: Account, domain: str, *ports: int) -> str:
        """Let the owner's mail of a domain go to smarthosts here, to none without ports; returns the setting's id."""
        choices = [Choice(Target("127.0.0.1", port, down_seconds=0.0)) for port in ports]
        put = await self.arranging.put_setting(account.owner_id, domain, choices)
        assert put is not None
        return put[0].id

    def script(self, *lines: str) -> None:
        """What the smarthost does out of the ordinary from now on."""
        self.sink.script = Script.parse(lines)

    def events(self, *names: str) -> list[dict[str, Any]]:
        """The journal's lines of these events."""
        lines = map(json.loads, self.log.read_text().splitlines())
        return [line for line in lines if not names or line["event"] in names]

    async def await_event(self, name: str, count: int = 1) -> dict[str, Any]:
        """Wait until the journal shows so many events of a name; returns the last."""
        async with asyncio.timeout(10):
            while len(found := self.events(name)) < count:
                await asyncio.sleep(0.005)
        return found[-1]

    async def account_of(self, account: Account) -> tuple[int, int]:
        """Once nothing is in flight: units taken, and messages the smarthost answered 250."""
        async with asyncio.timeout(10):
            while await self.ledger.open_holds(account.name) or self.house.teller.kept:
                await asyncio.sleep(0.005)
        usage = await self.ledger.usage(account.name)
        assert usage is not None
        return usage.taken, self.sink.intake.answered

    async def await_connections(self, count: int) -> None:
        """Wait until so many connections are open."""
        async with asyncio.timeout(10):
            while len(self.house.connections) != count:
                await asyncio.sleep(0.005)

    async def drain(self) -> None:
        """Let the clients go, then what they left."""
        for wire in self.wires:
            wire.writer.transport.abort()
        await self.listeners.drain(5)
        await self.house.teller.close(2)

    def only(self) -> Protocol:
        """The relay's side of the only connection there is."""
        (protocol,) = self.house.connections
        assert isinstance(protocol, Protocol)
        return protocol


Opening = Callable[..., AbstractAsyncContextManager[Worker]]


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Who signs the certificates of the tests."""
    return trustme.CA()


@pytest.fixture(scope="session")
def trust(authority: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts it."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="session")
def certificate(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for localhost, as the daemon reads it."""
    return Certificate(*write_pair(authority, tmp_path_factory.mktemp("pair")), Tickets.fresh())


def doors_of(certificate: Certificate) -> dict[str, Door]:
    """The doors of a worker of the tests."""
    return {
        "plain": Door(1, "none", auth_without_tls=True), "clear": Door(2, "none"),
        "starttls": Door(3, "starttls", context=certificate.context), "implicit": Door(4, "implicit", context=certificate.context),
    }  # fmt: skip


@pytest.fixture
def open_worker(store: Store, place: Path, trust: ssl.SSLContext, certificate: Certificate) -> Opening:
    """Opens a worker: `rules`, `quota` and `route` change single fields, `sink` the smarthost's keywords."""

    @asynccontextmanager
    async def opening(
        rules: Mapping[str, Any] | None = None,
        quota: Mapping[str, Any] | None = None,
        route: Mapping[str, Any] | None = None,
        sink: Mapping[str, Any] | None = None,
        guesses: Guesses | None = None,
        deadline: float = 20.0,
        is_spooling: bool = False,
        reserve: int = 0,
        proxies: Sequence[str] = (),
        header_timeout: float = 5.0,
    ) -> AsyncIterator[Worker]:
        smarthost = Sink("127.0.0.1", 0, **{"keep": True, **(sink or {})})
        await smarthost.start()
        fd = os.open(log := place / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        journal, key = Journal(fd, "test"), Key(bytes(range(32)))
        ledger, registry = Ledger(store, replace(QuotaRules(), **(quota or {}))), Registry(store, key)
        settled: list[Charge] = []
        teller = Teller(ledger, Table(place / "holds" / "test.holds"), lambda charge, _: settled.append(charge))
        own = only(replace(Target("127.0.0.1", smarthost.port, down_seconds=0.0), **(route or {})))
        dispatch = Dispatch(HOSTNAME, Guard(("127.0.0.0/8",), range(1024, 65536)), store)
        house: House
        changes = Changes(store, CHANGES, lambda user: house.on_change(user))
        limits = replace(Rules(HOSTNAME, failure_floor=0.01), **(rules or {}))
        spool = Spool(place / "spool.db", "test", reserve)
        terms = Terms(deadline, is_split=is_spooling, patience=limits.doubt if is_spooling else 0.0)
        throttle = Throttle(store, guesses or Guesses())
        house = House(
            rules=limits, incarnation="test", registry=registry, throttle=throttle, teller=teller, changes=changes, journal=journal,
            directory=Directory(store, key), forward=dispatch.forward, route=own, terms=terms, spool=spool if is_spooling else None,
        )  # fmt: skip
        listeners = Listeners(house, Balancers(proxies), header_timeout)
        listening = asyncio.create_task(changes.run())
        doors = doors_of(certificate)
        socks = {name: bind("127.0.0.1", 0) for name in doors}
        await listeners.open([(door, socks[name]) for name, door in doors.items()])
        while changes.since("", changes.mark()):
            await asyncio.sleep(0.001)
        ports = {name: sock.getsockname()[1] for name, sock in socks.items()}
        provisioning = Provisioning(store, key, registry, ledger, journal, change_wait=5.0)
        arranging = Arranging(store, key, Directory(store, key), journal)
        worker = Worker(house, listeners, smarthost, ledger, provisioning, arranging, log, ports, trust)
        try:
            yield worker
        finally:
            await worker.drain()
            listening.cancel()
            await asyncio.wait({listening})
            dispatch.close()
            if house.late:
                await asyncio.wait(house.late, timeout=5)
            await spool.close()
            await smarthost.stop()
            os.close(fd)

    return opening


@pytest.fixture
async def worker(open_worker: Opening) -> AsyncIterator[Worker]:
    """A worker as it is by default."""
    async with open_worker() as worker:
        yield worker


@pytest.fixture
async def account(worker: Worker) -> Account:
    """A user of it."""
    return await worker.add_user()
