"""The house is tidy: ruff and mypy, as pyproject.toml configures them, find nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str) -> None:
    """Run a checker of this environment on the whole tree; what it finds is the test's message."""
    environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "140"}
    arguments = [sys.executable, "-m", *command]
    done = subprocess.run(arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(command)} says:\n{done.stdout.strip()}", pytrace=False)


def test_ruff_finds_nothing() -> None:
    run("ruff", "check", ".")


def test_mypy_strict_finds_nothing_in_the_relay_and_its_tests() -> None:
    run("mypy", "relay", "tests")
