"""The oracle against real relays with real faults: each planted one breaks the promises it must, and no two look the same.

All faulty workers stand beside the same relay's own, on its store, each with users, a mail log and a load of its own; one without a
fault is the control. What a fault breaks besides its own promise, and only with the right timing, is named too: nothing else may.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relay.loadkit.attempt import Attempt
from relay.loadkit.change import Change, Kind
from relay.loadkit.evidence import Evidence
from relay.loadkit.generator import Load
from relay.loadkit.history import read_journals
from relay.loadkit.oracle import judge
from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from relay.loadkit.verdict import Limits, Promise, Rules, Verdict
from tests.planted_worker import ROOT
from tests.running import Relay, User, free_port, running

WINDOW = 3
RULES = Rules(WINDOW, rejected_factor=1.0, rejected_minimum=5)
SETTINGS = f"[quota]\nwindow_seconds = {WINDOW}\nrejected_factor = 1.0\nrejected_minimum = 5\n[store]\ntimeout_seconds = 0.5\n"
SECONDS = 6.5
LOWERED = 5
"""The hourly limit that is set in the middle."""


@dataclass(frozen=True, slots=True)
class Part:
    """One user's load: what shows one kind of fault."""

    limits: Limits
    rate: float
    connections: int = 1
    sender: str = "app@load.example"
    change: Kind | None = None
    """What is done to the user in the middle of it."""


TRAFFIC = (
    Part(Limits(3, 100_000), 4),  # one message after the other: what its refusals say can be judged to the second
    Part(Limits(12, 100_000), 20, connections=4),
    Part(Limits(1000, 8), 4),
    Part(Limits(5, 100_000), 6, sender="bounce@load.example"),
    Part(Limits(1000, 100_000), 20, connections=3, change="disable"),
    Part(Limits(1000, 100_000), 8, connections=2, change="limits"),
    Part(Limits(1000, 100_000), 8, connections=2, change="password"),
)

# Each fault: what it must break, and what it may break besides.
Breaks = tuple[set[Promise], set[Promise]]
BROKEN: dict[str, Breaks] = {
    "none": (set(), set()),
    "fixed hour": ({"over-admission (hourly)"}, {"retry-after", "rejected-mail cap", "overtaken edits and disables"}),
    "total ignored": ({"over-admission (total)"}, set()),
    "counts late": ({"counted before the 250"}, {"wrong refusals"}),  # "in flight" is said when the client knows of nothing in flight
    "lost refund": ({"taken = ledger", "wrong refusals"}, set()),
    "lost message": ({"taken = sink"}, set()),
    "refuses with room": ({"wrong refusals"}, set()),
    "wrong second": ({"retry-after"}, set()),
    "late disable": ({"overtaken edits and disables"}, set()),
    "cap ignored": ({"rejected-mail cap"}, set()),
}
OUTAGE: dict[str, Breaks] = {"none": (set(), set()), "fail open": ({"over-admission (hourly)", "taken = ledger"}, set())}


@dataclass(slots=True)
class Planted:
    """A faulty worker and its users."""

    relay: Relay
    fault: str
    port: int
    journal: Path
    users: list[tuple[Part, User]]
    changes: list[Change]

    async def load(self, seconds: float) -> list[Attempt]:
        """Send by all parts at once."""
        loads = [
            Load(
                "127.0.0.1", self.port, [(user.name, user.password)], part.connections, seconds=seconds, size=300, rate=part.rate,
                sender=part.sender, patience=0.2,
            )
            for part, user in self.users
        ]  # fmt: skip
        changing = [asyncio.create_task(self._change(part.change, user, seconds / 2)) for part, user in self.users if part.change]
        sent = await asyncio.gather(*(load.run() for load in loads))
        await asyncio.gather(*changing)
        return [attempt for attempts in sent for attempt in attempts]

    async def _change(self, kind: Kind, user: User, after: float) -> None:
        await asyncio.sleep(after)
        call = "resetSmtpPassword" if kind == "password" else "editSmtp"
        bodies: dict[str, dict[str, Any]] = {"disable": {"status": "Disable"}, "limits": {"hourly_limit": LOWERED}}
        asked = time.time_ns() // 1000
        await self.relay.tes(call, smtp_user_name=user.name, **bodies.get(kind, {}))
        hourly, total = (LOWERED, 100_000) if kind == "limits" else (None, None)
        self.changes.append(Change(kind, user.name, asked, time.time_ns() // 1000, hourly, total))

    async def judge(self, attempts: Sequence[Attempt], sink: Sink) -> Verdict:
        """What the oracle says, once all is settled."""
        limits = {user.name: part.limits for part, user in self.users}
        # Who is disabled, or has another password now, is not shown its usage.
        shown = [user for part, user in self.users if part.change in (None, "limits")]
        ledger = {user.name: (await self.relay.usage(user))["sent_total"] for user in shown}
        history = await asyncio.to_thread(read_journals, [self.journal])
        return judge(Evidence(attempts, history, tuple(sink.messages), limits, tuple(self.changes), ledger), RULES)


@asynccontextmanager
async def planted(relay: Relay, fault: str, parts: Sequence[Part]) -> AsyncIterator[Planted]:
    """A worker of the relay with this fault, and users for it."""
    name = fault.replace(" ", "-")
    journal, config = relay.folder / f"{name}.log", relay.folder / f"{name}.toml"
    config.write_text(relay.config.read_text().replace(str(relay.journal), str(journal)))
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.planted_worker", fault, str(port), str(config), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        users = [(part, await relay.add_user(part.limits.hourly or 0, part.limits.total or 0)) for part in parts]
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"ready\n", f"no worker with the fault {fault}"
        yield Planted(relay, fault, port, journal, users, [])
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        status = await process.wait()
    assert status == 0, f"{fault}: exit status {status}"


async def _mid_window() -> None:
    """Wait until half of a calendar window is over, for what a fixed one lets through is seen across its end."""
    await asyncio.sleep((WINDOW / 2 - time.time()) % WINDOW)


def _check(verdicts: dict[str, Verdict], expected: dict[str, Breaks]) -> None:
    seen = {fault: verdict.broken for fault, verdict in verdicts.items()}
    wrong = {fault for fault, (must, may) in expected.items() if not must <= seen[fault] <= must | may}
    told = "\n".join(f"{fault}: {line}" for fault in sorted(wrong) for line in verdicts[fault].lines())
    assert not wrong, told
    assert len(set(seen.values())) == len(seen), seen
    assert {fault for fault, verdict in verdicts.items() if verdict.holds} == {"none"}


async def test_every_planted_fault_breaks_its_own_promises_and_the_unpatched_relay_none(place: Path, sink: Sink) -> None:
    sink.script = Script.parse(['rcpt sender=bounce@* reply="550 5.1.1 no such user"'])
    async with running(place / "relay", sink.port, SETTINGS, workers=1) as relay, AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(planted(relay, fault, TRAFFIC)) for fault in BROKEN]
        await _mid_window()
        sent = await asyncio.gather(*(worker.load(SECONDS) for worker in workers))
        await asyncio.sleep(1.5)  # what counts late has counted then
        verdicts = {worker.fault: await worker.judge(attempts, sink) for worker, attempts in zip(workers, sent, strict=True)}
    _check(verdicts, BROKEN)
    changes = next(check.text for check in verdicts["none"].checks if check.name == "overtaken edits and disables")
    assert all(f"{kind} " in changes for kind in ("disable", "limits", "password")), changes
    judged = {check.name for check in verdicts["none"].checks if check.is_held}
    assert judged == {check.name for check in verdicts["none"].checks}, "the control was to be judged on everything"


async def test_a_relay_that_fails_open_is_told_from_one_that_fails_closed(place: Path, sink: Sink) -> None:
    async with running(place / "relay", sink.port, SETTINGS, workers=1) as relay, AsyncExitStack() as stack:
        parts = (Part(Limits(12, 100_000), 30, connections=4),)
        workers = [await stack.enter_async_context(planted(relay, fault, parts)) for fault in OUTAGE]
        sending = asyncio.gather(*(worker.load(6) for worker in workers))
        await asyncio.sleep(1)
        store = relay.store_pid()
        os.kill(store, signal.SIGSTOP)
        try:
            await asyncio.sleep(2.5)
        finally:
            os.kill(store, signal.SIGCONT)
        sent = await sending
        await asyncio.sleep(1)
        verdicts = {worker.fault: await worker.judge(attempts, sink) for worker, attempts in zip(workers, sent, strict=True)}
    _check(verdicts, OUTAGE)
