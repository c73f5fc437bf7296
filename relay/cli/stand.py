"""A stand to measure on: a relay of its own in a temporary directory, a sink in a process of its own, users, and the account of the mail.

Promises: whatever ends it, all it started has ended and its directory is gone. Mail goes to the sink of this machine and nowhere else.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import secrets
import shlex
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from typing import Any

from relay.cli.tryout import NotStarted, Place, add_owner, found_place, started
from relay.loadkit.attempt import Attempt
from relay.loadkit.authority import Authority
from relay.loadkit.bench import Account, NotAccounted
from relay.loadkit.caller import Tls, Unwelcome, dial
from relay.loadkit.history import History, read_history
from relay.loadkit.meter import Meter
from relay.loadkit.provision import Clerk, make
from relay.loadkit.verdict import Limits
from relay.worker import die_with

PLENTY = 10**8
"""A limit that no load meets."""
PATIENCE = 30.0
"""Seconds that a server may take to listen, and a ledger to have nothing in flight."""
STILL = 5.0
"""Seconds without a message after which none is waited for any more."""
STOPPING = 10.0

_COUNT = re.compile(rb"(?:messages|mesg)=(\d+)")
"""How `relay sink` and Postfix's smtp-sink tell what they were given."""


def unlimit() -> None:
    """Let this process and its children open as many files as they may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def free_port() -> int:
    """A port of this machine that nobody has."""
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


# -- a child -----------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def child(
    command: Sequence[str], port: int, name: str, *, environment: Mapping[str, str] | None = None, hears: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a server until the end; it has begun once its port answers. Raises NotStarted."""
    out = asyncio.subprocess.PIPE if hears else asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=asyncio.subprocess.STDOUT if hears else None,
            start_new_session=True, preexec_fn=die_with(os.getpid()), env={**os.environ, **(environment or {})},
        )  # fmt: skip
    except OSError as error:
        raise NotStarted(f"{name}: {command[0]}: {error.strerror}") from None
    try:
        await _await_port(process, port, name)
        yield process
    finally:
        await _end(process)


async def _await_port(process: asyncio.subprocess.Process, port: int, name: str) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while process.returncode is None:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    return
                await asyncio.sleep(0.05)
    said = "" if process.returncode is None else f": it ended with status {process.returncode}"
    raise NotStarted(f"{name} does not listen on port {port}{said}")


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOPPING):
                await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()


class Basin:
    """The sink's process, and how many messages it says it was given."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self.count = 0
        self._tail = b""
        self._process = process

    async def listen(self) -> None:
        """Read what it says until it ends."""
        assert self._process.stdout is not None
        while heard := await self._process.stdout.read(1 << 16):
            self._tail = (self._tail + heard)[-(1 << 16) :]
            if found := _COUNT.findall(self._tail):
                self.count = int(found[-1])
            self._tail = self._tail[-300:]


@asynccontextmanager
async def basin(command: str, port: int, script: Sequence[str] = ()) -> AsyncIterator[Basin]:
    """Run the sink, or what the operator has in its place. Raises NotStarted."""
    words = (
        shlex.split(command.replace("{port}", str(port)))
        if command
        else [sys.executable, "-m", "relay", "sink", "--port", str(port), "--every", "0.1", *(f"--script={rule}" for rule in script)]
    )
    async with child(words, port, "the sink", environment={"PORT": str(port)}, hears=True) as process:
        found = Basin(process)
        listening = asyncio.create_task(found.listen())
        try:
            yield found
        finally:
            listening.cancel()
            await asyncio.wait([listening])


# -- a server to load --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Server:
    """Someone who takes the load."""

    name: str
    ports: Mapping[Tls, int]
    """By the ways to TLS that it offers."""
    users: Sequence[tuple[str, str]] = field(repr=False)
    meter: Meter = field(repr=False)


@asynccontextmanager
async def beside(name: str, command: str, place: Place, sink: Basin, workers: int) -> AsyncIterator[Server]:
    """Run another server, to be loaded in turns with ours. It is told where to listen, where to forward to, and whom to let in."""
    told = {
        "port": str(free_port()), "sink": str(place.sink), "user": "bench", "password": secrets.token_urlsafe(16),
        "certificate": str(place.folder / "certificate.pem"), "workers": str(workers),
    }  # fmt: skip
    for key, value in told.items():
        command = command.replace(f"{{{key}}}", value)
    environment = {f"BENCH_{key.upper()}": value for key, value in told.items()}
    port, users = int(told["port"]), [(told["user"], told["password"])]
    async with child(shlex.split(command), port, name, environment=environment) as process:
        ports: dict[Tls, int] = {}
        offered: tuple[Tls, ...] = ("none", "starttls")
        for tls in offered:
            with suppress(Unwelcome):
                await (await dial("127.0.0.1", port, *users[0], tls, 10.0)).quit()
                ports[tls] = port
        if "none" not in ports:
            raise NotStarted(f"{name}: it does not let in the user it was told of")
        yield Server(name, ports, users, Meter({name: process.pid, "sink": sink.pid}))


# -- our own -----------------------------------------------------------------------------------------------------------------


class Stand:
    """A relay that runs, its sink, its users, and how far their mail was accounted for."""

    def __init__(self, place: Place, clerk: Clerk, server: Server, sink: Basin) -> None:
        self.place, self.clerk, self.server, self.sink = place, clerk, server, sink
        self._counted: dict[str, int] = {}
        self._offset = 0

    async def account(self, attempts: Sequence[Attempt], before: int, kept_for: Clerk | None = None) -> Account:
        """Wait until all is where it belongs, and count; `before` is what the sink had.

        `kept_for` is who asks for an owner whose smarthost is away: mail that was spooled stays with the relay then.
        """
        answered = sum(attempt.is_taken for attempt in attempts)
        ledger = await self._ledger(kept_for or self.clerk, {attempt.user for attempt in attempts})
        history = await asyncio.to_thread(self._read_journal)
        commits = [commit for commit in history.commits.values() if commit.recipients is not None]
        journal = sum(commit.units for commit in commits)
        kept = sum(commit.spooled for commit in commits) if kept_for else 0
        await arrived(self.sink, before + journal - kept)
        return Account(answered, unanswered(attempts), self.sink.count - before, ledger, journal, kept)

    async def skip(self) -> None:
        """Leave what the journal has so far out of the account."""
        self._offset = self.place.journal.stat().st_size

    async def _ledger(self, clerk: Clerk, users: set[str]) -> int:
        """What the ledger has taken of these users since it was last asked."""
        found = 0
        for user in sorted(users):
            try:
                async with asyncio.timeout(PATIENCE):
                    while (now := await clerk.usage(user))[1]:
                        await asyncio.sleep(0.05)
            except TimeoutError:
                raise NotAccounted(f"the ledger still has messages of {user} in flight after {PATIENCE:g} s") from None
            found += now[0] - self._counted.get(user, 0)
            self._counted[user] = now[0]
        return found

    def _read_journal(self) -> History:
        with self.place.journal.open("rb") as file:
            file.seek(self._offset)
            octets = file.read()
        whole = octets[: octets.rfind(b"\n") + 1]
        self._offset += len(whole)
        return read_history(whole.decode("utf-8", "replace").splitlines())


def unanswered(attempts: Sequence[Attempt]) -> int:
    """Final dots without a reply."""
    return sum(attempt.is_unanswered for attempt in attempts)


async def arrived(sink: Basin, count: int) -> None:
    """Wait until the sink says it has so many, or nothing new comes; and a moment more, in which one too many would be seen."""
    loop = asyncio.get_running_loop()
    known, since = sink.count, loop.time()
    while sink.count < count and loop.time() - since < STILL:
        await asyncio.sleep(0.05)
        if sink.count != known:
            known, since = sink.count, loop.time()
    await asyncio.sleep(0.15)


@asynccontextmanager
async def stand(
    sink_command: str = "", users: int = 1, settings: Mapping[str, Mapping[str, Any]] | None = None, *, script: Sequence[str] = ()
) -> AsyncIterator[Stand]:
    """A relay as shipped, but for its ports, where its data lies, and these settings. Raises NotStarted, ProvisionError."""
    unlimit()
    with found_place("relay-bench-") as place:
        implicit = free_port()
        certificate = place.folder / "certificate.pem"
        certificate.write_bytes(Authority(["relay.example", "127.0.0.1"]).pair())
        listen = [{"port": place.smtp, "tls": "starttls", "auth_without_tls": True}, {"port": implicit, "tls": "implicit"}]
        given: dict[str, dict[str, Any]] = {key: dict(value) for key, value in (settings or {}).items()}
        tls = {"listen": listen, "tls": {"certificate": str(certificate), "key": str(certificate)}}
        given["smtp"] = {**tls, **given.get("smtp", {})}
        said: list[str] = []
        say: Callable[[str], None] = said.append
        async with basin(sink_command, place.sink, script) as sink, started(place, given, say) as process:
            owner, token = await add_owner(place, "bench")
            clerk = Clerk(f"http://127.0.0.1:{place.api}", owner, token)
            names = await make(clerk, [Limits(PLENTY, PLENTY)] * users)
            ports: dict[Tls, int] = {"none": place.smtp, "starttls": place.smtp, "implicit": implicit}
            meter = Meter({"relay": process.pid, "sink": sink.pid})
            yield Stand(place, clerk, Server("relay", ports, [(name, clerk.made[name]) for name in names], meter), sink)
