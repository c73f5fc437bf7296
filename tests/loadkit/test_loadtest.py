"""The whole of it: users made over HTTP, a load, a sink, a verdict."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from relay.loadkit.generator import RemoteTarget
from relay.loadkit.loadtest import describe, expand, run_loadtest, run_sink
from relay.loadkit.provision import ProvisionError
from relay.loadkit.scenario import Scenario, ScenarioError, read_scenario
from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from relay.loadkit.verdict import Limits
from tests.loadkit.conftest import StartSink
from tests.loadkit.office import TOKEN, Office, open_office

QUIET = Console(file=io.StringIO())
KNOWN = {"u1": "p", "u2": "p"}


@pytest.fixture
def office() -> Iterator[Office]:
    with open_office() as office:
        yield office


def wanted(port: int, **tables: Any) -> Scenario:
    """A scenario against a port of this machine; a small one unless the tables say otherwise."""
    tables["load"] = {"connections": 2, "messages": 20, "quiet": 0.1, **tables.get("load", {})}
    given = {"target": {"port": port}, **tables}
    return read_scenario(None, {key: ("", value) for key, value in given.items()})


def owned(office: Office) -> dict[str, str]:
    """The table of an API."""
    return {"url": office.url, "owner": "o1", "token": TOKEN}


async def test_a_load_test_makes_its_users_sends_judges_and_removes_them(start_sink: StartSink, office: Office) -> None:
    target = await start_sink('data every=5 reply="451 4.0.0 busy"', credentials=KNOWN)
    out = io.StringIO()
    office.sent = 8
    scenario = wanted(target.port, api=owned(office), users=[{"count": 2, "hourly": 1000}])
    result = await run_loadtest(scenario, Console(file=out, width=100))
    assert result.holds
    assert (result.tally.taken, result.tally.refused) == (16, 4)
    assert result.tally.codes == {"250": 16, "451 data": 4}
    assert result.outcome.target == f"127.0.0.1:{target.port}"
    assert set(result.outcome.limits) == {"u1", "u2"}
    assert result.outcome.attempts[0].latency > 0
    assert not office.users, "they were to be removed"
    assert TOKEN not in str(result.outcome.settings)


async def test_users_that_were_given_are_used_and_their_limits_known_only_if_said(start_sink: StartSink) -> None:
    target = await start_sink(credentials={"a": "1", "b": "2"})
    result = await run_loadtest(wanted(target.port, users=[{"count": 2}]), QUIET, credentials=[("a", "1"), ("b", "2")])
    assert (result.tally.taken, result.outcome.limits) == (20, {})
    result = await run_loadtest(wanted(target.port, users=[{"hourly": 5}]), QUIET, credentials=[("a", "1"), ("b", "2")])
    assert dict(result.outcome.limits) == {"a": Limits(5, None)}
    with pytest.raises(ScenarioError, match="has 2, and 1 were given"):
        await run_loadtest(wanted(target.port, users=[{"count": 2}]), QUIET, credentials=[("a", "1")])


async def test_users_are_removed_when_the_load_is_interrupted(start_sink: StartSink, office: Office) -> None:
    target = await start_sink(credentials=KNOWN)
    scenario = wanted(target.port, api=owned(office), users=[{"count": 2}], load={"seconds": 60.0, "messages": None})
    running = asyncio.create_task(run_loadtest(scenario, QUIET))
    while not target.intake.answered and not running.done():
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not office.users
    assert [method for method, *_ in office.seen].count("DELETE") == 2


async def test_users_are_removed_when_not_all_could_be_made_and_who_stays_is_named(start_sink: StartSink, office: Office) -> None:
    target = await start_sink()
    office.most, office.broken = 2, {"/api/v1"}
    said: list[str] = []
    with pytest.raises(ProvisionError, match="no more"):
        await run_loadtest(
            wanted(target.port, api=owned(office), users=[{"count": 2}, {}], load={"connections": 3}), QUIET, warn=said.append
        )
    assert len(said) == 2
    assert all("could not be removed" in line and "it was disabled" in line for line in said)


async def test_changes_are_made_at_their_times_and_recorded(start_sink: StartSink, office: Office) -> None:
    target = await start_sink(credentials=KNOWN)
    plan = [
        {"at": 0.1, "kind": "limits", "hourly": 7, "users": [1]},
        {"at": 0.2, "kind": "disable"},
        {"at": 0.3, "kind": "password", "users": [2]},
        {"at": 0.4, "kind": "delete", "users": [1]},
        {"at": 0.5, "kind": "enable", "users": [1]},
        {"at": 99, "kind": "delete"},
    ]
    scenario = wanted(
        target.port, api=owned(office), users=[{"count": 2, "hourly": 5, "total": 9}], change=plan,
        load={"seconds": 0.8, "messages": None}, pattern={"kind": "rate", "rate": 50},
    )  # fmt: skip
    result = await run_loadtest(scenario, QUIET)
    changes = sorted(result.outcome.changes, key=lambda change: (change.asked, change.user))
    kinds = [change.kind for change in changes]
    assert kinds == ["limits", "disable", "disable", "password", "delete", "enable"], "what is due after the load is left undone"
    assert (changes[0].hourly, changes[0].total) == (7, 9), "what an edit does not name stays as it was"
    began = result.outcome.began_at * 1e6
    assert all(began < change.asked <= change.answered for change in changes)
    assert changes[0].asked - began >= 100_000
    assert [bool(change.error) for change in changes] == [False] * 5 + [True], "a user that is gone cannot be enabled"
    assert not result.holds, "a change that was not made proves nothing"
    with pytest.raises(ScenarioError, match="an API is needed"):
        await run_loadtest(wanted(target.port, change=[{"at": 0, "kind": "disable"}]), QUIET)


async def test_a_load_that_nothing_forwards_is_found_lost_at_its_own_sink(start_sink: StartSink, tmp_path: Path) -> None:
    target = await start_sink()
    (tmp_path / "relay.log").write_text("")
    sinks: list[Sink] = []
    scenario = wanted(
        target.port, target={"port": target.port, "journal": [f"{tmp_path}/*.log"]}, sink={"port": 0}, users=[{"hourly": 5}],
        load={"messages": 3},
    )  # fmt: skip
    result = await run_loadtest(scenario, QUIET, on_sink=sinks.append)
    assert {finding.kind for finding in result.outcome.verdict.findings} >= {"lost", "answered but not taken"}
    assert not result.holds
    assert sinks[0].port > 0
    assert sinks[0].intake.connections == 0


async def test_what_cannot_be_begun_is_said_before_users_are_made(office: Office, tmp_path: Path) -> None:
    api = owned(office)
    with pytest.raises(FileNotFoundError, match="no such journal"):
        await run_loadtest(wanted(1, api=api, target={"port": 1, "journal": [f"{tmp_path}/*.log"]}), QUIET)
    with pytest.raises(RemoteTarget):
        await run_loadtest(wanted(1, api=api, target={"host": "192.0.2.1"}), QUIET)
    assert not office.seen
    (tmp_path / "a.log").write_text("")
    assert expand(f"{tmp_path}/a.log") == expand(f"{tmp_path}/*.log") == [tmp_path / "a.log"]


async def test_a_scripts_seconds_count_from_the_beginning_of_the_load(start_sink: StartSink) -> None:
    target = await start_sink()
    found: list[float] = []

    def look(sink: Sink) -> None:
        sink.rewind()
        asyncio.get_running_loop().call_later(0.3, lambda: found.append(sink.elapsed))

    scenario = wanted(target.port, sink={"port": 0}, load={"seconds": 0.6, "messages": None, "connections": 1})
    began = asyncio.get_running_loop().time()
    await run_loadtest(scenario, QUIET, on_sink=look)
    assert 0 < found[0] <= asyncio.get_running_loop().time() - began


async def test_a_live_display_is_drawn_on_a_terminal(start_sink: StartSink) -> None:
    target = await start_sink()
    out = io.StringIO()
    scenario = wanted(target.port, load={"seconds": 0.4, "messages": None}, pattern={"kind": "rate", "rate": 50})
    await run_loadtest(scenario, Console(file=out, force_terminal=True, width=100))
    assert "451" not in out.getvalue()
    assert "250" in out.getvalue()


def test_what_was_asked_for_is_described(office: Office) -> None:
    shown = describe(wanted(
        25, api=owned(office), users=[{"count": 2, "hourly": "unlimited"}], load={"per_connection": 3, "seconds": 2.0},
        change=[{"at": 1, "kind": "delete"}], sink={"script": ["dot drop"]},
    ))  # fmt: skip
    assert shown == {
        "length": "20 messages or 2 s",
        "connections": "2, 3 messages each",
        "pattern": "closed loop, as fast as answered",
        "size": "2048 octets",
        "recipients": "1",
        "users": "2 with unlimited a window, 1000000 in all",
        "window": "3600 s, counted in messages",
        "changes": "delete at 1 s",
        "smarthost": "dot drop",
    }


async def test_a_sink_left_running_tells_its_counts_every_second() -> None:
    sink = Sink(script=Script())
    lines: list[str] = []
    task = asyncio.create_task(run_sink(sink, lines.append, every=0.1))
    while not lines:
        await asyncio.sleep(0.01)
    await run_loadtest(wanted(sink.port, load={"connections": 1, "messages": 3}), QUIET)
    await asyncio.sleep(0.25)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert lines[0] == f"sink listens on 127.0.0.1:{sink.port}"
    assert "messages=3 ids=3 duplicates=0 damaged=0" in lines[-1]
    assert "354=3" in lines[-1]
