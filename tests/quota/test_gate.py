"""The gate of a node: what one process shuts, every other sees, and nobody else opens."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.quota.gate import SLOTS, Gate

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gate(place: Path) -> Iterator[Gate]:
    made = Gate(place / "holds" / "pending")
    yield made
    made.close()


def test_it_is_shut_until_the_last_that_shut_it_opens_it(gate: Gate, place: Path) -> None:
    other = Gate(place / "holds" / "pending")
    assert not gate.is_shut() and not other.is_shut()
    gate.shut("w1")
    gate.shut("w1")
    other.shut("w2")
    assert gate.is_shut() and other.is_shut() and sorted(gate.names()) == ["w1", "w2"]
    gate.open("w1")
    assert gate.is_shut() and other.names() == ["w2"]
    other.open("nobody")
    other.open("w2")
    assert not gate.is_shut() and not other.is_shut() and gate.names() == []
    other.close()


def test_what_a_killed_process_shut_stays_shut(gate: Gate, place: Path) -> None:
    program = (
        f"import os, pathlib\nfrom relay.quota.gate import Gate\nGate(pathlib.Path({str(place / 'holds' / 'pending')!r})).shut('w1')\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == -9
    assert gate.is_shut() and gate.names() == ["w1"]
    gate.open("w1")
    assert not gate.is_shut()


def test_flags_that_stand_for_nothing_are_swept(gate: Gate) -> None:
    gate.shut("gone")
    gate.shut("alive")
    gate.sweep(lambda name: name == "alive")
    assert gate.names() == ["alive"]


def test_more_names_than_slots_keep_it_shut(gate: Gate) -> None:
    for number in range(SLOTS + 3):
        gate.shut(f"w{number}")
    assert len(gate.names()) == SLOTS
    for number in range(SLOTS + 3):
        assert gate.is_shut() or number >= SLOTS
        gate.open(f"w{number}")
    assert not gate.is_shut()


def test_a_name_that_does_not_fit_is_refused(gate: Gate) -> None:
    gate.shut("x" * 32)
    assert gate.names() == ["x" * 32]
    for name in ("", "x" * 33):
        with pytest.raises(ValueError):
            gate.shut(name)


def test_a_file_that_cannot_be_had_is_an_error_at_once(place: Path) -> None:
    (place / "pending").mkdir()
    with pytest.raises(OSError):
        Gate(place / "pending")
    with pytest.raises(OSError):
        Gate(Path("/dev/full"))


async def test_many_processes_at_once_lose_no_flag(place: Path, gate: Gate) -> None:
    program = (
        "import pathlib, sys\nfrom relay.quota.gate import Gate\ngate, name = Gate(pathlib.Path(sys.argv[1])), sys.argv[2]\n"
        "for _ in range(300):\n"
        "    gate.shut(name)\n    assert name in gate.names()\n    gate.open(name)\n    assert name not in gate.names()\n"
        "gate.shut(name)\n"
    )
    path = str(place / "holds" / "pending")
    processes = [await asyncio.create_subprocess_exec(sys.executable, "-c", program, path, f"w{number}", cwd=ROOT) for number in range(4)]
    assert [await process.wait() for process in processes] == [0, 0, 0, 0]
    assert sorted(gate.names()) == ["w0", "w1", "w2", "w3"]
