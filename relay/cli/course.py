"""What `relay bench` measures, in its order: the whole path, growth, memory.

Promises: each measurement is told as it comes, and its mail accounted for before the next; one whose mail is not ends the course
(NotAccounted). How long it takes is the plan's.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from relay.accounts.provisioning import Provisioning
from relay.cli.door import Door, opened
from relay.cli.stand import PLENTY, Server, Stand, arrived, beside, free_port, stand, unanswered
from relay.cli.tryout import NotStarted
from relay.loadkit.bench import OURS, Account, Curve, Figure, Findings, Round, check, join, measure, measure_steadily
from relay.loadkit.caller import Tls
from relay.loadkit.generator import Load
from relay.loadkit.machine import describe
from relay.loadkit.meter import Meter, forget_peak, peak
from relay.loadkit.multitude import enter, leave, upload
from relay.loadkit.provision import Clerk
from relay.store.client import Store, StoreRefused, StoreUnavailable
from relay.upstream.route import Choice, Target

SIZES = {"2 KB": 2048, "50 KB": 51_200, "1 MB": 1_048_576}
MODES: dict[str, Tls] = {"plain": "none", "STARTTLS": "starttls", "TLS": "implicit"}
WAYS = {"open connections": 0, "one message a connection": 1}
CONNECTIONS = 20
FIXED = 10
"""Users that the sends of a growth curve are spread over, where they are few."""
CROWD = 100
"""Connections of a wave over users at random."""
SAMPLE = 2000
AT_ONCE = 250
SMALL = 32 << 20
"""A small budget of memory for uploads, octets."""
MB = 1 << 20
GROUPS = ("path", "connections", "users", "spool", "memory")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int = 3
    seconds: float = 3.0
    """Of a round."""
    rate: float = 800.0
    """Messages a second while connections grow."""
    steady: float = 8.0
    connections: tuple[int, ...] = (1, 10, 100, 500, 1000, 2000)
    users: tuple[int, ...] = (10, 1000, 100_000, 1_000_000)
    waves: int = 8
    depths: tuple[int, ...] = (0, 1000, 10_000, 100_000)
    idle: int = 1000
    uploads: int = 500

    def scaled(self, by: float) -> Plan:
        """A part of it, the same things in smaller numbers."""

        def less(counts: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(dict.fromkeys(min(count, max(1, round(count * by))) for count in counts))

        return Plan(
            max(1, round(self.rounds * by)), self.seconds * by, self.rate, self.steady * by, less(self.connections), less(self.users),
            max(1, round(self.waves * by)), less(self.depths), max(1, round(self.idle * by)), max(1, round(self.uploads * by)),
        )  # fmt: skip

    def with_rounds(self, rounds: int) -> Plan:
        """It with so many rounds of each case; 0 leaves them."""
        return replace(self, rounds=rounds) if rounds else self


WHOLE = Plan()
QUICK = Plan(1, 0.8, 500.0, 1.5, (10, 500), (10, 2000), 2, (0, 1000), 200, 100)


@dataclass(slots=True)
class Course:
    """One run of the benchmark."""

    plan: Plan
    findings: Findings
    say: Callable[[str], None]
    only: Sequence[str] = ()
    """What is wanted: names of GROUPS or parts of the names of cases; empty is all."""
    sink_command: str = ""
    besides: dict[str, str] = field(default_factory=dict)
    random: Random = field(default_factory=lambda: Random(1))  # noqa: S311 - repeatable on purpose

    async def run(self) -> None:
        """Measure all that is wanted."""
        if cases := self.cases():
            await self._path(cases)
        if self._wants("connections"):
            await self._connections()
        if self._wants("users"):
            await self._users()
        if self._wants("spool"):
            await self._spool()
        if self._wants("memory"):
            await self._memory("memory", {})
            await self._memory(f"memory, a budget of {SMALL // MB} MB", {"smtp": {"upload_memory_bytes": SMALL}})
            for mode in ("TLS", "STARTTLS"):
                await self._idle(mode)

    def cases(self) -> list[tuple[str, int, Tls, int]]:
        """The cases of the whole path that are wanted: name, size, TLS, messages a connection."""
        every = [
            (f"{size}, {mode}, {way}", octets, tls, per)
            for size, octets in SIZES.items() for mode, tls in MODES.items() for way, per in WAYS.items()
        ]  # fmt: skip
        parts = [word for word in self.only if word not in GROUPS]
        return [case for case in every if self._wants("path") or any(part.lower() in case[0].lower() for part in parts)]

    def _wants(self, group: str) -> bool:
        return not self.only or group in self.only

    def _told(self, found: Round) -> Round:
        self.say(f"{found.name}: {found.line()}")
        return found

    async def _name_machine(self, there: Stand) -> None:
        if self.findings.machine:
            return
        async with opened(there.place.config) as door:
            said = (await door.store.command("INFO", "server")).decode()
        # Valkey tells a redis_version too, that of the protocol it keeps to.
        version = re.search(r"valkey_version:(\S+)", said) or re.search(r"redis_version:(\S+)", said)
        name = f"{version[0].partition('_')[0].capitalize()} {version[1]}, fsync always" if version else ""
        self.findings.machine.update(describe(there.place.folder, name))
        self.findings.machine["workers"] = str(len(there.server.meter.pids("smtp")))
        self.say(", ".join(f"{key} {value}" for key, value in self.findings.machine.items()))

    # -- the whole path ------------------------------------------------------------------------------------------------------

    async def _path(self, cases: Sequence[tuple[str, int, Tls, int]]) -> None:
        async with AsyncExitStack() as stack:
            there = await stack.enter_async_context(stand(self.sink_command))
            await self._name_machine(there)
            servers = [there.server]
            workers = len(there.server.meter.pids("smtp"))
            for name, command in self.besides.items():
                servers.append(await stack.enter_async_context(beside(name, command, there.place, there.sink, workers)))
            rest = there.server.meter.resident("smtp")
            for server in servers:  # whatever is made once is made now
                found = await self._case(there, server, "warming up", 2048, "none", 0, self.plan.seconds / 2)
                if not found.taken:
                    raise NotStarted(f"{server.name}: it took no message: {found.others}")
            for case in cases:
                for _ in range(self.plan.rounds):
                    for server in servers:
                        if case[2] in server.ports:
                            found = await self._case(there, server, *case, self.plan.seconds)
                            self.findings.rounds.append(self._told(found))
            self._figure("a worker before the whole path", rest / MB, "MB", "RSS, the largest")
            self._figure("a worker after the whole path", there.server.meter.resident("smtp") / MB, "MB", "RSS, the largest")

    async def _case(self, there: Stand, server: Server, name: str, size: int, tls: Tls, per: int, seconds: float) -> Round:
        load = self._load(server, tls, CONNECTIONS, seconds=seconds, size=size, per_connection=per)
        before = there.sink.count
        found = await measure(load, server.meter, server.name, name)
        if server.name == OURS:
            account = await there.account(load.attempts, before)
        else:
            answered = sum(attempt.is_taken for attempt in load.attempts)
            await arrived(there.sink, before + answered)
            account = Account(answered, unanswered(load.attempts), there.sink.count - before)
        check(account, f"{server.name}, {name}")
        return found

    def _load(self, server: Server, tls: Tls, connections: int, users: Sequence[tuple[str, str]] = (), **more: Any) -> Load:
        users = users or server.users[:1]
        return Load("127.0.0.1", server.ports[tls], users, connections, tls=tls, seed=self.random.randrange(1 << 30), **more)

    def _figure(self, name: str, value: float, unit: str, text: str = "") -> None:
        self.findings.figures.append(Figure(name, value, unit, text))
        self.say(f"{name}: {value:,.1f} {unit}{f' ({text})' if text else ''}")

    # -- growth --------------------------------------------------------------------------------------------------------------

    async def _connections(self) -> None:
        curve = Curve("connections", "open connections")
        self.findings.curves.append(curve)
        async with stand(self.sink_command, users=FIXED) as there:
            await self._name_machine(there)
            for count in self.plan.connections:
                load = self._load(
                    there.server, "none", count, there.server.users, seconds=self.plan.steady, rate=self.plan.rate, size=2048
                )  # fmt: skip
                before = there.sink.count
                name = f"{count:,} connections, {self.plan.rate:g}/s"
                found = await measure_steadily(load, there.server.meter, self.plan.steady, OURS, name, count)
                check(await there.account(load.attempts, before), name)
                curve.series.setdefault("relay", []).append(self._told(found))

    async def _users(self) -> None:
        curve = Curve("users", "users in the store")
        self.findings.curves.append(curve)
        maxmemory = {"store": {"maxmemory": "3gb"}}  # the default holds some 200,000
        async with stand(self.sink_command, FIXED, maxmemory) as there, opened(there.place.config) as door:
            await self._name_machine(there)
            few, known, made = there.server.users, list(there.server.users), FIXED
            began, at_first = await used_memory(door.store), made
            for count in self.plan.users:
                if count > made:
                    await self._add(door, there, known, count - made)
                    made = count
                await await_rewrite(door.store)
                await there.skip()
                for name, users in (("10 users", few), ("users at random", known)):
                    found = await self._waves(there, f"{made:,} users in the store, {name}", users, made)
                    curve.series.setdefault(name, []).append(self._told(found))
            if made > at_first:
                each = (await used_memory(door.store) - began) / (made - at_first)
                self._figure("store memory a user", each, "octets", f"INFO used_memory, accounts, {made:,} users")

    async def _waves(self, there: Stand, name: str, users: Sequence[tuple[str, str]], x: float) -> Round:
        """Loads one after the other, each over users drawn at random; logging in counts."""
        found = []
        for _ in range(self.plan.waves):
            drawn = self.random.sample(users, min(CROWD, len(users)))
            load = self._load(there.server, "none", CROWD, drawn, messages=CROWD * 20, size=2048)
            before = there.sink.count
            found.append(await measure(load, there.server.meter, OURS, name, x, with_entry=True))
            check(await there.account(load.attempts, before), name)
        return join(found)

    async def _add(self, door: Door, there: Stand, known: list[tuple[str, str]], count: int) -> None:
        """Put more users into the store, and keep a sample of all."""
        began, todo = time.monotonic(), iter(range(count))
        seen = len(known)

        async def work(provisioning: Provisioning) -> None:
            nonlocal seen
            for _ in todo:
                user, password = await provisioning.add_user(there.clerk.owner, PLENTY, PLENTY)
                seen += 1
                place = self.random.randrange(seen)
                if len(known) < SAMPLE:
                    known.append((user.name, password))
                elif place < SAMPLE:
                    known[place] = (user.name, password)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(work(door.provisioning))
        except* (StoreUnavailable, StoreRefused) as errors:
            raise NotStarted(f"{count:,} users could not be made: {errors.exceptions[0]}") from None
        self.say(f"{count:,} users made in {time.monotonic() - began:.0f} s")

    async def _spool(self) -> None:
        curve = Curve("spool depth", "messages that wait")
        self.findings.curves.append(curve)
        away = free_port()
        guard = {"guard": {"allow_networks": ["127.0.0.0/8"], "allow_ports": [away]}}
        async with stand(self.sink_command, 1, guard) as there, opened(there.place.config) as door:
            await self._name_machine(there)
            owner, token = await door.provisioning.add_owner("whose smarthost is away")
            await door.arranging.put_setting(owner.owner_id, "", (Choice(Target("127.0.0.1", away)),))
            user, password = await door.provisioning.add_user(owner.owner_id, PLENTY, PLENTY)
            clerk = Clerk(there.clerk.url, owner.owner_id, token)
            depth = 0
            for wanted in self.plan.depths:
                if wanted > depth:
                    depth += await self._fill(there, clerk, (user.name, password), wanted - depth)
                load = self._load(there.server, "none", CONNECTIONS, seconds=self.plan.steady, size=2048)
                before = there.sink.count
                name = f"{depth:,} waiting in the spool"
                found = await measure(load, there.server.meter, OURS, name, depth)
                check(await there.account(load.attempts, before), name)
                curve.series.setdefault("relay", []).append(self._told(found))

    async def _fill(self, there: Stand, clerk: Clerk, user: tuple[str, str], count: int) -> int:
        """Send mail that can go nowhere; returns how many messages wait more than before."""
        load = self._load(there.server, "none", 50, [user], messages=count, size=200)
        before = there.sink.count
        filling = await measure(load, there.server.meter, OURS, "spooled", count)
        account = await there.account(load.attempts, before, clerk)
        check(account, "filling the spool")
        if not account.kept:
            last = load.attempts[-1]
            raise NotStarted(f"nothing was spooled for a smarthost that is away: {last.code} {last.text}")
        self.say(f"filling the spool: {filling.line()}")
        return account.kept

    # -- memory --------------------------------------------------------------------------------------------------------------

    async def _memory(self, name: str, settings: dict[str, dict[str, Any]]) -> None:
        slow = ["dot stall=0.2"]  # a smarthost that takes its time, so that messages are kept
        async with stand("", FIXED, settings, script=slow) as there:
            await self._name_machine(there)
            meter, server = there.server.meter, there.server
            if not settings:
                self._figure("a worker at rest", meter.resident("smtp") / MB, "MB", "RSS, the largest")
                self._figure("all of the relay at rest", _resident(meter) / MB, "MB", "RSS of all its processes, the store apart")
            for pid in meter.pids("smtp"):
                forget_peak(pid)
            rest, before = meter.resident("smtp"), there.sink.count
            attempts = await upload(server.ports["none"], server.users, self.plan.uploads, MB)
            highest = max(peak(pid) for pid in meter.pids("smtp"))
            check(await there.account(attempts, before), name)
            codes = Counter(attempt.code for attempt in attempts)
            text = f"RSS, the largest at its peak; {self.plan.uploads} connections upload 1 MB each at once, answered "
            text += ", ".join(f"{code}: {count}" for code, count in sorted(codes.items()))
            self._figure(f"{name}: a worker under uploads", highest / MB, "MB", text)
            self._figure(f"{name}: messages of that", (highest - rest) / MB, "MB", "beyond what it held before")

    async def _idle(self, mode: str) -> None:
        """What a silent connection costs, over all workers; they are new, for memory that was once used would be used again."""
        async with stand("", FIXED) as there:
            server, tls = there.server, MODES[mode]
            # What is made once for all connections is there before them.
            first = await enter(server.ports[tls], server.users, len(server.meter.pids("smtp")) * 2, tls)
            before = server.meter.total("smtp")
            callers = await enter(server.ports[tls], server.users, self.plan.idle, tls)
            await asyncio.sleep(1.0)
            each = (server.meter.total("smtp") - before) / len(callers)
            await leave([*first, *callers])
        self._figure(f"an idle connection, {mode}", each / 1024, "KB", f"RSS, {len(callers):,} connections that have logged in")


def _resident(meter: Meter) -> int:
    return sum(meter.total(role) for role in ("smtp", "retry", "api", "supervisor"))


async def await_rewrite(store: Store) -> None:
    """Wait until the store is not writing its file anew, which is work for users made before."""
    while b"aof_rewrite_in_progress:1" in await store.command("INFO", "persistence"):
        await asyncio.sleep(0.2)


async def used_memory(store: Store) -> int:
    """INFO used_memory, octets."""
    found = re.search(rb"\nused_memory:(\d+)", await store.command("INFO", "memory"))
    assert found is not None
    return int(found[1])
