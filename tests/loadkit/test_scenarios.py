"""The ready scenarios, each run whole as its readers will: a relay of its own, users, a load, the verdict. Two-second hours, cut short."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from relay.cli.app import app

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "config" / "loadtest"
CASES = {
    "steady": ("2w", {"over-admission (hourly)", "taken = ledger", "taken = sink", "wrong refusals", "retry-after"}),
    "burst": ("2.2w", {"over-admission (hourly)", "wrong refusals"}),
    "many_connections": ("", {"over-admission (hourly)", "wrong refusals"}),
    "edit": ("3.5w", {"over-admission (hourly)", "overtaken edits and disables"}),
    "disable": ("2.4w", {"over-admission (hourly)", "overtaken edits and disables"}),
    "upstream_failing": ("2w", {"taken = ledger", "taken = sink", "rejected-mail cap"}),
}
"""How long each is run, and what it must have judged."""


def surroundings(place: Path) -> dict[str, str]:
    """The environment of a command that keeps what it needs for a while below `place`."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")} | {"TMPDIR": str(place)}


def loadtest(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a load test to its end."""
    command = [sys.executable, "-m", "relay", "loadtest", *words]
    return subprocess.run(command, env=surroundings(place), cwd=ROOT, capture_output=True, text=True, timeout=100)


def left(place: Path) -> list[str]:
    """What a load test left behind: processes and directories."""
    found = [path.name for path in place.iterdir() if path.name.startswith("relay-")]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(place).encode() in (folder / "cmdline").read_bytes():
                found.append(folder.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_every_ready_scenario_is_run_here() -> None:
    assert {path.stem for path in FOLDER.glob("*.toml")} == CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_ready_scenario_holds(name: str, place: Path) -> None:
    seconds, judged = CASES[name]
    page, more = place / "report.html", ["--seconds", seconds] if seconds else []
    done = loadtest(place, f"{FOLDER / name}.toml", "--window", "2", *more, "--json", "--report", str(page))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    checks = {check["name"]: check["is_held"] for check in found["verdict"]["checks"]}
    assert {check for check, is_held in checks.items() if is_held} >= judged, checks
    assert found["name"] == name
    assert found["load"]["taken"] > 0
    assert page.read_text().startswith("<!doctype html>")
    assert not left(place)


def test_an_interrupted_load_test_leaves_nothing_behind(place: Path) -> None:
    words = ["loadtest", "--window", "5", "--seconds", "90", "--connections", "2", "--rate", "20"]
    process = subprocess.Popen(
        [sys.executable, "-m", "relay", *words], env=surroundings(place), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    journals: list[Path] = []
    ends = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < ends:
        journals = list(place.glob("relay-loadtest-*/journal.log"))
        if journals and '"taken"' in journals[0].read_text():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "relay: interrupted\n")
    assert not left(place)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to send to: name a server by --port"),
        (["--window", "5", "--user", "a:b"], "a relay of its own has its own"),
        (["--window", "0"], "--window: input should be greater than or equal to 1"),
        (["--window", "5", "--pattern", ""], "--pattern: KIND KEY=VALUE"),
        (["--window", "5", "--pattern", "burst messages"], "--pattern: messages: KEY=VALUE was expected"),
        (["--window", "5", "--pattern", "burst messages=3"], "--pattern: field required"),
        (["--window", "5", "--report", "/nowhere/x.html"], "no such place for a report"),
        (["--port", "1", "--api", "http://127.0.0.1:1"], "--api: needs --owner and --token"),
        (["--port", "1", "--credentials", "/nowhere.json"], "/nowhere.json: No such file or directory"),
        (["--host", "192.0.2.1"], "not this machine"),
        (["nowhere.toml"], "nowhere.toml: No such file or directory"),
    ],
)
def test_what_cannot_be_begun_is_one_line_and_status_2(words: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["loadtest", *words])
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_settings_of_the_relay_that_cannot_be_used_are_told(place: Path) -> None:
    file = place / "odd.toml"
    file.write_text("[relay.retry]\nfactor = 0.5\n")
    done = loadtest(place, str(file), "--window", "5")
    assert done.returncode == 2
    assert "retry.factor" in done.stderr
    assert not left(place)
