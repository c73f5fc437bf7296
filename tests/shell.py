"""The shell door without a process of its own: a command, and what it printed."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import typer
from typer.testing import CliRunner


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    status: int
    raw: bytes
    """Standard output, octet for octet."""
    err: str

    @property
    def out(self) -> str:
        """Standard output as text."""
        return self.raw.decode("utf-8", "replace")

    @property
    def json(self) -> Any:
        """What a command with --json printed; its exit status is 0."""
        assert self.status == 0, self.err
        return json.loads(self.out)

    @property
    def faults(self) -> list[str]:
        """The lines on standard error."""
        return self.err.splitlines()


Shell = Callable[..., Awaitable[Ran]]


def invoke(app: typer.Typer, *arguments: object, said: str = "") -> Ran:
    """Run a command; `said` is its standard input. Any exception but an exit is a failure of the test."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=said)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Ran(result.exit_code, result.stdout_bytes, result.stderr)
