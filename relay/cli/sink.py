"""relay sink: a scripted smarthost, or a stand-in for a relay with limits, to leave running."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, cast, get_args

import typer
import uvloop

from relay.cli.door import EX_USAGE
from relay.loadkit.allowance import Allowance
from relay.loadkit.loadtest import run_sink
from relay.loadkit.script import Script
from relay.loadkit.sink import Sink

Tls = Literal["none", "starttls", "implicit"]
Rules = Annotated[
    list[str], typer.Option("--script", "-s", help='A rule of the sink, as `rcpt every=10 reply="450 4.2.0 busy"`; may be repeated.')
]


def add_commands(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(sink)


def sink(
    port: Annotated[int, typer.Option(help="The port to listen on; 0 takes a free one.", min=0, max=65535)] = 2600,
    address: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    quota: Annotated[
        str | None, typer.Option(help="Limits of each user, as `hourly=500,total=unlimited,window=3600,unit=messages`.")
    ] = None,
    user: Annotated[list[str], typer.Option(help="NAME:PASSWORD of a user who may log in; may be repeated.")] = [],
    tls: Annotated[str, typer.Option(help="none, starttls or implicit.")] = "none",
    certificate: Annotated[Path | None, typer.Option(help="Its certificate chain (PEM); default one of its own.")] = None,
    key: Annotated[Path | None, typer.Option(help="The certificate's key, if it is in another file.")] = None,
    authority: Annotated[Path | None, typer.Option(help="Write here what a client must trust of the sink's own certificates.")] = None,
    hostname: Annotated[str, typer.Option(help="What it calls itself, in its certificates too.")] = "sink.example",
    script: Rules = [],
    seed: Annotated[int, typer.Option(help="Seeds what goes by chance: p= and the length of stalls.")] = 0,
    every: Annotated[float, typer.Option(help="Seconds between two lines of counts.", min=0.01)] = 1.0,
) -> None:
    """Run an SMTP server that delivers nothing and counts what it is given.

    With --quota it is a stand-in for this relay, to test an app against
    limits: it speaks and refuses as the relay does, before 354, with the same
    words and the exact retry-after. Each user has a window of its own; any
    name with any password logs in, unless --user is given. Nothing is kept
    once it ends.

    With --script it has faults. A rule is STAGE [CONDITION ...] ACTION ...;
    the first that fires wins.

    Stages: connect ehlo starttls tls auth mail rcpt data dot rset quit
    Conditions: match=GLOB sender=GLOB first=N every=N p=X
    from=SECONDS to=SECONDS, both since its start
    Actions: reply="..." twice garbage drop drop=after close
    stall=SECONDS stall=LEAST..MOST stall=forever
    At tls, the handshake: stall garbage drop certificate=expired
    certificate=wrong-name

    Examples:
    relay sink --quota hourly=5,window=60 -s "dot stall=0.05..0.3"
    relay sink --tls starttls -s "tls p=0.1 certificate=expired"
    relay sink -s "dot from=30 to=60 reply='451 4.3.2 down'"
    """
    rules = read_script(script)
    try:
        made = Sink(
            address, port, rules, seed, hostname, tls=_tls(tls), certificate=_context(tls, certificate, key),
            credentials=_users(user), allowance=None if quota is None else Allowance.parse(quota),
            is_record=False,
        )  # fmt: skip
    except ValueError as error:
        raise wrong(f"--quota: {error}") from None
    try:
        if authority is not None:
            authority.write_bytes(made.authority.pem)
        with suppress(KeyboardInterrupt):
            uvloop.run(run_sink(made, _announcing(_settings(made, script, seed, certificate)), every))
    except OSError as error:
        what = f"--authority: {authority}" if error.filename else f"cannot listen on {address} port {port}"
        raise wrong(f"{what}: {error.strerror}") from None


def _announcing(settings: list[str]) -> Callable[[str], None]:
    """What prints lines, and the settings after the first, which says that the sink listens."""

    def emit(line: str) -> None:
        typer.echo(line)
        while settings:
            typer.echo(f"  {settings.pop(0)}")

    return emit


def _tls(name: str) -> Tls:
    for kind in get_args(Tls):
        if kind == name:
            return cast(Tls, kind)
    raise wrong(f"--tls: {name}: none, starttls or implicit")


def _context(tls: str, certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None:
        if key is not None:
            raise wrong("--key: needs --certificate")
        return None
    if tls == "none":
        raise wrong("--certificate: is of use with --tls starttls or --tls implicit only")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, lambda: "")  # else OpenSSL would ask the terminal for a passphrase
    except ssl.SSLError as error:
        raise wrong(f"--certificate: {certificate}: no certificate with its key in PEM ({error.reason or 'unreadable'})") from None
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise wrong(f"--certificate: {certificate}{f' with {key}' if key is not None else ''}: {what}") from None
    return context


def _users(words: list[str]) -> dict[str, str] | None:
    users = {}
    for word in words:
        name, colon, password = word.partition(":")
        if not colon or not name:
            raise wrong("--user: NAME:PASSWORD expected")
        users[name] = password
    return users or None


def _settings(made: Sink, script: list[str], seed: int, certificate: Path | None) -> list[str]:
    """What it is set to, to show; no password."""
    manners, lines = made.manners, []
    if made.books is not None:
        lines.append(f"limits of each user: {made.books.allowance}")
    if manners.has_auth:
        lines.append("login: any name, any password" if manners.credentials is None else f"login: {', '.join(manners.credentials)}")
    if manners.tls != "none":
        lines.append(f"TLS: {manners.tls}, certificate {certificate or 'of its own'}")
    lines += [f"rule: {line}" for line in script]
    if script:
        lines.append(f"seed: {seed}")
    return lines


def read_script(lines: list[str]) -> Script:
    """Read the rules of a command line."""
    try:
        return Script.parse(lines)
    except ValueError as error:
        raise wrong(f"--script: {error}") from None


def wrong(text: str) -> typer.Exit:
    """Say what is wrong with the command line; raise what this returns."""
    typer.echo(f"relay: {text}", err=True)
    return typer.Exit(EX_USAGE)
