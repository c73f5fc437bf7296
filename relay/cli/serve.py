"""relay serve, relay check, relay ledger: running a relay, and what its operator asks of it."""

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

from relay.cli.door import Config, opened, run
from relay.config import ConfigError, Settings, load
from relay.daemon import check_doors, epoch_file, run_api, run_smtp
from relay.session.listener import ListenError
from relay.store import fitness
from relay.store.client import StoreForeign, StoreUnavailable
from relay.supervisor import Role, StartError
from relay.supervisor import serve as supervise

ledger = typer.Typer(help="The ledger of what users have sent.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(serve)
    app.command()(check)
    app.command(hidden=True)(worker)
    app.add_typer(ledger, name="ledger")


def serve(
    config: Config = None,
    role: Annotated[str, typer.Option(help="Run one role only, smtp or api; needs store.url.")] = "",
) -> None:
    """Run the relay: the embedded store if no store.url is set, the SMTP workers and the API."""
    roles: dict[str, tuple[Role, ...]] = {"": ("smtp", "api"), "smtp": ("smtp",), "api": ("api",)}
    if role not in roles:
        _fail(f"--role: {role}: no such role; smtp or api")
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
        else:
            _loop(run_api(settings, socket.socket(fileno=sock), tell))
    except (ConfigError, ListenError) as error:
        _fail(str(error))
    except StoreUnavailable as error:
        typer.echo(f"relay: {error}", err=True)
        raise typer.Exit(75) from None


@ledger.command()
def adopt(config: Config = None) -> None:
    """Take the store as it is: after it was emptied or replaced on purpose. Counters start from what it holds."""

    async def do() -> None:
        settings = _load(config)
        try:
            async with opened(config):
                typer.echo("The store is already this node's own.")
        except StoreForeign:
            async with opened(config, is_joining=False) as door:
                epoch = await fitness.adopt(door.store, epoch_file(settings))
                typer.echo(f"Adopted the store, epoch {epoch}. Restart the relay.")

    run(do())


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
