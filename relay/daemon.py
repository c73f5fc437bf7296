"""The daemon's workers: the only place where the rooms are joined.

`open_rooms` makes what every role and the shell need; `run_smtp`, `run_retry` and `run_api` are the roles, each the whole life of one
process.
Starting, watching and stopping those processes is the supervisor's.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from relay.accounts.changes import Changes
from relay.accounts.directory import Directory
from relay.accounts.presence import Presence
from relay.accounts.provisioning import Provisioning
from relay.accounts.registry import Registry
from relay.accounts.secrets import Key, KeyUnusable, fingerprint, open_key
from relay.accounts.throttle import Throttle
from relay.config import LEASE_MARGIN, ConfigError
from relay.entry import file_shortage, open_certificate, open_doors, raise_file_limit, see_certificate
from relay.journal import Journal, open_log
from relay.life import Life
from relay.outlet import check_outlet, open_dispatch, open_guard, own_route, retry_schedule, retry_share, terms, worker_share
from relay.quota.gate import Gate
from relay.quota.ledger import CHANGES, Ledger, Settlement
from relay.quota.limit import Rules
from relay.quota.table import Charge, Table
from relay.quota.teller import Teller
from relay.retry import runner as retry
from relay.session import house as session
from relay.session.certificate import Watch
from relay.session.listener import Listeners
from relay.session.proxy import Balancers
from relay.session.ticket import Tickets
from relay.spool.fault import SpoolUnavailable
from relay.spool.spool import Spool
from relay.store import fitness
from relay.store.client import Store, StoreForeign
from relay.store.embedded import socket_url

if TYPE_CHECKING:
    from relay.config.settings import Settings

RETRY_NICE = 10
"""What the retry process adds to its niceness."""
RETRY_LINGER = 0.02
"""Seconds for which the retry process's writes wait for others to share an fsync: nobody waits for it, and the store's fsyncs, for
which clients wait, share the disk. With ten sessions some 300 messages a second drain so."""
FIGURES_EVERY = 0.5
"""Seconds by which the figures of messages and connections may be late."""
FIGURES_ROOM = 128 << 10
"""Octets of each file of figures that a process writes at most; there are some hundred figures, each of some hundred octets."""
KEEP_LAPSED = 7 * 86400.0
"""Seconds for which a hold whose lease has ended may still be settled, at least: longer than its message may be in the spool."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """What every role is built from."""

    settings: Settings
    journal: Journal
    store: Store
    ledger: Ledger
    key: Key
    registry: Registry


def store_url(settings: Settings) -> str:
    """Where the store is: as configured, else the embedded server of the data directory."""
    return settings.store.url.get_secret_value() or socket_url(settings.data.directory)


def epoch_file(settings: Settings) -> Path:
    """Where this node remembers which store it belongs to."""
    return settings.data.directory / "epoch"


def holds_folder(settings: Settings) -> Path:
    """Where the workers of this node keep the tables of their holds."""
    return settings.data.directory / "holds"


def open_journal(settings: Settings) -> Journal:
    """The mail log as configured; raises ConfigError."""
    fd = 1
    if settings.journal.file is not None:
        try:
            fd = open_log(settings.journal.file)
        except OSError as error:
            raise ConfigError(f"journal.file: {settings.journal.file}: {error.strerror}") from None
    keep_figures()
    return Journal(fd, settings.smtp.hostname, settings.journal.style)


def keep_figures() -> None:
    """Give the figures of this process their blocks on the disk: they are mapped, and on a full disk a write to them would kill it."""
    if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        for path in Path(folder).glob(f"*_{os.getpid()}.db"):
            with path.open("r+b") as file, suppress(OSError):  # on a disk that is full already it is as it was
                os.posix_fallocate(file.fileno(), 0, FIGURES_ROOM)


def pending_file(settings: Settings) -> Path:
    """Where the workers of this node show each other that charges wait for the store."""
    return holds_folder(settings) / "pending"


def spool_file(settings: Settings) -> Path:
    """Where this node keeps what the smarthost did not take."""
    return (settings.spool.directory or settings.data.directory) / "spool.db"


def open_spool(settings: Settings, incarnation: str, journal: Journal, linger: float = 0.0) -> Spool:
    """This node's spool, for one of its processes; raises SpoolUnavailable."""
    return Spool(
        spool_file(settings), incarnation, settings.spool.reserve_bytes,
        on_corrupt=lambda id, why: journal.alarm("entry_corrupt", id=id, error=why), linger=linger,
    )  # fmt: skip


def quota_rules(settings: Settings) -> Rules:
    """The rules of counting as configured."""
    quota = settings.quota
    return Rules(
        window=quota.window_seconds, resolution=quota.resolution_seconds, unit=quota.unit, lease=quota.lease_seconds,
        rejected_factor=quota.rejected_factor, rejected_minimum=quota.rejected_minimum, rejected_unlimited=quota.rejected_unlimited,
        records=quota.records, keep_lapsed=max(KEEP_LAPSED, settings.retry.expire_seconds + KEEP_LAPSED / 7),
    )  # fmt: skip


@asynccontextmanager
async def open_rooms(settings: Settings, journal: Journal, may_create_key: bool = True) -> AsyncIterator[Rooms]:
    """Open what every role needs, and close it after; raises ConfigError, Unfit, StoreUnavailable or StoreForeign."""
    try:
        key = open_key(settings.accounts.key_file or settings.data.directory / "secret.key", may_create=may_create_key)
    except KeyUnusable as error:
        raise ConfigError(str(error)) from None
    store = Store(store_url(settings), settings.store.timeout_seconds)
    ledger = Ledger(store, quota_rules(settings))
    try:
        yield Rooms(settings, journal, store, ledger, key, Registry(store, key))
    finally:
        await store.close()


async def join(rooms: Rooms) -> list[str]:
    """Make sure that this is our store and fit to be; returns warnings, raises Unfit, StoreUnavailable or StoreForeign.

    From then on every new connection is made sure of again: it may come back another.
    """
    facts = _facts(rooms)
    try:
        await fitness.join(rooms.store, epoch_file(rooms.settings))
        warnings = await fitness.inspect(rooms.store)
        await fitness.agree(rooms.store, facts)
    finally:
        rooms.store.expect(fitness.standing(facts))
    return warnings


def _facts(rooms: Rooms) -> dict[str, str]:
    """What all nodes of a store must agree on."""
    rules = rooms.ledger.rules
    facts = {"window_seconds": str(rules.window), "resolution_seconds": str(rules.resolution), "unit": rules.unit}
    return facts | {"key": fingerprint(rooms.key)}


def settled_in(journal: Journal) -> Callable[[Charge, Settlement], None]:
    """What to put on record of a charge that had to wait."""

    def record(charge: Charge, settlement: Settlement) -> None:
        if settlement.outcome == "gone":  # its user was deleted, or the store lost it: there is no book to write it in
            journal.released(charge.id, charge.user, "gone")
        elif settlement.outcome == "done":  # it was carried out before, and only its answer was lost
            at = settlement.at if charge.accepted else 0
            journal.event("settled_before", id=charge.id, user=charge.user, units=charge.accepted, at=at)
        elif charge.accepted:
            journal.settled(charge.id, charge.user, charge.accepted, settlement.at, settlement.outcome == "late")
            if settlement.is_overdraft:
                journal.overdraft(charge.id, charge.user, charge.accepted, settlement.at)
        else:
            journal.released(charge.id, charge.user, "replayed")

    return record


def new_incarnation() -> str:
    """What begins every id of one worker process: unlike any other's, before or elsewhere (40 random bits)."""
    return "".join(secrets.choice("0123456789abcdefghjkmnpqrstvwxyz") for _ in range(8))


# -- roles -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SmtpPart:
    """What one SMTP worker is told besides the settings: the ports of its listeners, in order, its number and the node's tickets."""

    ports: Sequence[int]
    number: int
    tickets: Tickets | None


async def run_smtp(settings: Settings, incarnation: str, part: SmtpPart, ready: Callable[[], None]) -> None:
    """One SMTP worker, from its start to the end of its drain."""
    journal = open_journal(settings)
    life = Life(journal, incarnation, settings.journal.file)
    raise_file_limit(settings)
    if part.number == 0 and (short := file_shortage(settings)):
        journal.alarm("files_short", text=short)
    certificate = open_certificate(settings, part.tickets)
    async with open_rooms(settings, journal) as rooms, _spool(settings, incarnation, journal) as spool:
        await _rejoin(rooms)
        table = Table(holds_folder(settings) / f"{incarnation}.holds")
        teller = Teller(rooms.ledger, table, settled_in(journal), spool, Gate(pending_file(settings)))
        dispatch = open_dispatch(settings, journal, rooms.store, partial(worker_share, settings))
        house: session.House
        changes = Changes(rooms.store, CHANGES, lambda user: house.on_change(user))
        is_spooling = settings.upstream.when_unavailable == "spool"
        schedule = retry_schedule(settings)
        presence = Presence(rooms.store, incarnation, settings.smtp.max_connections_per_user)
        house = session.House(
            rules=_session_rules(settings), incarnation=incarnation, registry=rooms.registry,
            throttle=Throttle(rooms.store, settings.throttle), teller=teller, changes=changes, forward=dispatch.forward, journal=journal,
            route=own_route(settings), directory=Directory(rooms.store, rooms.key), terms=terms(settings),
            spool=spool if is_spooling else None, wait=lambda: schedule.wait(1, random.random()),  # noqa: S311
            presence=presence,
        )  # fmt: skip
        listeners = Listeners(house, Balancers(settings.smtp.proxies))
        for going in (changes.run, presence.run, partial(_tell_figures, journal)):
            life.carry(going)
        if certificate is not None:
            watch = Watch(certificate, journal, incarnation, is_herald=part.number == 0)
            life.on_reload.append(watch.hurry)
            life.carry(watch.run)
        try:
            await listeners.open(open_doors(settings, part.ports, certificate))
            ready()
            await life.stop.wait()
        finally:
            await listeners.drain(settings.smtp.drain_seconds)
            await life.lay_down()
            await presence.close()
            dispatch.close()
            if house.late:  # what they listened for stays in doubt, which they record
                await asyncio.wait(house.late, timeout=settings.store.timeout_seconds)
            await teller.close(settings.store.timeout_seconds)
            house.outbox.close()
            journal.tell_figures()


async def _tell_figures(journal: Journal) -> None:
    """Keep the figures of a worker up to date, until cancelled."""
    while True:
        await asyncio.sleep(FIGURES_EVERY)
        journal.tell_figures()


async def run_retry(settings: Settings, incarnation: str, ready: Callable[[], None]) -> None:
    """The retry process: tries spooled mail again until it is told to stop."""
    journal = open_journal(settings)
    life = Life(journal, incarnation, settings.journal.file)
    with suppress(OSError):
        os.nice(RETRY_NICE)  # who waits for an answer goes first
    async with open_rooms(settings, journal) as rooms, _spool(settings, incarnation, journal, RETRY_LINGER) as spool:
        await _rejoin(rooms)
        dispatch = open_dispatch(settings, journal, rooms.store, partial(retry_share, settings))
        rules = retry.Rules(
            hostname=settings.smtp.hostname, schedule=retry_schedule(settings), doubt=settings.retry.doubt_seconds,
            sessions=settings.retry.max_connections, is_holding=settings.retry.disabled_users == "hold",
            drain=settings.smtp.drain_seconds,
        )  # fmt: skip
        table = Table(holds_folder(settings) / f"{incarnation}.holds")  # it holds nothing; its lock shows that this process lives
        directory = Directory(rooms.store, rooms.key)
        runner = retry.Runner(spool, dispatch, own_route(settings), directory, rooms.ledger, rooms.registry, journal, rules)
        ready()
        try:
            await runner.run(life.stop)
        finally:
            dispatch.close()
            await spool.close()
            table.close()


@asynccontextmanager
async def _spool(settings: Settings, incarnation: str, journal: Journal, linger: float = 0.0) -> AsyncIterator[Spool]:
    spool = open_spool(settings, incarnation, journal, linger)
    try:
        yield spool
    finally:
        await spool.close()


async def run_api(settings: Settings, incarnation: str, sock: socket.socket, ready: Callable[[], None]) -> None:
    """The API process."""
    # Here, because the other processes need none of what the API needs, which is a sixth of a worker's memory.
    from relay.accounts.arranging import Arranging
    from relay.accounts.token import Tokens
    from relay.api.app import create_app
    from relay.api.rooms import Rooms as Behind
    from relay.api.server import serve_api

    journal = open_journal(settings)
    life = Life(journal, incarnation, settings.journal.file)
    async with open_rooms(settings, journal) as rooms, AsyncExitStack() as stack:
        await _rejoin(rooms)
        throttle = Throttle(rooms.store, settings.throttle)
        spool = None
        try:
            spool = await stack.enter_async_context(_spool(settings, incarnation, journal))
        except SpoolUnavailable as error:  # accounts can be administered without it
            journal.alarm("spool_unavailable", id="api", error=str(error))
        directory = Directory(rooms.store, rooms.key)
        app = create_app(
            Behind(
                settings.api, rooms.registry, provisioning(rooms), rooms.ledger, throttle, journal, rooms.store, directory,
                Arranging(rooms.store, rooms.key, directory, journal), Tokens(rooms.store, rooms.key, journal),
                open_guard(settings), settings.smtp.hostname, spool,
            )
        )  # fmt: skip
        ready()
        await serve_api(app, sock, life.stop, trusted_proxies=settings.api.trusted_proxies)


def provisioning(rooms: Rooms) -> Provisioning:
    """The writer of accounts."""
    accounts = rooms.settings.accounts
    return Provisioning(
        rooms.store, rooms.key, rooms.registry, rooms.ledger, rooms.journal,
        is_recoverable=accounts.recoverable_passwords, change_wait=rooms.settings.api.change_wait_seconds,
    )  # fmt: skip


async def _rejoin(rooms: Rooms) -> None:
    """A worker starts even on a store that is not ours: it says 454 and 451 until a person has looked."""
    rooms.store.expect(fitness.standing(_facts(rooms)))
    try:
        await fitness.join(rooms.store, epoch_file(rooms.settings))
    except StoreForeign as error:
        rooms.journal.alarm("store_foreign", error=str(error))


def _session_rules(settings: Settings) -> session.Rules:
    smtp = settings.smtp
    return session.Rules(
        hostname=smtp.hostname, max_message_bytes=smtp.max_message_bytes, max_recipients=smtp.max_recipients,
        max_connections=smtp.max_connections, max_connections_per_address=smtp.max_connections_per_address,
        max_commands=smtp.max_commands, max_errors=smtp.max_errors, login_timeout=smtp.login_timeout_seconds,
        min_rate=smtp.min_bytes_per_second, upload_memory=smtp.upload_memory_bytes, upload_wait=smtp.upload_wait_seconds,
        max_refusals=smtp.max_refusals, max_passes=smtp.max_passes,
        command_timeout=smtp.command_timeout_seconds, data_deadline=smtp.data_deadline_seconds, doubt=settings.retry.doubt_seconds,
        forward_margin=settings.upstream.forward_deadline_seconds + settings.store.timeout_seconds + LEASE_MARGIN,
    )  # fmt: skip


def check_doors(settings: Settings) -> None:
    """See that the certificates of both sides can be used; raises ConfigError."""
    check_outlet(settings)
    see_certificate(settings)
