"""Reading settings that are written in a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from relay.config import ConfigError
from relay.source import load

Write = Callable[[str], Path]
"""Writes a configuration file."""


def refusal(path: Path | None = None, secrets: Path | None = None) -> str:
    """The one line that says why the settings cannot be used."""
    with pytest.raises(ConfigError) as caught:
        load(path, secrets)
    line = str(caught.value)
    assert "\n" not in line
    return line
