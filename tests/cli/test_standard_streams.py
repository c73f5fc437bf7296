"""What surrounds a command: descriptors that are missing, an output that takes no more, a terminal that has not every letter."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from relay.spool.spool import Spool
from tests.cli_queue.conftest import put

RELAY = (sys.executable, "-m", "relay")


def relay(*arguments: str | Path, closed: tuple[int, ...] = (), **given: str) -> subprocess.CompletedProcess[str]:
    """Run a command without some of its descriptors, with more in its environment."""

    def close() -> None:
        for fd in closed:
            os.close(fd)

    without: Callable[[], None] | None = close if closed else None
    return subprocess.run(
        [*RELAY, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | given, preexec_fn=without,
    )  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration of a relay that has not been started yet."""
    (tmp_path / "data").mkdir()
    path = tmp_path / "relay.toml"
    path.write_text(f'[data]\ndirectory = "{tmp_path / "data"}"\n')
    return path


@pytest.mark.parametrize("arguments", [("version",), ("queue", "--help"), ("queue", "list"), ("queue", "list", "--json"), ("check",)])
def test_an_output_that_takes_no_more_is_one_line(config: Path, arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [*RELAY, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
            env=os.environ | {"RELAY_CONFIG": str(config)},
        )  # fmt: skip
    assert ended.returncode == 74
    assert [line for line in ended.stderr.splitlines() if "there is no" not in line] == ["relay: standard output: No space left on device"]


@pytest.mark.parametrize("arguments", [("version",), ("queue", "--help")])
def test_a_reader_that_has_enough_is_no_fault(arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run([*RELAY, *arguments], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")


FAULTY = """
import sys
from relay import __main__ as entry

def begin():
    raise OSError(5, "another's")

sys.argv[1:] = ["version"]
entry._show(begin)
"""


def test_a_fault_that_is_not_of_the_output_is_not_taken_for_one() -> None:
    ended = subprocess.run([sys.executable, "-c", FAULTY], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1 and "another's" in ended.stderr and "standard output" not in ended.stderr


async def spool_one(place: Path) -> None:
    spool = Spool(place / "data" / "spool.db", "testtest", 0)
    await put(spool, "a1")
    await spool.close()


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_missing_descriptor_is_nothing_to_read_and_nowhere_to_write(config: Path, tmp_path: Path, closed: tuple[int, ...]) -> None:
    asyncio.run(spool_one(tmp_path))
    listed = relay("queue", "list", "--config", config, closed=closed)
    assert (listed.returncode, listed.stderr, "a1" in listed.stdout) == (0, "", 1 not in closed)
    refused = relay("queue", "remove", "a1", "--config", config, closed=closed)
    assert refused.returncode == 1 and ("nothing was removed" in refused.stderr) == (2 not in closed)
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("fd", [0, 1, 2])
def test_what_is_opened_does_not_take_the_place_of_a_missing_descriptor(fd: int) -> None:
    code = "import os; from relay import __main__ as entry; entry._open_missing(); os.write(2, os.readlink('/proc/self/fd/0').encode())"
    code += "; os._exit(os.open('/dev/null', 0))"
    ended = subprocess.run([sys.executable, "-c", code], preexec_fn=lambda: os.close(fd), timeout=60, check=False)
    assert ended.returncode > 2


def test_a_locale_without_utf_8_is_none_of_the_commands_business(config: Path) -> None:
    ended = relay("user", "list", "--config", config, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", LC_ALL="C")
    assert ended.returncode == 2 and "secret.key: not found" in ended.stderr
