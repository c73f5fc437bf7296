"""A relay's worst hour in a minute: two nodes on one store, four users at their limits, forty connections, and everything killed.

Everything is killed with SIGKILL at random moments of a seeded generator: SMTP workers, retry, API, a node's supervisor (its node is
then started again), the store and the smarthost; the store is also stopped for a while, which is worse. Nothing is judged here.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from relay.loadkit.attempt import Attempt
from relay.loadkit.caller import Caller, Unwelcome, dial
from relay.loadkit.message import Template
from relay.quota.limit import Rules
from relay.spool.spool import Spool
from tests.account import Evidence, Sent
from tests.evidence import read_books, read_evidence, read_sent
from tests.running import Relay, User, free_port, running, store_server
from tests.sink_process import SinkProcess

RULES = Rules(window=10, lease=10.0)
HOURLY = 120
"""Units a user may send in a window; four users may so be told 250 forty-eight times a second at most, and ask more often."""
USERS = 4
CONNECTIONS = 40
PAUSE = 0.15
"""Seconds between a client's messages, on average."""
WORKERS = 2
"""SMTP workers a node; with retry and API, eight processes are there to be killed."""

MOODS = """
rcpt match=bad* reply="550 5.1.1 no such user"
rcpt p=0.02 reply="450 4.2.0 busy"
mail p=0.005 reply="421 4.3.2 going down" close
data p=0.005 reply="451 4.3.0 not now"
data p=0.003 drop
dot p=0.02 reply="451 4.3.0 try again"
dot p=0.005 reply="554 5.6.0 not that"
dot p=0.01 drop
dot p=0.005 drop=after
dot p=0.005 stall=4
dot p=0.01 stall=8
data p=0.05 stall=0.3
dot p=0.3 stall=0.3
"""
"""What the smarthost does while the chaos lasts, the stalls so that kills meet mail on its way; afterwards only the first rule is left."""
CALM = 'rcpt match=bad* reply="550 5.1.1 no such user"\n'

TARGETS = {"smtp": 40, "retry": 15, "api": 8, "node": 4, "store": 15, "sink": 20, "stop": 6}
"""What is killed, by weight; `stop` stops the store for a while, and is no kill."""


@dataclass(slots=True)
class Figures:
    """What a run was, in numbers."""

    seed: int
    seconds: float = 0.0
    kills: Counter[str] = field(default_factory=Counter)
    stops: int = 0
    first_kill: float = 0.0
    accepted_after: int = 0
    """250s after the first kill."""
    outcomes: Counter[str] = field(default_factory=Counter)
    limited: int = 0
    """Refusals for the hourly limit, or for what was in flight."""
    released: int = 0
    """Reports that the smarthost had refused for good, and a person released."""
    drain: float = 0.0


class ServerOfStore:
    """The store's server, which may be killed and comes back on what it had."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._folder = folder
        self._context: AbstractAsyncContextManager[asyncio.subprocess.Process] | None = None
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._context = store_server(self.port, self._folder)
        self.process = await self._context.__aenter__()

    async def end(self) -> None:
        if self._context is not None:
            context, self._context, self.process = self._context, None, None
            await context.__aexit__(None, None, None)


class Workers:
    """The processes of a node, by name, as its journal tells of them."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._offset = 0
        self._pids: dict[str, int] = {}

    def alive(self) -> dict[str, int]:
        """The process ids of those that run."""
        with self._relay.journal.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            if b'"worker_started"' in line:
                event = json.loads(line)
                self._pids[event["worker"]] = event["pid"]
        return {name: pid for name, pid in self._pids.items() if _is_worker(pid)}


def _is_worker(pid: int) -> bool:
    try:
        return b"\0worker\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


class World:
    """All of it."""

    def __init__(self, place: Path, seed: int) -> None:
        self.place = place
        self.random = random.Random(seed)
        self.figures = Figures(seed)
        self.store = ServerOfStore(place / "store")
        self.sink = SinkProcess(place / "sink", MOODS)
        self.nodes: list[Relay] = []
        self.workers: list[Workers] = []
        self.users: list[User] = []
        self.sent: list[Sent] = []
        self._over = asyncio.Event()
        self._healing: list[asyncio.Task[None]] = []
        self._starting: Relay | None = None
        """The node whose supervisor was killed, until it is ready: its workers and the other supervisor are let alone meanwhile."""

    # -- the clients ---------------------------------------------------------------------------------------------------------

    async def chat(self, number: int) -> None:
        """Keep one connection busy until the chaos is over, on the other node each time it is lost."""
        user, turn = self.users[number % USERS], number
        while not self._over.is_set():
            turn += 1
            try:
                caller = await dial("127.0.0.1", self.nodes[turn % 2].smtp, user.name, user.password, "none", 15.0)
            except Unwelcome:
                await asyncio.sleep(0.1 + 0.2 * self.random.random())
                continue
            try:
                while caller.is_usable and not self._over.is_set():
                    if (await self._send(caller, user, number)).code == 421:
                        break
                    await asyncio.sleep(2 * PAUSE * self.random.random())
            finally:
                await caller.quit()

    async def _send(self, caller: Caller, user: User, number: int) -> Attempt:
        load_id = f"{self.figures.seed:08x}-{len(self.sent):06d}-{number:02d}"
        mark = f"{load_id}@load.example"
        self.figures.outcomes["attempted"] += 1
        names = [f"r{index}@load.example" for index in range(self.random.choice((1, 1, 1, 2, 3)))]
        if self.random.random() < 0.05:
            names[-1] = "bad@load.example"
        attempt = Attempt(load_id, user.name, number, len(names))
        place = len(self.sent)
        self.sent.append(Sent(mark, user.name, tuple(names), "silent"))  # until more is known
        wire = Template(700, len(load_id)).write(load_id, mark, names[0])
        await caller.send(attempt, mark, names, wire)
        self.sent[place] = sent = read_sent(attempt, mark, tuple(names))
        self.figures.outcomes[sent.outcome] += 1
        self.figures.limited += "7.0 Hourly sending limit reached" in sent.reply or "7.0 Sending limit taken by" in sent.reply
        self.figures.accepted_after += sent.outcome == "taken" and 0 < self.figures.first_kill < time.monotonic()
        return attempt

    # -- the faults ----------------------------------------------------------------------------------------------------------

    async def torment(self, seconds: float, kills: int, acceptances: int) -> None:
        """Kill until the time is over and both counts are reached, or twice the time has passed, and two minutes."""
        figures = self.figures
        began = time.monotonic()
        pace = min(2.0, seconds / (kills * 1.5))
        while (passed := time.monotonic() - began) < max(2 * seconds, 120):
            if passed >= seconds and figures.kills.total() >= kills and figures.accepted_after >= acceptances:
                break
            await asyncio.sleep(pace * (0.3 + 1.4 * self.random.random()))
            [what] = self.random.choices(list(TARGETS), list(TARGETS.values()))
            is_done = self._hit(what)
            if is_done and what != "stop":
                figures.kills[what] += 1
                figures.first_kill = figures.first_kill or time.monotonic()
        figures.seconds = time.monotonic() - began

    def _hit(self, what: str) -> bool:
        """Hit one process of a kind, if there is one to hit."""
        if what == "sink":
            process = self.sink.process if self.sink.is_ready else None
            return process is not None and process.returncode is None and self._heal(process, self._restart_sink(process))
        if what in ("store", "stop"):
            server = self.store.process
            if server is None or server.returncode is not None:
                return False
            return self._heal(server, self._restart_store(server)) if what == "store" else self._pause(server)
        if what == "node":
            supervisor = self.random.choice(self.nodes)
            process = supervisor.process if self._starting is None else None
            if process is None:
                return False
            self._starting = supervisor
            return self._heal(process, self._restart_node(supervisor, process))
        ready = [workers for workers, node in zip(self.workers, self.nodes, strict=True) if node is not self._starting]
        found = [pid for workers in ready for name, pid in workers.alive().items() if name.startswith(what)]
        if not found:
            return False
        os.kill(self.random.choice(found), signal.SIGKILL)
        return True

    def _heal(self, process: asyncio.subprocess.Process, restart: Coroutine[None, None, None]) -> bool:
        os.kill(process.pid, signal.SIGKILL)
        self._keep(restart)
        return True

    def _pause(self, server: asyncio.subprocess.Process) -> bool:
        self.figures.stops += 1
        os.kill(server.pid, signal.SIGSTOP)
        self._keep(self._resume(server))
        return True

    def _keep(self, healing: Coroutine[None, None, None]) -> None:
        self._healing.append(asyncio.create_task(healing))

    async def _restart_sink(self, killed: asyncio.subprocess.Process) -> None:
        await killed.wait()
        await self.sink.end()
        await asyncio.sleep(self.random.random())
        await self.sink.start()

    async def _restart_store(self, killed: asyncio.subprocess.Process) -> None:
        await killed.wait()
        await self.store.end()
        await asyncio.sleep(0.8 * self.random.random())
        await self.store.start()

    async def _restart_node(self, node: Relay, killed: asyncio.subprocess.Process) -> None:
        """Start a node again as soon as it can be: what its supervisor left behind drains first, and has its ports until then."""
        await killed.wait()
        end = time.monotonic() + 40
        while True:
            try:
                await node.start()
                break
            except AssertionError:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(0.2)
        self._starting = None

    async def _resume(self, server: asyncio.subprocess.Process) -> None:
        await asyncio.sleep(1 + 2 * self.random.random())
        with suppress(ProcessLookupError):  # killed while it was stopped
            os.kill(server.pid, signal.SIGCONT)

    # -- the end -------------------------------------------------------------------------------------------------------------

    async def heal(self) -> None:
        """Bring everything back, and a smarthost that is in a good mood."""
        await asyncio.gather(*self._healing)
        await self.sink.end()
        self.sink.script = CALM
        await self.sink.start()
        wanted = {*(f"smtp-{number}" for number in range(WORKERS)), "retry-0", "api-0"}
        await _until("every worker runs", lambda: all(wanted <= workers.alive().keys() for workers in self.workers), 40)

    async def drain(self, timeout: float) -> list[str]:
        """Send what is in the spools, until nothing is owed to anyone; what is left when the time is over."""
        began = time.monotonic()
        for node in self.nodes:
            await node.cli("queue", "flush")
        left: list[str] = ["?"]
        while left and time.monotonic() - began < timeout:
            await asyncio.sleep(0.5)
            left = [what for node in self.nodes for what in await self._owed_by(node)]
            books = await read_books(self.store.url, [user.name for user in self.users], RULES)
            left += [f"{book.user}: {book.in_flight} in flight" for book in books if book.in_flight]
        self.figures.drain = time.monotonic() - began
        return left

    async def _owed_by(self, node: Relay) -> list[str]:
        """What is in a node's spool. Reports that are held, because the smarthost refused them in its mood, are released."""
        spool = Spool(node.folder / "data" / "spool.db", "", 0)
        try:
            counts = await spool.counts()
            held = [entry.id async for page in spool.pages(which="held") for entry in page if entry.held == "undeliverable"]
        finally:
            await spool.close()
        if held:
            self.figures.released += len(held)
            await node.cli("queue", "release", *held)
        is_owing = counts.waiting or counts.held or counts.claimed or counts.charges
        return [f"{node.folder.name}: {counts}"] if is_owing else []

    async def evidence(self) -> Evidence:
        """Everything there is to know."""
        users = [user.name for user in self.users]
        return await read_evidence(self.nodes, self.store.url, users, self.sent, self.sink.copies(), RULES)


async def _until(what: str, is_so: object, timeout: float) -> None:
    assert callable(is_so)
    end = time.monotonic() + timeout
    while not is_so():
        assert time.monotonic() < end, f"not within {timeout:g} s: {what}"
        await asyncio.sleep(0.1)


def _configure(relay: Relay, world: World) -> None:
    """The settings of a node: everything that is waited for is short."""
    relay.config.write_text(
        f'[smtp]\nhostname = "{relay.folder.name}.example"\nworkers = {WORKERS}\ndata_deadline_seconds = 3\ndrain_seconds = 10\n'
        f"[[smtp.listen]]\nport = {relay.smtp}\nauth_without_tls = true\n[api]\nport = {relay.api}\n"
        f"[upstream]\nport = {world.sink.port}\nforward_deadline_seconds = 3\ntimeout_seconds = 2\ndown_seconds = 0.5\n"
        f'[store]\nurl = "{world.store.url}"\ntimeout_seconds = 1\n[data]\ndirectory = "{relay.folder / "data"}"\n'
        f"[quota]\nwindow_seconds = {RULES.window}\nlease_seconds = {RULES.lease}\nrecords = 1000000\n"
        "[retry]\nfirst_wait_seconds = 1\nlongest_wait_seconds = 2\ndoubt_seconds = 3\n"
        f'[accounts]\nkey_file = "{world.place / "key"}"\n[journal]\nfile = "{relay.journal}"\n'
    )


@asynccontextmanager
async def opened(place: Path, seed: int) -> AsyncIterator[World]:
    """The world in order: store, smarthost, two nodes and their users; ended whatever happens."""
    world = World(place, seed)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(world.store.end)
        stack.push_async_callback(world.sink.end)
        await world.store.start()
        await world.sink.start()
        for name in ("one", "two"):
            relay = await stack.enter_async_context(running(place / name, world.sink.port, is_started=False))
            _configure(relay, world)
            await relay.start()
            world.nodes.append(relay)
            world.workers.append(Workers(relay))
        world.users = [await world.nodes[0].add_user(hourly=HOURLY, total=10_000_000) for _ in range(USERS)]
        yield world


async def run(world: World, seconds: float, kills: int, acceptances: int) -> None:
    """Let the clients send while everything is killed; returns when it is over and everybody has hung up."""
    clients = [asyncio.create_task(world.chat(number)) for number in range(CONNECTIONS)]
    try:
        await asyncio.sleep(1)
        await world.torment(seconds, kills, acceptances)
    finally:
        world._over.set()
        done, _ = await asyncio.wait(clients, timeout=60)
        for task in clients:
            task.cancel()
    for task in done:
        task.result()
