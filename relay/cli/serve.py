"""relay serve, relay check: running a relay, and whether it could be run."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import socket
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import uvloop

from relay.cli.door import Config
from relay.config import ConfigError, Settings, load
from relay.daemon import check_doors, run_api, run_retry, run_smtp
from relay.session.listener import ListenError
from relay.spool.fault import SpoolUnavailable
from relay.store.client import StoreUnavailable
from relay.supervisor import Role, StartError
from relay.supervisor import serve as supervise


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(serve)
    app.command()(check)
    app.command(hidden=True)(worker)


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
    try:
        _loop(supervise(settings, roles[role], lambda line: typer.echo(f"relay is ready: {line}", err=True)))
    except StartError as error:
        _fail(str(error))


def check(config: Config = None) -> None:
    """Read the configuration and say whether it can be used."""
    settings = _load(config)
    try:
        check_doors(settings)
    except (ConfigError, ListenError) as error:
        _fail(str(error))
    typer.echo(f"{config or 'defaults'}: OK")


def worker(
    role: Annotated[str, typer.Option()],
    incarnation: Annotated[str, typer.Option()],
    ready: Annotated[int, typer.Option()],
    given: Annotated[int, typer.Option("--settings")],
    ports: Annotated[str, typer.Option()] = "",
    sock: Annotated[int, typer.Option("--socket")] = -1,
) -> None:
    """One process of a relay; started by `relay serve`, not by hand."""
    with os.fdopen(given, "rb") as file:
        settings: Settings = pickle.load(file)  # noqa: S301 - written by our own supervisor, into memory only we share

    def tell() -> None:
        # What exists now lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        os.write(ready, b"1")

    try:
        if role == "smtp":
            _loop(run_smtp(settings, incarnation, [int(port) for port in ports.split(",")], tell))
        elif role == "retry":
            _loop(run_retry(settings, incarnation, tell))
        else:
            _loop(run_api(settings, incarnation, socket.socket(fileno=sock), tell))
    except (ConfigError, ListenError) as error:
        _fail(str(error))
    except (StoreUnavailable, SpoolUnavailable) as error:
        typer.echo(f"relay: {error}", err=True)
        raise typer.Exit(75) from None


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
