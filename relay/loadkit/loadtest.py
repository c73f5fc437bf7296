"""A sink to leave running, and a load test from users to verdict.

Promises: `run_loadtest` judges by every record it is given and says of none that it saw what it did not; a sink it started is stopped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from relay.loadkit.attempt import Attempt
from relay.loadkit.caller import Tls
from relay.loadkit.generator import Load
from relay.loadkit.history import read_journals
from relay.loadkit.oracle import Evidence, judge
from relay.loadkit.provision import Provision, provision
from relay.loadkit.received import Received
from relay.loadkit.report import Display, Tally
from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from relay.loadkit.verdict import Limits, Rules, Unit, Verdict


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What to load, with what, and what to judge by. `seconds` and `messages` may both be given; the first to be reached ends it."""

    host: str = "127.0.0.1"
    port: int = 2525
    tls: Tls = "none"
    credentials: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    provision: Provision | None = None
    """Users to make for this run, in place of `credentials`."""
    hourly: int | None = None
    total: int | None = None
    """The limits of `credentials`, for the oracle. One of two that is None is unlimited; both None are unknown."""
    connections: int = 20
    messages: int | None = None
    seconds: float | None = None
    size: int = 2048
    recipients: int = 1
    per_connection: int = 0
    rate: float | None = None
    allow_remote: bool = False
    journals: tuple[str, ...] = ()
    """Paths or glob patterns of the relay's journals."""
    sink: int | None = None
    """Port of a sink to start in this process; 0 takes a free one, None starts none."""
    script: Script | None = None
    """What that sink does."""
    window_seconds: float = 3600.0
    resolution_seconds: float = 1.0
    unit: Unit = "messages"
    quiet_seconds: float = 5.0
    """How long at most to wait for what the relay still owes the sink."""
    json: bool = False


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The end of a load test."""

    tally: Tally
    verdict: Verdict

    @property
    def holds(self) -> bool:
        """Whether no promise was seen broken."""
        return self.verdict.holds

    def as_dict(self) -> dict[str, Any]:
        """All of it for a program."""
        return {"load": self.tally.as_dict(), "verdict": self.verdict.as_dict()}


async def run_sink(sink: Sink, emit: Callable[[str], None], every: float = 1.0) -> None:
    """Serve until cancelled, emitting a line of counts every so many seconds."""
    await sink.start()
    try:
        emit(f"sink listens on {sink.host}:{sink.port}")
        while True:
            before, began = sink.intake.answered, time.monotonic()
            await asyncio.sleep(every)
            intake = sink.intake
            rate = (intake.answered - before) / (time.monotonic() - began)
            codes = " ".join(f"{code}={count}" for code, count in sorted(intake.replies.items()))
            emit(
                f"{rate:.0f}/s messages={intake.answered} ids={len(intake.ids)} duplicates={intake.duplicates} "
                f"damaged={intake.damaged} unanswered={intake.unanswered} connections={len(sink.conversations)} replies {codes}"
            )
    finally:
        await sink.stop()


async def run_loadtest(options: LoadOptions, console: Console, on_sink: Callable[[Sink], None] | None = None) -> LoadResult:
    """Make users, send, wait, judge, and show it. `on_sink` is told of the sink once it listens.

    Raises ProvisionError, RemoteTarget, OSError or ValueError for what cannot be begun.
    """
    sink = None if options.sink is None else Sink("127.0.0.1", options.sink, options.script)
    for pattern in options.journals:
        expand(pattern)  # found out now, not after the load
    if sink is not None:
        await sink.start()
    try:
        if sink is not None and on_sink is not None:
            on_sink(sink)
        result = await _run(options, console, sink)
    finally:
        if sink is not None:
            await sink.stop()
    _show(result, options, console)
    return result


async def _run(options: LoadOptions, console: Console, sink: Sink | None) -> LoadResult:
    credentials, limits = await _users(options)
    load = Load(
        options.host, options.port, credentials, options.connections, options.messages, options.seconds, options.size,
        options.recipients, options.tls, options.per_connection, options.rate, allow_remote=options.allow_remote,
    )  # fmt: skip
    with Display(Console(quiet=True) if options.json else console) as display:
        attempts = await load.run(display.show)
    if sink is not None:
        await _quiet(sink, attempts, options.quiet_seconds)
    rules = Rules(options.window_seconds, options.resolution_seconds, options.unit)
    received = None if sink is None else tuple(sink.messages)
    # Journals and sums of many messages take a while; the sink goes on meanwhile.
    verdict = await asyncio.to_thread(_judge, options.journals, attempts, received, limits, rules)
    return LoadResult(display.tally, verdict)


async def _users(options: LoadOptions) -> tuple[Sequence[tuple[str, str]], dict[str, Limits]]:
    if options.provision is not None:
        made = await provision(options.provision)
        return made, {name: Limits(options.provision.hourly, options.provision.total) for name, _ in made}
    credentials = options.credentials or (("", ""),)
    if options.hourly is None and options.total is None:
        return credentials, {}
    return credentials, {name: Limits(options.hourly, options.total) for name, _ in credentials}


async def _quiet(sink: Sink, attempts: Sequence[Attempt], seconds: float) -> None:
    """Wait until every message that was answered 250 is at the sink, but not longer."""
    deadline = time.monotonic() + seconds
    owed = {attempt.load_id for attempt in attempts if attempt.is_taken}
    while owed - sink.ids.keys() and time.monotonic() < deadline:
        await asyncio.sleep(0.1)


def _judge(
    patterns: Sequence[str], attempts: Sequence[Attempt], received: Sequence[Received] | None, limits: dict[str, Limits], rules: Rules
) -> Verdict:
    paths = [path for pattern in patterns for path in expand(pattern)]
    history = read_journals(paths) if patterns else None
    return judge(Evidence(attempts, history, received, limits), rules)


def expand(pattern: str) -> list[Path]:
    """The files of a path or glob pattern. Raises FileNotFoundError if there are none: no journal is no proof."""
    path = Path(pattern)
    anchor = Path(path.anchor or ".")
    found = [path] if path.is_file() else sorted(anchor.glob(str(path.relative_to(path.anchor) if path.anchor else path)))
    if not found:
        raise FileNotFoundError(f"{pattern}: no such journal")
    return found


def _show(result: LoadResult, options: LoadOptions, console: Console) -> None:
    if options.json:
        console.print_json(data=result.as_dict())
        return
    console.print(result.tally.table(is_final=True))
    for line in result.verdict.lines():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
