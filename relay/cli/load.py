"""relay sink, relay loadtest: the load kit's commands."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from relay.cli.door import EX_USAGE
from relay.loadkit.generator import RemoteTarget
from relay.loadkit.loadtest import LoadOptions, run_loadtest, run_sink
from relay.loadkit.provision import Provision, ProvisionError
from relay.loadkit.script import Script
from relay.loadkit.sink import Sink

Rules = Annotated[
    list[str], typer.Option("--script", "-s", help='A rule of the sink, as `rcpt every=10 reply="450 4.2.0 busy"`; may be repeated.')
]


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(sink)
    app.command()(loadtest)


def sink(
    port: Annotated[int, typer.Option(help="The port to listen on; 0 takes a free one.", min=0, max=65535)] = 2600,
    address: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    script: Rules = [],
    seed: Annotated[int, typer.Option(help="Seeds the rules that go by chance.")] = 0,
    every: Annotated[float, typer.Option(help="Seconds between two lines of counts.")] = 1.0,
) -> None:
    """Run a scripted smarthost that counts what it is given: answers, stalls, drops, garbage where its rules say so.

    A rule is STAGE [CONDITION ...] ACTION ...: stages connect ehlo starttls auth mail rcpt data dot rset quit; conditions match=GLOB
    sender=GLOB first=N every=N p=X; actions stall=SECONDS reply="..." twice garbage drop drop=after close.
    """
    rules = _script(script)
    try:
        with suppress(KeyboardInterrupt):
            uvloop.run(run_sink(Sink(address, port, rules, seed), typer.echo, every))
    except OSError as error:
        raise _wrong(f"cannot listen on {address} port {port}: {error.strerror}") from None


def loadtest(
    host: Annotated[str, typer.Option(help="The relay's address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The relay's SMTP port.", min=1, max=65535)] = 2525,
    tls: Annotated[str, typer.Option(help="none, starttls or implicit; certificates are not verified.")] = "none",
    user: Annotated[list[str], typer.Option(help="NAME:PASSWORD of a user to send as; may be repeated.")] = [],
    credentials: Annotated[Path | None, typer.Option(help='A JSON file of users: [["name", "password"], ...].')] = None,
    api: Annotated[str, typer.Option(help="Make users through this API first, http://127.0.0.1:8025; needs --owner and --token.")] = "",
    owner: Annotated[str, typer.Option(help="The owner_id to make users for.")] = "",
    token: Annotated[str, typer.Option(help="The owner's token.", envvar="RELAY_LOADTEST_TOKEN")] = "",
    users: Annotated[int, typer.Option(help="How many users to make.", min=1)] = 1,
    hourly: Annotated[int | None, typer.Option(help="Hourly limit of the users; to make them with, or to judge by.", min=1)] = None,
    total: Annotated[int | None, typer.Option(help="Total limit likewise.", min=1)] = None,
    connections: Annotated[int, typer.Option("--connections", "-c", help="Connections at a time.", min=1)] = 20,
    messages: Annotated[int | None, typer.Option("--messages", "-n", help="Messages in all.", min=1)] = None,
    seconds: Annotated[float | None, typer.Option(help="Send for so long.", min=0.1)] = None,
    size: Annotated[int, typer.Option(help="Octets of a message.", min=200)] = 2048,
    recipients: Annotated[int, typer.Option(help="Recipients of a message.", min=1)] = 1,
    per_connection: Annotated[int, typer.Option(help="Messages on one connection; 0 is no end.", min=0)] = 0,
    rate: Annotated[float | None, typer.Option(help="Messages a second in all; default as fast as answered.", min=0.01)] = None,
    journal: Annotated[list[str], typer.Option(help="The relay's journal file or a glob of several; the verdict needs it.")] = [],
    sink_port: Annotated[
        int | None, typer.Option("--sink", help="Run a sink on this port for the relay to forward to.", min=0, max=65535)
    ] = None,
    script: Rules = [],
    window: Annotated[float, typer.Option(help="The relay's quota.window_seconds.", min=1)] = 3600.0,
    resolution: Annotated[float, typer.Option(help="The relay's quota.resolution_seconds.", min=1)] = 1.0,
    unit: Annotated[str, typer.Option(help="The relay's quota.unit: messages or recipients.")] = "messages",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Send mail as many users on many connections, and judge what came of it: exit status 0 only if every promise held.

    The verdict compares what the clients heard, the relay's journal and the sink: most taken in any window by commit instants, every
    250 taken, everything taken delivered, no wrong refusal, every retry-after right.
    """
    if tls not in ("none", "starttls", "implicit"):
        raise _wrong(f"--tls: {tls}: none, starttls or implicit")
    if unit not in ("messages", "recipients"):
        raise _wrong(f"--unit: {unit}: messages or recipients")
    if messages is None and seconds is None:
        messages = 1000
    wish = Provision(api, owner, token, users, hourly or 1000, total or 1_000_000) if api else None
    if api and not (owner and token):
        raise _wrong("--api: needs --owner and --token")
    options = LoadOptions(
        host=host, port=port, tls=tls, credentials=_credentials(user, credentials), provision=wish, hourly=hourly, total=total,  # type: ignore[arg-type]
        connections=connections, messages=messages, seconds=seconds, size=size, recipients=recipients, per_connection=per_connection,
        rate=rate, journals=tuple(journal), sink=sink_port, script=_script(script) if script else None, window_seconds=window,
        resolution_seconds=resolution, unit=unit, json=as_json,  # type: ignore[arg-type]
    )  # fmt: skip
    try:
        result = uvloop.run(run_loadtest(options, Console()))
    except (ProvisionError, RemoteTarget, OSError, ValueError, OverflowError) as error:
        raise _wrong(str(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    raise typer.Exit(0 if result.holds else 1)


def _credentials(words: list[str], file: Path | None) -> tuple[tuple[str, str], ...]:
    found = []
    for word in words:
        name, colon, password = word.partition(":")
        if not colon:
            raise _wrong("--user: NAME:PASSWORD expected")
        found.append((name, password))
    if file is not None:
        try:
            found += [(str(name), str(password)) for name, password in json.loads(file.read_text())]
        except (OSError, ValueError, TypeError) as error:
            raise _wrong(f"--credentials: {file}: {error}") from None
    return tuple(found)


def _script(lines: list[str]) -> Script:
    try:
        return Script.parse(lines)
    except ValueError as error:
        raise _wrong(f"--script: {error}") from None


def _wrong(text: str) -> typer.Exit:
    typer.echo(f"relay: {text}", err=True)
    return typer.Exit(EX_USAGE)
