"""Where the tests of settings have them from: a file, a directory of secrets, and no environment but their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.config.reading import Write


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting comes from the environment of this run."""
    for name in list(os.environ):
        if name.upper().startswith("RELAY_") or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)


@pytest.fixture
def toml(tmp_path: Path) -> Write:
    """Write a configuration file."""

    def write(text: str) -> Path:
        path = tmp_path / "relay.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """An empty directory of secrets."""
    path = tmp_path / "secrets"
    path.mkdir()
    return path
