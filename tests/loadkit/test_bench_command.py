"""relay bench, run whole, in the smallest numbers; nothing is said of how fast anything is."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relay.cli.app import app
from tests.loadkit.test_scenarios import left, surroundings
from tests.shell import invoke

ROOT = Path(__file__).parents[2]
TINY = ("--quick", "--scale", "0.01")
PYTHON = shlex.quote(sys.executable)
STOCK = f"{PYTHON} -m tests.benchmarks.stock_relay"


def bench(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a benchmark to its end."""
    return subprocess.run(command(*words), env=surroundings(place), cwd=ROOT, capture_output=True, text=True, timeout=110)


def command(*words: str) -> list[str]:
    """Its words."""
    return [sys.executable, "-m", "relay", "bench", *words]


def test_the_whole_path_is_measured_beside_stock_parts_and_reported(place: Path) -> None:
    (pictures := place / "pictures").mkdir()
    files = ("--report", str(place / "page.html"), "--json", str(place / "found.json"), "--pictures", str(pictures))
    (temporary := place / "t").mkdir()
    words = (
        "--quick",
        "--scale",
        "0.1",
        "--only",
        "2 KB, STARTTLS",
        "--only",
        "2 KB, TLS, open",
        "--rounds",
        "2",
        "--beside",
        f"stock={STOCK}",
    )
    run = bench(temporary, *words, *files)
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads((place / "found.json").read_text())
    turns = [(each["name"], each["server"]) for each in found["rounds"]]
    both = ["2 KB, STARTTLS, open connections", "2 KB, STARTTLS, one message a connection"]
    # Stock parts offer no TLS from the first octet, so they are not compared there.
    expected = [(case, server) for case in both for _ in range(2) for server in ("relay", "stock")]
    assert turns == [*expected, *[("2 KB, TLS, open connections", "relay")] * 2]
    assert all(each["taken"] > 0 and not each["others"] for each in found["rounds"])
    assert all(found["ratios"][case]["stock"] > 0 for case in both)
    assert {"CPU", "cores", "kernel", "Python", "store", "fsync of 4 KB", "workers"} <= found["machine"].keys()
    assert [figure["name"] for figure in found["figures"]] == ["a worker before the whole path", "a worker after the whole path"]
    assert "2 KB, STARTTLS, open connections" in (place / "page.html").read_text()
    assert [path.name for path in pictures.iterdir()] == ["rates.svg"]
    assert left(temporary) == []


def test_growth_is_measured(place: Path) -> None:
    words = ("--quick", "--scale", "0.02", "--only", "connections", "--only", "users", "--only", "spool")
    (temporary := place / "t").mkdir()
    run = bench(temporary, *words, "--json", str(place / "found.json"))
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads((place / "found.json").read_text())
    points = {curve["name"]: {name: [r["x"] for r in rounds] for name, rounds in curve["series"].items()} for curve in found["curves"]}
    assert points == {
        "connections": {"relay": [1, 10]},
        "users": {"10 users": [10, 40], "users at random": [10, 40]},
        "spool depth": {"relay": [0, 20]},
    }
    assert [figure["name"] for figure in found["figures"]] == ["store memory a user"]
    assert left(temporary) == []


def test_memory_is_measured(place: Path) -> None:
    (temporary := place / "t").mkdir()
    run = bench(temporary, "--quick", "--scale", "0.05", "--only", "memory", "--json", str(place / "found.json"))
    assert run.returncode == 0, run.stdout + run.stderr
    figures = {figure["name"]: figure["value"] for figure in json.loads((place / "found.json").read_text())["figures"]}
    assert figures["a worker at rest"] < figures["all of the relay at rest"]
    assert {"memory: a worker under uploads", "an idle connection, TLS", "an idle connection, STARTTLS"} <= figures.keys()
    assert left(temporary) == []


def test_a_sink_that_loses_a_message_is_an_error(place: Path) -> None:
    sink = f"{PYTHON} -m tests.loadkit.forgetful_sink {{port}}"
    run = bench(place, *TINY, "--only", "2 KB, plain, open", "--sink-command", sink)
    assert run.returncode == 1, run.stdout + run.stderr
    [line] = run.stderr.splitlines()
    assert line.startswith("relay: relay, warming up: the account does not close: ")
    assert left(place) == []


def test_an_interrupted_benchmark_leaves_nothing_behind(place: Path) -> None:
    words = ("--only", "2 KB, plain, open", "--beside", f"stock={STOCK}")
    with subprocess.Popen(command(*words), env=surroundings(place), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        assert run.stdout.readline().startswith(b"CPU ")  # the relay runs
        time.sleep(1.0)
        os.kill(run.pid, signal.SIGINT)
        assert run.wait(60) == 130
        assert run.stderr.read().splitlines()[-1] == b"relay: interrupted"
    assert left(place) == []


WRONG = {
    "an unknown measurement": (("--only", "everything"), "--only: everything: neither path"),
    "a server without a command": (("--beside", "stock"), "--beside: stock: NAME=COMMAND expected"),
    "a server called like ours": (("--beside", "relay=true"), "--beside: relay=true: NAME=COMMAND expected"),
    "a report nowhere": (("--report", "/nonexistent/x.html"), "/nonexistent/x.html: no such place"),
    "pictures nowhere": (("--pictures", "/nonexistent"), "--pictures: /nonexistent: no such directory"),
    "no sink": ((*TINY, "--only", "2 KB", "--sink-command", "/nonexistent/sink"), "the sink: /nonexistent/sink: No such file"),
    "a sink that ends": ((*TINY, "--only", "2 KB", "--sink-command", "false"), "the sink does not listen on port"),
    "a server that ends": ((*TINY, "--only", "2 KB", "--beside", "x=false"), "x does not listen on port"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_begun_is_one_line(name: str, place: Path) -> None:
    words, text = WRONG[name]
    if words[0] in TINY:  # something is begun, and ended
        run = bench(place, *words)
        status, said = run.returncode, run.stderr.splitlines()
    else:
        here = invoke(app, "bench", *words)
        status, said = here.status, here.faults
    assert status == 2, said
    [line] = said
    assert line.startswith(f"relay: {text}")
    assert left(place) == []
