"""relay loadtest as its readers meet it when something goes wrong: what is said, to whom, and with which status it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from relay.cli.app import app
from relay.cli.load import FULLEST, told
from relay.loadkit.sink import Sink
from relay.loadkit.verdict import Limits, Usage, Verdict
from tests.loadkit.conftest import StartSink
from tests.loadkit.office import TOKEN, Office, open_office
from tests.loadkit.test_scenarios import ROOT, left, surroundings

SMALL = ["--messages", "3", "--connections", "1"]


@pytest.fixture
def office() -> Iterator[Office]:
    with open_office() as office:
        yield office


def command(*words: str) -> list[str]:
    """Its words."""
    return [sys.executable, "-m", "relay", "loadtest", *words]


async def against(sink: Sink, *words: str) -> tuple[int, bytes, bytes]:
    """Run a load against a sink: status, output, errors."""
    process = await asyncio.create_subprocess_exec(
        *command("--port", str(sink.port), *SMALL, *words), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out, err


async def test_a_report_that_cannot_be_written_costs_no_verdict(start_sink: StartSink, place: Path) -> None:
    sink, document = await start_sink(credentials={"a": "p"}), place / "found.json"
    status, out, err = await against(sink, "--user", "a:p", "--hourly", "9", "--report", "/dev/full", "--report-json", str(document))
    assert status == 0, out + err
    assert b"every promise that could be checked held" in out
    assert err.decode() == "relay: /dev/full: the report could not be written: No space left on device\n"
    assert json.loads(document.read_text())["load"]["taken"] == 3


async def test_a_sinks_port_that_is_in_use_is_named(start_sink: StartSink) -> None:
    sink, taken = await start_sink(), await start_sink()
    status, _, err = await against(sink, "--sink", str(taken.port))
    assert (status, err.decode()) == (2, f"relay: --sink: port {taken.port} of 127.0.0.1 is in use\n")


async def test_what_a_server_or_a_user_is_called_is_never_obeyed_by_the_terminal(start_sink: StartSink) -> None:
    name = "\x1b[2Jx\x07"
    status, out, err = await against(await start_sink(credentials={name: "p"}), "--user", f"{name}:p", "--hourly", "2")
    assert status == 1, "over its limit"
    assert b"?[2Jx?" in out
    assert not set(b"\x1b\x07") & set(out + err)


def test_what_an_api_says_is_never_obeyed_by_the_terminal(office: Office) -> None:
    office.most = 0
    office.refusal = "\x1b]0;mine\x07"
    done = CliRunner().invoke(app, ["loadtest", "--port", "1", "--api", office.url, "--owner", "o1", "--token", TOKEN])
    assert done.exit_code == 2
    assert "?]0;mine?" in done.stderr
    assert not set("\x1b\x07") & set(done.output)


def test_the_token_goes_to_no_other_machine_unless_that_was_allowed() -> None:
    words = ["--port", "1", "--api", "http://192.0.2.1:8025", "--owner", "o1", "--token", TOKEN]
    done = CliRunner().invoke(app, ["loadtest", *words])
    assert done.exit_code == 2
    assert "192.0.2.1, not this machine; --allow-remote" in done.stderr


def test_of_many_users_the_fullest_are_told_and_the_others_counted() -> None:
    usages = tuple(Usage(f"u{number}", Limits(5000, None), number, number, 0) for number in range(3000))
    lines = list(told(Verdict((), usages)))
    assert len(lines) == 1 + FULLEST + 1
    assert "u2999:" in lines[1]
    assert lines[-1].strip().startswith(f"and {3000 - FULLEST:,} more users")
    assert len(list(told(Verdict((), usages[:FULLEST])))) == 1 + FULLEST


def test_a_relay_of_its_own_that_is_killed_is_told_at_once(place: Path) -> None:
    words = command("--window", "5", "--seconds", "90", "--connections", "2", "--rate", "20")
    process = subprocess.Popen(words, env=surroundings(place), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    began = time.monotonic()
    while not (journals := list(place.glob("relay-loadtest-*/journal.log"))) or '"taken"' not in journals[0].read_text():
        assert process.poll() is None and time.monotonic() < began + 60
        time.sleep(0.05)
    os.kill(_served(process.pid), signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (1, "relay: the relay ended amid the test, with status -9\n")
    ends = time.monotonic() + 20
    while left(place) and time.monotonic() < ends:
        time.sleep(0.1)
    assert not left(place)


def _served(pid: int) -> int:
    """The relay that a load test started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"serve" in (folder / "cmdline").read_bytes().split(b"\0"):
                return int(folder.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    raise AssertionError("no relay")
