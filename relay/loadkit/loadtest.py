"""A sink to leave running, and a load test from users to verdict.

Promises: `run_loadtest` judges by every record it is given and says of none that it saw what it did not; a sink it started is stopped,
and every user it made is removed, whatever ends it; one that could not be is named.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from relay.loadkit.amendment import Amendment
from relay.loadkit.attempt import Attempt
from relay.loadkit.evidence import Evidence
from relay.loadkit.generator import Load, resolve
from relay.loadkit.history import read_journals
from relay.loadkit.oracle import judge
from relay.loadkit.outcome import Outcome
from relay.loadkit.provision import Clerk, ProvisionError, make
from relay.loadkit.report import Display, Tally
from relay.loadkit.scenario import Group, Scenario, ScenarioError, assign
from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from relay.loadkit.verdict import Limits, Rules

PORT = 2525
"""Where a host without a port is dialled."""

COUNTING = 3.0
"""Seconds that a relay may take to count, and put on record, what the sink has just answered: its store may be away."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The end of a load test."""

    outcome: Outcome
    tally: Tally

    @property
    def holds(self) -> bool:
        """Whether a promise was seen to hold and none broken, and every change that was planned was made."""
        return self.outcome.verdict.proves


@dataclass(slots=True)
class Cast:
    """Who sends: in the scenario's order, with the limits that are known."""

    users: list[str]
    passwords: dict[str, str] = field(repr=False)
    limits: dict[str, Limits]


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
                f"{rate:.0f}/s messages={intake.answered} ids={intake.distinct} duplicates={intake.duplicates} "
                f"damaged={intake.damaged} unanswered={intake.unanswered} connections={len(sink.conversations)} replies {codes}"
            )
    finally:
        await sink.stop()


async def run_loadtest(
    scenario: Scenario,
    console: Console,
    *,
    credentials: Sequence[tuple[str, str]] = (),
    warn: Callable[[str], None] = lambda text: None,
    on_sink: Callable[[Sink], None] | None = None,
) -> LoadResult:
    """Make users unless `credentials` are given, send, wait, judge; the load is shown on the console while it runs.

    `warn` hears what went amiss without being part of the verdict; `on_sink` is told of the sink once it listens. Raises ProvisionError,
    OSError or ValueError (RemoteTarget, ScenarioError) for what cannot be begun.
    """
    target = scenario.target
    for pattern in target.journal:
        expand(pattern)  # found out now, not after the load
    await resolve(_host(scenario), _port(scenario), target.allow_remote)
    clerk = Clerk(scenario.api.url, scenario.api.owner, scenario.api.token) if scenario.api.url else None
    if scenario.change and clerk is None:
        raise ScenarioError("change: an API is needed to ask for changes")
    async with AsyncExitStack() as stack:
        sink = None
        if scenario.sink.port is not None:
            sink = Sink("127.0.0.1", scenario.sink.port, Script.parse(scenario.sink.script), scenario.sink.seed)
            await sink.start()
            stack.push_async_callback(sink.stop)
            if on_sink is not None:
                on_sink(sink)
        if clerk is not None:
            stack.push_async_callback(_dismiss, clerk, warn)
        cast = await _assemble(scenario, clerk, credentials)
        return await _perform(scenario, console, cast, clerk, sink)


def _host(scenario: Scenario) -> str:
    return scenario.target.host or "127.0.0.1"


def _port(scenario: Scenario) -> int:
    return PORT if scenario.target.port is None else scenario.target.port


async def _dismiss(clerk: Clerk, warn: Callable[[str], None]) -> None:
    for user, said in sorted((await clerk.clear()).items()):
        warn(f"the user {user} could not be removed: {said}")


async def _assemble(scenario: Scenario, clerk: Clerk | None, credentials: Sequence[tuple[str, str]]) -> Cast:
    groups = [group for group in scenario.users for _ in range(group.count)]
    if not credentials and clerk is not None:
        users = await make(clerk, [group.limits for group in groups])
        return Cast(users, dict(clerk.made), {user: group.limits for user, group in zip(users, groups, strict=True)})
    if not credentials:
        credentials = [("", "")] * len(groups)
    if len(credentials) < len(groups):
        raise ScenarioError(f"users: the scenario has {len(groups)}, and {len(credentials)} were given")
    limits: dict[str, Limits] = {}
    for (user, _), group in zip(credentials, groups, strict=False):
        # What was not said of a user that is not ours is not known; where one limit was said, the other is taken for none.
        if given := group.model_fields_set & {"hourly", "total"}:
            limits[user] = Limits(group.hourly if "hourly" in given else None, group.total if "total" in given else None)
    return Cast([user for user, _ in credentials[: len(groups)]], dict(credentials), limits)


# -- the load ----------------------------------------------------------------------------------------------------------------


async def _perform(scenario: Scenario, console: Console, cast: Cast, clerk: Clerk | None, sink: Sink | None) -> LoadResult:
    load = _load(scenario, cast)
    at_first = dict(cast.limits)
    amendment = None if clerk is None else Amendment(clerk, cast.users, cast.limits)
    sending, quota = scenario.load, scenario.quota
    rules = Rules(quota.window_seconds, quota.resolution_seconds, quota.unit)
    with Display(console, cast.limits, rules, seconds=sending.seconds, messages=sending.messages) as display:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(load.run(display.show))
            if amendment is not None:
                group.create_task(amendment.carry_out(scenario.change, load, running))
            if sink is not None:
                group.create_task(_rewind(sink, load))
    quiet_ends = time.monotonic() + scenario.load.quiet
    if sink is not None:
        await _quiet(sink, load.attempts, quiet_ends)
    received = None if sink is None else tuple(sink.messages)
    if received is not None and any(attempt.is_unanswered for attempt in load.attempts):
        await asyncio.sleep(COUNTING)
    evidence = Evidence(
        load.attempts,
        received=received,
        limits=at_first,
        changes=() if amendment is None else tuple(amendment.changes),
        ledger=None if clerk is None else await _ledger(clerk, quiet_ends),
        is_foreign=not scenario.target.journal,
        undone=() if amendment is None else tuple(amendment.undone),
    )
    # Journals and sums of many messages take a while; the sink goes on meanwhile.
    return LoadResult(await asyncio.to_thread(_judge, scenario, evidence, rules, load), display.tally)


def _load(scenario: Scenario, cast: Cast) -> Load:
    sending = scenario.load
    turns = [cast.users[number] for number in assign(scenario.users, sending.connections)]
    return Load(
        _host(scenario), _port(scenario), [(user, cast.passwords[user]) for user in turns], sending.connections, sending.messages,
        sending.seconds, sending.size, sending.recipients, scenario.target.tls, sending.per_connection, pattern=scenario.arrival,
        timeout=sending.timeout, patience=sending.patience, allow_remote=scenario.target.allow_remote, is_stubborn=bool(scenario.change),
        seed=sending.seed,
    )  # fmt: skip


async def _rewind(sink: Sink, load: Load) -> None:
    await load.wait_begun()
    sink.rewind()


async def _quiet(sink: Sink, attempts: Sequence[Attempt], ends: float) -> None:
    """Wait until every message that was answered 250 is at the sink, but not longer."""
    owed = {attempt.load_id for attempt in attempts if attempt.is_taken}
    while owed - sink.ids.keys() and time.monotonic() < ends:
        await asyncio.sleep(0.1)


async def _ledger(clerk: Clerk, ends: float) -> dict[str, int] | None:
    """What the ledger says was taken of each user that was made, once nothing is in flight; None where it cannot be asked."""
    found: dict[str, int] = {}
    for user in list(clerk.made):
        while True:
            try:
                found[user], in_flight = await clerk.usage(user)
            except ProvisionError:
                return None
            if not in_flight or time.monotonic() >= ends:
                break
            await asyncio.sleep(0.1)
    return found


# -- the verdict -------------------------------------------------------------------------------------------------------------


def _rules(scenario: Scenario) -> Rules:
    quota = scenario.quota
    return Rules(
        quota.window_seconds, quota.resolution_seconds, quota.unit, rejected_factor=quota.rejected_factor,
        rejected_minimum=quota.rejected_minimum, rejected_unlimited=quota.rejected_unlimited,
    )  # fmt: skip


def _judge(scenario: Scenario, evidence: Evidence, rules: Rules, load: Load) -> Outcome:
    paths = [path for pattern in scenario.target.journal for path in expand(pattern)]
    history = read_journals(paths) if paths else None
    verdict = judge(replace(evidence, history=history), rules)
    return Outcome(
        scenario.name, _target(scenario), load.began_at, load.seconds, evidence.attempts, history, evidence.changes, evidence.limits,
        rules, verdict, scenario.description, describe(scenario),
    )  # fmt: skip


def _target(scenario: Scenario) -> str:
    tls = {"none": "", "starttls": ", STARTTLS", "implicit": ", TLS"}[scenario.target.tls]
    return f"{_host(scenario)}:{_port(scenario)}{tls}"


def describe(scenario: Scenario) -> Mapping[str, str]:
    """What was asked for, to show; no secret."""
    sending, quota = scenario.load, scenario.quota
    length = [f"{sending.messages} messages"] if sending.messages is not None else []
    length += [f"{sending.seconds:g} s"] if sending.seconds is not None else []
    shown = {
        "length": " or ".join(length),
        "connections": f"{sending.connections}" + (f", {sending.per_connection} messages each" if sending.per_connection else ""),
        "pattern": str(scenario.arrival),
        "size": f"{sending.size} octets",
        "recipients": str(sending.recipients),
        "users": ", ".join(_group(group) for group in scenario.users),
        "window": f"{quota.window_seconds} s, counted in {quota.unit}",
    }
    if scenario.change:
        shown["changes"] = ", ".join(f"{change.kind} at {change.at:g} s" for change in scenario.change)
    if scenario.sink.script:
        shown["smarthost"] = "; ".join(scenario.sink.script)
    return shown


def _group(group: Group) -> str:
    hourly, total = ("unlimited" if limit is None else str(limit) for limit in (group.hourly, group.total))
    return f"{group.count} with {hourly} a window, {total} in all"


def expand(pattern: str) -> list[Path]:
    """The files of a path or glob pattern. Raises FileNotFoundError if there are none: no journal is no proof."""
    path = Path(pattern)
    anchor = Path(path.anchor or ".")
    found = [path] if path.is_file() else sorted(anchor.glob(str(path.relative_to(path.anchor) if path.anchor else path)))
    if not found:
        raise FileNotFoundError(f"{pattern}: no such journal")
    return found
