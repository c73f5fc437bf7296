"""relay serve, relay check: running a relay, and whether it could be run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import uvloop

from relay.cli.door import Config
from relay.cli.ground import check_ground
from relay.config import ConfigError
from relay.config.settings import Settings
from relay.daemon import check_doors
from relay.entry import file_shortage
from relay.source import load
from relay.supervisor import StartError
from relay.supervisor import serve as supervise
from relay.worker import Role


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(serve)
    app.command()(check)


def new_app() -> typer.Typer:
    """The command `relay`, still without commands."""
    return typer.Typer(
        name="relay", help="An SMTP relay that keeps per-user sending limits exactly.", no_args_is_help=True, add_completion=False,
        pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
    )  # fmt: skip


def main() -> None:
    """The command `relay`, with this module's commands only."""
    app = new_app()
    add_commands(app)
    app()


def serve(
    config: Config = None,
    role: Annotated[str, typer.Option(help="Run one role only, smtp, retry or api; needs store.url.")] = "",
) -> None:
    """Run the relay: the embedded store if no store.url is set, the SMTP workers, the retry process and the API."""
    roles: dict[str, tuple[Role, ...]] = {
        "": ("smtp", "retry", "api"), "smtp": ("smtp",), "retry": ("retry",), "api": ("api",),
    }  # fmt: skip
    if role not in roles:
        _fail(f"--role: {role}: no such role; smtp, retry or api")
    settings = _load(config)
    if roles[role] != ("api",) and (missing := _missing_password(settings)):
        _fail(missing)
    try:
        _loop(supervise(settings, roles[role], lambda line: typer.echo(f"relay is ready: {line}", err=True)))
    except StartError as error:
        _fail(str(error))


def check(config: Config = None) -> None:
    """Read the configuration and say whether it can be used."""
    settings = _load(config)
    try:
        check_doors(settings)
        check_ground(settings)
    except ConfigError as error:
        _fail(str(error))
    for warning in filter(None, (file_shortage(settings), _missing_password(settings))):
        typer.echo(f"relay: warning: {warning}", err=True)
    typer.echo(f"{config or 'defaults'}: OK")


def _missing_password(settings: Settings) -> str:
    """One line if there is a name to log in with and no password; a shell, and the API, may do without the credential that it is."""
    if settings.upstream.username and not settings.upstream.password.get_secret_value():
        return "upstream.password: missing beside upstream.username, nobody could log in"
    return ""


def _load(config: Path | None) -> Settings:
    try:
        return load(config)
    except ConfigError as error:
        _fail(str(error))


def _loop(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def _fail(text: str) -> NoReturn:
    if text:
        print(f"relay: {text}", file=sys.stderr)
    raise typer.Exit(2)
