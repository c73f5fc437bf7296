"""The version is said to whoever asks for it, either way."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from relay.cli.app import app


@pytest.mark.parametrize("word", ["version", "--version"])
def test_the_version_is_the_distributions(word: str) -> None:
    result = CliRunner().invoke(app, [word])
    assert (result.exit_code, result.stdout) == (0, f"{version('relay')}\n"), result.output
