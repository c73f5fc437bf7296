"""The supervisor: starts a relay's processes in order, watches them, stops them in reverse.

Promises:
- Nothing listens before the store is there and fit. What makes a start impossible is one line and exit status 2 (StartError).
- A worker that dies is restarted with a growing delay, and what it held in the ledger comes back at once: charged where the
  smarthost or the spool had taken the message, else released. What it was sending from the spool is tried again after the doubt.
- Charges that the store could not be told of before are recorded before anything new is reserved.
- The supervisor's death, however it comes, ends its processes.
- A stop lets the workers drain, then stops the API, and the store last. SIGHUP makes them
  open their mail log and read their certificate anew.

It shares no state with its processes but the store and the data directory. One life of a process is the worker's.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from prometheus_client import values
from pydantic import SecretStr

from relay.config import LEASE_MARGIN, ConfigError
from relay.config.settings import Settings
from relay.daemon import Rooms, check_doors, join, keep_figures, new_incarnation, open_journal, open_rooms, open_spool
from relay.estate import Estate
from relay.journal import WORKER_DEATHS, Journal
from relay.life import Life
from relay.session.listener import ListenError, bind
from relay.session.ticket import Tickets
from relay.spool.fault import SpoolUnavailable
from relay.spool.spool import Spool
from relay.store.client import StoreForeign, StoreRefused, StoreUnavailable
from relay.store.embedded import Embedded, EmbeddedError
from relay.store.fitness import Unfit
from relay.worker import Role, Surroundings, Worker

STEADY = 30.0
"""A worker that lived this long (s) is restarted without delay."""
TURN_KEYS = 60.0
"""Seconds between two looks whether the period of the ticket keys has ended."""
KILL_AFTER = 10.0
"""Seconds beyond its drain after which a worker that was told to stop is killed."""


class StartError(Exception):
    """The relay cannot start; the text is one line for the operator."""


async def serve(settings: Settings, roles: tuple[Role, ...], on_ready: Callable[[str], None]) -> None:
    """Run the relay until SIGTERM or SIGINT; `on_ready` hears one line once every process serves. Raises StartError."""
    try:
        journal = open_journal(settings)
        life = Life(journal, "relay", settings.journal.file)
        check_doors(settings)
        supervisor = Supervisor(settings, roles, journal, life.stop)
        life.on_reload.append(supervisor.reload)
        await supervisor.run(on_ready)
    except (ConfigError, ListenError, EmbeddedError, Unfit) as error:
        raise StartError(str(error)) from None


class Supervisor:
    """The parent of a relay's processes."""

    def __init__(self, settings: Settings, roles: tuple[Role, ...], journal: Journal, stop: asyncio.Event) -> None:
        self._settings = settings
        self._roles = roles
        self._journal = journal
        self._stop = stop
        self._reserved: list[socket.socket] = []
        self._api_socket: socket.socket | None = None
        self._environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
        self._failure: StartError | None = None
        self._workers: list[Worker] = []
        self._tickets = Tickets.fresh()

    async def run(self, on_ready: Callable[[str], None]) -> None:
        """The whole life of a relay."""
        settings = self._settings
        is_embedded = not settings.store.url.get_secret_value()
        if is_embedded and len(self._roles) == 1:
            raise StartError("--role needs store.url: separate roles cannot share an embedded store")
        embedded: Embedded | None = None
        locks = self._take_folder()
        spool: Spool | None = None
        try:
            self._take_ports()
            spool = self._open_spool()
            if is_embedded:
                server = Embedded(settings.data.directory, settings.store.server, settings.store.maxmemory, self._on_store_event)
                url = SecretStr(await server.start())
                settings = self._settings = settings.model_copy(update={"store": settings.store.model_copy(update={"url": url})})
                embedded = server
            async with open_rooms(settings, self._journal) as rooms:
                await self._await_store(rooms)
                estate = Estate(rooms, spool, self._journal)
                await self._settle_past(estate)
                await self._run_workers(estate, on_ready)
        finally:
            for sock in self._reserved:
                sock.close()
            if spool is not None:
                await spool.close()
            if embedded is not None:
                await embedded.stop()
            for lock in locks:
                os.close(lock)
        if self._failure is not None:
            raise self._failure

    def reload(self) -> None:
        """Have the workers read anew what they do; one that is just being started does so anyway."""
        for worker in self._workers:
            if worker.is_listening:
                worker.send(signal.SIGHUP)
        self._journal.event("reloaded", text="certificates are read and the mail log is opened anew; settings are read at a start only")

    def _on_store_event(self, name: str, text: str) -> None:
        if name == "store_started":
            self._journal.event(name, text=text)
        else:
            self._journal.alarm(name, text=text)

    def _take_folder(self) -> list[int]:
        """Make the data directory this relay's, one lock a role; the kernel frees them. The roles of a node share their figures."""
        folder = self._settings.data.directory
        metrics = folder / "metrics"
        locks = []
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for role in self._roles:
                locks.append(os.open(folder / f".{role}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
                fcntl.flock(locks[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            metrics.mkdir(exist_ok=True)
            _forget_dead(metrics)
        except BlockingIOError:
            raise StartError(f"data.directory: {folder} is in use by another relay") from None
        except OSError as error:
            raise StartError(f"data.directory: {error.filename}: {error.strerror}") from None
        self._environment["PROMETHEUS_MULTIPROC_DIR"] = os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
        # prometheus-client looked for the directory when it was imported; values made from now on are shared as well.
        values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]
        WORKER_DEATHS.labels("smtp")  # the first of them makes their file
        keep_figures()
        return locks

    def _take_ports(self) -> None:
        """See that the ports are free, and keep them: bound without listening, so that they are the workers' alone."""
        listens = [(listen.address, listen.port) for listen in self._settings.smtp.listen] if "smtp" in self._roles else []
        for address, port in listens:
            bind(address, port, shared=False).close()  # fails where another relay shares its port
            self._reserved.append(bind(address, port))
        if "api" in self._roles:
            self._api_socket = bind(self._settings.api.address, self._settings.api.port, shared=False)
            self._api_socket.listen(1024)
            self._reserved.append(self._api_socket)

    def _open_spool(self) -> Spool:
        try:
            return open_spool(self._settings, new_incarnation(), self._journal)
        except SpoolUnavailable as error:
            raise StartError(f"spool: {error}") from None

    # -- the store -----------------------------------------------------------------------------------------------------------

    async def _await_store(self, rooms: Rooms) -> None:
        """Wait until the store is there; raises Unfit. One that lost its data is an alarm, and the workers refuse everything."""
        is_told = False
        while not self._stop.is_set():
            try:
                for warning in await join(rooms):
                    self._journal.event("store_warning", text=warning)
            except StoreForeign as error:
                self._journal.alarm("store_foreign", error=str(error))
            except (StoreUnavailable, StoreRefused) as error:
                if not is_told:
                    self._journal.alarm("store_unreachable", error=str(error))
                    is_told = True
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), 0.5)
                continue
            return

    async def _settle_past(self, estate: Estate) -> None:
        """Before anything is reserved: the charges of a store that was away when this relay ended; a stop ends the waiting."""
        settling, stopping = asyncio.create_task(estate.replay()), asyncio.create_task(self._stop.wait())
        await asyncio.wait((settling, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        settling.cancel()
        with suppress(asyncio.CancelledError):
            await settling

    # -- the workers ---------------------------------------------------------------------------------------------------------

    async def _run_workers(self, estate: Estate, on_ready: Callable[[str], None]) -> None:
        smtp = self._settings.smtp
        count = smtp.processes if "smtp" in self._roles else 0
        workers = [Worker("smtp", number) for number in range(count)]
        workers += [Worker("retry", 0)] if "retry" in self._roles else []
        workers += [Worker("api", 0)] if "api" in self._roles else []
        self._workers = workers
        around = Surroundings(self._settings, self._journal, self._environment, self._ports(), self._api_socket, self._tickets)
        if "smtp" in self._roles or "retry" in self._roles:
            await estate.begin()
        keeping = {worker.name: asyncio.create_task(self._keep(worker, estate, around)) for worker in workers}
        stopping = asyncio.create_task(self._stop.wait())
        turning = asyncio.create_task(self._turn_keys())
        ready = asyncio.create_task(_all_ready(workers))
        try:
            await asyncio.wait((stopping, ready), return_when=asyncio.FIRST_COMPLETED)
            if not self._stop.is_set():
                line = self._describe(count)
                self._journal.event("ready", text=line)
                _notify(b"READY=1")
                on_ready(line)
                await stopping
        finally:
            self._stop.set()
            ready.cancel()
            turning.cancel()
            _notify(b"STOPPING=1")
            await self._stop_workers(workers, keeping)
            await estate.end(5)
            self._journal.event("stopped")

    async def _turn_keys(self) -> None:
        """Forget the secret of each period when it ends: what is in memory opens nothing of before."""
        while True:
            await asyncio.sleep(TURN_KEYS)
            self._tickets.move_on()

    def _describe(self, count: int) -> str:
        parts = []
        if "smtp" in self._roles:
            where = ", ".join(f"{listen.address}:{port}" for listen, port in zip(self._settings.smtp.listen, self._ports(), strict=True))
            parts.append(f"SMTP on {where} ({count} workers)")
        if self._roles == ("retry",):
            parts.append("retry")
        if self._api_socket is not None:
            parts.append(f"API on http://{self._settings.api.address}:{self._api_socket.getsockname()[1]}")
        return ", ".join(parts)

    def _ports(self) -> list[int]:
        return [sock.getsockname()[1] for sock in self._reserved if sock is not self._api_socket]

    async def _keep(self, worker: Worker, estate: Estate, around: Surroundings) -> None:
        """Keep one worker running until the relay stops."""
        delay = 0.1
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                status = await worker.live(around)
            except OSError as error:  # no more processes or files to be had: try again, ever slower
                self._journal.alarm("worker_start_failed", worker=worker.name, error=str(error))
                status = -1
            if worker.role != "api":
                estate.inherit(worker.incarnation)
            if self._stop.is_set():
                return
            if status == 2 and not worker.ready.is_set():  # it said why on standard error
                self._failure = StartError("")
                self._stop.set()
                return
            WORKER_DEATHS.labels(worker.role).inc()
            delay = 0.1 if time.monotonic() - began > STEADY else min(delay * 2, 10.0)
            self._journal.alarm("worker_died", worker=worker.name, incarnation=worker.incarnation, status=status, restart_in=delay)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), delay)

    def _drain_bound(self) -> float:
        """The longest a worker's drain takes: its patience, and then what is still on its way."""
        settings = self._settings
        margin = settings.upstream.forward_deadline_seconds + settings.store.timeout_seconds + LEASE_MARGIN
        return settings.smtp.drain_seconds + margin + settings.store.timeout_seconds

    async def _stop_workers(self, workers: list[Worker], keeping: dict[str, asyncio.Task[None]]) -> None:
        """The API last, so that it can still be asked while mail drains."""
        for roles in (("smtp", "retry"), ("api",)):
            these = [worker for worker in workers if worker.role in roles]
            for worker in these:
                worker.send(signal.SIGTERM)
            tasks = {keeping[worker.name] for worker in these}
            if not tasks:
                continue
            _, left = await asyncio.wait(tasks, timeout=self._drain_bound() + KILL_AFTER)
            if left:
                for worker in these:
                    worker.send(signal.SIGKILL)
                await asyncio.wait(left)
            for task in tasks:
                task.result()


def _forget_dead(metrics: Path) -> None:
    """Remove the figures of processes that ended long ago; those of another role of this node stay."""
    for file in metrics.glob("*.db"):
        pid = file.stem.rpartition("_")[2]
        if not Path(f"/proc/{pid}").exists():
            file.unlink(missing_ok=True)


async def _all_ready(workers: list[Worker]) -> None:
    for worker in workers:
        await worker.ready.wait()


def _notify(message: bytes) -> None:
    """Tell systemd, where it asked to be told (sd_notify(3))."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect("\0" + name[1:] if name.startswith("@") else name)
        sock.send(message)
