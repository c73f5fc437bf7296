"""relay sink, relay loadtest: the load kit's commands."""

from __future__ import annotations

import typer


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
