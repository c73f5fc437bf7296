"""Scenarios: what is read, and how what cannot be used is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.cli.tryout import write_toml
from relay.loadkit.pattern import Burst, Closed, Ramp, Rate, Sawtooth
from relay.loadkit.scenario import Group, Scenario, ScenarioError, assign, read_scenario
from relay.loadkit.verdict import Limits

FOLDER = Path(__file__).parents[2] / "config" / "loadtest"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "trial.toml"


def refusal(file: Path, text: str, **given: tuple[str, Any]) -> str:
    """The line that refuses a scenario, without the file's name."""
    file.write_text(text)
    with pytest.raises(ScenarioError) as refused:
        read_scenario(file, {key.replace("__", "."): value for key, value in given.items()})
    assert "\n" not in str(refused.value)
    return str(refused.value).removeprefix(f"{file}: ")


def test_nothing_said_is_a_scenario_of_a_thousand_messages() -> None:
    scenario = read_scenario(None)
    assert (scenario.load.messages, scenario.load.seconds, scenario.arrival) == (1000, None, Closed())
    assert scenario.users[0].limits == Limits(1000, 1_000_000)
    assert not scenario.target.is_given


def test_spans_may_be_given_in_windows_of_whichever_length(file: Path) -> None:
    file.write_text("""
        load.seconds = "2.5w"
        pattern = {kind = "burst", messages = 3, every = "1w"}
        change = [{at = "0.5w", kind = "disable"}, {at = 3, kind = "limits", hourly = "unlimited"}]
        sink.script = ["dot from=1w to=1.5w stall=0.1w reply='451 4.0.0 at 2w'"]
        quota.window_seconds = 10
    """)
    scenario = read_scenario(file)
    assert scenario.name == "trial"
    assert (scenario.load.seconds, scenario.load.messages, scenario.arrival) == (25.0, None, Burst(3, 10.0))
    assert [change.at for change in scenario.change] == [5.0, 3.0]
    assert scenario.sink.script == ("dot from=10 to=15 stall=1 reply='451 4.0.0 at 2w'",)
    shorter = read_scenario(file, {"quota.window_seconds": ("--window", 4)})
    assert (shorter.load.seconds, shorter.arrival, shorter.change[0].at) == (10.0, Burst(3, 4.0), 2.0)


def test_every_pattern_can_be_asked_for(file: Path) -> None:
    for text, expected in {
        'kind = "closed"': Closed(),
        'kind = "rate"\nrate = 5': Rate(5.0),
        'kind = "rate"\nrate = "7200/w"': Rate(2.0),
        'kind = "ramp"\nend = 9\nover = 3': Ramp(0.0, 9.0, 3.0),
        'kind = "sawtooth"\nmessages = 4\nedge = "0.25w"\nanchor = "first"': Sawtooth(4, 900.0, 3600, "first"),
    }.items():
        file.write_text(f"[pattern]\n{text}\n")
        assert read_scenario(file).arrival == expected


def test_options_override_the_file(file: Path) -> None:
    file.write_text("[load]\nmessages = 5\nsize = 100\n[[users]]\nhourly = 3\n[[users]]\nhourly = 4\n")
    scenario = read_scenario(file, {"load.size": ("--size", "1k-2k"), "users.total": ("--total", 9), "load.seconds": ("--seconds", 2.0)})
    assert (scenario.load.messages, scenario.load.seconds, scenario.load.size.most) == (5, 2.0, 2048)
    assert [group.limits for group in scenario.users] == [Limits(3, 9), Limits(4, 9)]
    assert refusal(file, file.read_text(), users__count=("--users", 2)) == "--users: the scenario has 2 groups of users"
    assert refusal(file, "", load__size=("--size", "x")).startswith("--size: 'x' is neither a number")
    assert refusal(file, "", load__connections=("--connections", 0)) == "--connections: input should be greater than or equal to 1"


REFUSED = {
    "sizes = 3": "sizes: is not known here",
    "[load]\nsecnds = 3": "load.secnds: is not known here",
    '[load]\nseconds = "3h"': "load.seconds: input should be a valid number",
    "[load]\nseconds = 0": "load.seconds: input should be greater than 0",
    "[load]\nconnections = true": "load.connections: input should be a valid integer",
    "[load]\nrecipients = 0": "load.recipients: at least one is needed",
    "[load]\nsize = 1.5": "load.size: a number, a range or a mix was expected",
    "[[users]]\n[[users]]\nhourly = 0": 'users.2.hourly: a whole number from 1 or "unlimited" was expected',
    "users = 3": "users: input should be a valid tuple",
    "[[users]]\ncount = 30": "load.connections: 20 are fewer than the 30 users",
    "[pattern]\nkind = 'rate'": "pattern.rate: field required",
    "[pattern]\nkind = 'rate'\nrate = 0": "pattern.rate: input should be greater than 0",
    "[pattern]\nkind = 'sawtooth'\nmessages = 3\nedge = '0.6w'": "pattern.edge: 2160 s is more than half a window",
    "[[change]]\nat = 1\nkind = 'limits'": "change.1: hourly or total is needed",
    "[[change]]\nat = 1\nkind = 'enable'\ntotal = 3": "change.1: enable takes no limits",
    "[[change]]\nat = 1\nkind = 'disable'\nusers = [1, 2]": "change.1.users: there is no user 2, only 1 to 1",
    "[sink]\nscript = ['rcpt']": "sink.script: rule 'rcpt': no action",
    "[sink]\nscript = 'rcpt'": "sink.script: a list of rules was expected",
    "[target]\nport = 0": "target.port: input should be greater than or equal to 1",
    "[target]\ntls = 'ssl'": "target.tls: input should be 'none', 'starttls' or 'implicit'",
    "[quota]\nunit = 'octets'": "quota.unit: input should be 'messages' or 'recipients'",
    "[relay]\nsmtp = 3": "relay.smtp: input should be a valid dictionary",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_used_is_named(file: Path, text: str) -> None:
    assert refusal(file, text).startswith(REFUSED[text])


def test_a_pattern_of_no_kind_is_told_which_there_are(file: Path) -> None:
    assert "'closed', 'rate', 'burst', 'ramp', 'sawtooth'" in refusal(file, "[pattern]\nkind = 'storm'")


def test_what_is_no_toml_or_not_there_is_one_line(file: Path) -> None:
    with pytest.raises(ScenarioError, match="No such file"):
        read_scenario(file)
    assert "line 2" in refusal(file, "[load]\nload load")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ScenarioError, match="decode"):
        read_scenario(file)


def test_no_secret_is_shown(file: Path) -> None:
    file.write_text('[api]\ntoken = "sesame"\n')
    assert "sesame" not in repr(read_scenario(file))
    assert "sesame" not in refusal(file, '[api]\ntoken = ["sesame"]\n')
    assert "sesame" not in refusal(file, '[api]\ntokn = "sesame"\n')


plain = st.one_of(st.integers(-5, 10**6), st.floats(allow_nan=False), st.booleans(), st.text(st.characters(codec="ascii"), max_size=8))
names = st.one_of(
    st.sampled_from(["load", "users", "pattern", "change", "sink", "kind", "at", "hourly", "messages", "rate", "seconds", "script"]),
    st.text(st.characters(codec="ascii"), max_size=6),
)
trees = st.dictionaries(names, st.recursive(plain, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner))))


@settings(deadline=None)
@given(trees)
def test_any_tables_are_a_scenario_or_one_clear_line(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any]) -> None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    try:
        file.write_text(write_toml(tree), encoding="utf-8")
        assert isinstance(read_scenario(file), Scenario)
    except ScenarioError as error:
        assert str(error).startswith(f"{file}: ")
        assert "\n" not in str(error)


@given(st.lists(st.builds(Group, count=st.integers(1, 5), share=st.floats(0.1, 10)), min_size=1, max_size=4), st.integers(0, 50))
def test_connections_are_shared_out_as_asked_for(groups: list[Group], more: int) -> None:
    users = sum(group.count for group in groups)
    held = Counter(assign(groups, users + more))
    assert held.total() == users + more
    assert set(held) == set(range(users))
    first = 0
    for group in groups:
        own = [held[user] for user in range(first, first + group.count)]
        assert max(own) - min(own) <= 1
        first += group.count


def test_shares_are_of_the_connections() -> None:
    held = Counter(assign([Group(count=2, share=3), Group(count=1, share=1)], 40))
    assert [held[user] for user in range(3)] == [15, 15, 10]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_the_ready_scenarios_can_be_read_and_say_what_they_are_for(path: Path) -> None:
    scenario = read_scenario(path, {"quota.window_seconds": ("--window", 5)})
    assert scenario.name == path.stem
    assert scenario.description
    assert scenario.load.seconds is None or scenario.load.seconds <= 20
    assert f"relay loadtest --window 5 config/loadtest/{path.name}" in path.read_text()
