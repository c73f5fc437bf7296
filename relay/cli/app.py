"""The command `relay`: its sub-commands, gathered."""

from __future__ import annotations

from typing import Annotated

import typer

from relay import __version__
from relay.cli import accounts, bench, demo, ledger, load, queue, serve, sink, token, upstream

app = serve.new_app()
serve.add_commands(app)
demo.add_commands(app)
app.add_typer(accounts.owner, name="owner")
app.add_typer(accounts.user, name="user")
app.add_typer(upstream.upstream, name="upstream")
app.add_typer(token.token, name="token")
app.add_typer(queue.queue, name="queue")
app.add_typer(ledger.ledger, name="ledger")
sink.add_commands(app)
load.add_commands(app)
bench.add_commands(app)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        version()
        raise typer.Exit


@app.callback()
def relay(
    is_asked: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """An SMTP relay that keeps per-user sending limits exactly."""


def main() -> None:
    """The command `relay`."""
    app()
