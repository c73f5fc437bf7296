"""relay loadtest: a load as a scenario has it, against a server that is given or a relay of its own, and the verdict on it."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
import uvloop
from rich.console import Console

from relay.cli.sink import Rules, wrong
from relay.cli.tryout import Gone, NotStarted, Place, add_owner, beside, end_at_a_signal, found_place, started
from relay.loadkit.authority import Authority
from relay.loadkit.generator import resolve
from relay.loadkit.loadtest import LoadResult, run_loadtest
from relay.loadkit.page import document, page
from relay.loadkit.provision import ProvisionError
from relay.loadkit.report import plain
from relay.loadkit.scenario import Scenario, ScenarioError, read_scenario
from relay.loadkit.verdict import Usage, Verdict

BROKEN = 1
INTERRUPTED = 130
FULLEST = 20
"""Users that the verdict names."""
KEYS = {
    "host": "target.host", "port": "target.port", "tls": "target.tls", "allow_remote": "target.allow_remote", "journal": "target.journal",
    "credentials": "target.credentials", "api": "api.url", "owner": "api.owner", "token": "api.token", "users": "users.count",
    "hourly": "users.hourly", "total": "users.total", "connections": "load.connections", "messages": "load.messages",
    "seconds": "load.seconds", "size": "load.size", "recipients": "load.recipients", "per_connection": "load.per_connection",
    "seed": "load.seed", "sink": "sink.port", "script": "sink.script", "window": "quota.window_seconds",
    "resolution": "quota.resolution_seconds", "unit": "quota.unit",
}  # fmt: skip
"""Where in a scenario each option stands."""


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(loadtest)


def loadtest(
    scenario: Annotated[Path | None, typer.Argument(help="A scenario (TOML), as in config/loadtest/; options override it.")] = None,
    window: Annotated[
        int | None, typer.Option(help="Length of the hourly window, s. Without --host and --port a relay with it is started for the test.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="The address of the server to test.")] = None,
    port: Annotated[int | None, typer.Option(help="Its SMTP port; 2525 if only --host is given.")] = None,
    allow_remote: Annotated[bool | None, typer.Option("--allow-remote", help="Let the server, and the API, be another machine.")] = None,
    tls: Annotated[str | None, typer.Option(help="none, starttls or implicit; certificates are not verified.")] = None,
    user: Annotated[list[str] | None, typer.Option(help="NAME:PASSWORD of a user to send as; may be repeated.")] = None,
    credentials: Annotated[str | None, typer.Option(help='A JSON file of users: [["name", "password"], ...].')] = None,
    api: Annotated[str | None, typer.Option(help="Make users through this API, http://127.0.0.1:8025; needs --owner and --token.")] = None,
    owner: Annotated[str | None, typer.Option(help="The owner_id to make users for.")] = None,
    token: Annotated[str | None, typer.Option(help="The owner's token.", envvar="RELAY_LOADTEST_TOKEN")] = None,
    users: Annotated[int | None, typer.Option(help="How many users.")] = None,
    hourly: Annotated[str | None, typer.Option(help="Their hourly limit, or `unlimited`; to make them with, or to judge by.")] = None,
    total: Annotated[str | None, typer.Option(help="Their total limit likewise.")] = None,
    connections: Annotated[int | None, typer.Option("--connections", "-c", help="Connections at a time.")] = None,
    messages: Annotated[int | None, typer.Option("--messages", "-n", help="Messages in all.")] = None,
    seconds: Annotated[str | None, typer.Option(help="Send for so long; `2w` is two windows.")] = None,
    size: Annotated[str | None, typer.Option(help="Octets of a message: 2048, 1k-50k, or a mix 2k:8,50k:1.")] = None,
    recipients: Annotated[str | None, typer.Option(help="Recipients of a message, likewise.")] = None,
    per_connection: Annotated[int | None, typer.Option(help="Messages on one connection; 0 is no end.")] = None,
    pattern: Annotated[
        str | None, typer.Option(help="When messages are due: KIND KEY=VALUE ..., as `burst messages=100 every=1w`; see below.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Messages a second in all; short for a pattern.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seeds what goes by chance.")] = None,
    journal: Annotated[
        list[str] | None, typer.Option(help="The relay's journal or a glob of several; without one the server is judged as a stranger.")
    ] = None,
    sink: Annotated[int | None, typer.Option(help="Run a sink on this port for the relay to forward to.")] = None,
    script: Rules = [],
    resolution: Annotated[int | None, typer.Option(help="The relay's quota.resolution_seconds.")] = None,
    unit: Annotated[str | None, typer.Option(help="The relay's quota.unit: messages or recipients.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write a page (HTML, self-contained) to this file.")] = None,
    report_json: Annotated[Path | None, typer.Option(help="Write the JSON document to this file.")] = None,
) -> None:
    """Send mail as many users on many connections, and judge what came of it. Exit status: 0 held, 1 broken, 2 not begun, 130 interrupted.

    Patterns: closed (as fast as answered); rate rate=50; burst messages=100 every=1w; ramp start=0 end=200 over=10; sawtooth messages=50
    edge=1 (that many before and after each boundary of a fixed window). All but the first count latency from the instant a message was
    due, so that what a slow server makes wait is counted too. A span is in seconds, or in windows: 1.5w; a rate a second, or 400/w.
    """
    given = _given({**locals(), "script": script or None, "journal": journal or None})
    if rate is not None:
        given["pattern"] = ("--rate", {"kind": "rate", "rate": rate})
    try:
        if pattern is not None:
            given["pattern"] = ("--pattern", _pattern(pattern))
        result = _perform(scenario, given, user or [], (report, report_json), Console(quiet=as_json))
    except Gone as error:
        raise _ended(str(error), BROKEN) from None
    except (ScenarioError, ProvisionError, NotStarted, OSError, ValueError, OverflowError) as error:
        raise wrong(plain(str(error))) from None
    except (asyncio.CancelledError, KeyboardInterrupt):
        raise _ended("interrupted", INTERRUPTED) from None
    _show(result, as_json, report, report_json)
    raise typer.Exit(0 if result.holds else BROKEN)


def _perform(
    path: Path | None, given: dict[str, tuple[str, Any]], users: list[str], reports: tuple[Path | None, Path | None], console: Console
) -> LoadResult:
    """Do what was asked for, once its reports are seen to have a place."""
    named = _credentials(users)
    wanted = _wanted(path, given, named)
    for file in reports:
        _check_place(file)
    return uvloop.run(_run(wanted, named or _credentials_of(wanted.target.credentials), console))


# -- what is asked for -------------------------------------------------------------------------------------------------------


def _given(options: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """The options that were given, by their place in a scenario."""
    found: dict[str, tuple[str, Any]] = {}
    for name, key in KEYS.items():
        value = options[name]
        if value is not None:
            plain = int(value) if name in ("hourly", "total") and value.isdecimal() else value
            found[key] = (f"--{name.replace('_', '-')}", float(value) if name == "seconds" and _is_number(value) else plain)
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _pattern(text: str) -> dict[str, Any]:
    kind, *words = text.split() or [""]
    if not kind:
        raise ScenarioError("--pattern: KIND KEY=VALUE ... was expected, as `burst messages=100 every=1w`")
    found: dict[str, Any] = {"kind": kind}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ScenarioError(f"--pattern: {word}: KEY=VALUE was expected")
        found[key] = int(value) if value.isdecimal() else float(value) if _is_number(value) else value
    return found


def _credentials(words: list[str]) -> list[tuple[str, str]]:
    found = []
    for word in words:
        name, colon, password = word.partition(":")
        if not colon:
            raise ScenarioError("--user: NAME:PASSWORD expected")
        found.append((name, password))
    return found


def _credentials_of(file: str) -> list[tuple[str, str]]:
    if not file:
        return []
    try:
        return [(str(name), str(password)) for name, password in json.loads(Path(file).read_text())]
    except OSError as error:
        raise ScenarioError(f"{file}: {error.strerror}") from None
    except (ValueError, TypeError):
        raise ScenarioError(f'{file}: [["name", "password"], ...] was expected') from None


def _wanted(path: Path | None, given: dict[str, tuple[str, Any]], named: list[tuple[str, str]]) -> Scenario:
    wanted = read_scenario(path, given)
    named = named or _credentials_of(wanted.target.credentials)
    if named and len(wanted.users) == 1 and "users.count" not in given and "count" not in wanted.users[0].model_fields_set:
        wanted = read_scenario(path, {**given, "users.count": ("--user", len(named))})
    if wanted.api.url and not (wanted.api.owner and wanted.api.token):
        raise ScenarioError("--api: needs --owner and --token")
    if wanted.target.is_given:
        return wanted
    if "window_seconds" not in wanted.quota.model_fields_set:
        raise ScenarioError(
            "nothing to send to: name a server by --port (and --host), or give --window 5 to start a relay for the test whose hour has 5 s"
        )
    if named or wanted.api.url or wanted.target.journal:
        raise ScenarioError("--user, --credentials, --api and --journal are of a server that --port names; a relay of its own has its own")
    return wanted


# -- what is done ------------------------------------------------------------------------------------------------------------


async def _run(wanted: Scenario, named: list[tuple[str, str]], console: Console) -> LoadResult:
    end_at_a_signal()
    if wanted.target.is_given:
        await _check_api(wanted)
        return await _run_given(wanted, named, console)
    with found_place("relay-loadtest-", sink=wanted.sink.port or 0) as place:
        async with started(place, _settings(wanted, place), lambda said: None) as process:
            console.print(f"a relay for this test: {place.folder}, window {wanted.quota.window_seconds} s", highlight=False)
            owner, token = await add_owner(place, "loadtest")
            own = {
                "target": wanted.target.model_copy(update={"port": place.smtp, "journal": (str(place.journal),)}),
                "api": wanted.api.model_copy(update={"url": f"http://127.0.0.1:{place.api}", "owner": owner, "token": token}),
                "sink": wanted.sink.model_copy(update={"port": place.sink}),
            }
            # Of a relay that is gone there is nothing to say of every single user but that.
            warn: Callable[[str], None] = lambda text: _warn(text) if process.returncode is None else None  # noqa: E731
            return await beside(process, run_loadtest(wanted.model_copy(update=own), console, warn=warn))


async def _run_given(wanted: Scenario, named: list[tuple[str, str]], console: Console) -> LoadResult:
    try:
        return await run_loadtest(wanted, console, credentials=named, warn=_warn)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:  # the sink is all that listens here
            raise ScenarioError(f"--sink: port {wanted.sink.port} of 127.0.0.1 is in use") from None
        raise


async def _check_api(wanted: Scenario) -> None:
    """See that the owner's token goes to another machine only where that was allowed."""
    where = urlsplit(wanted.api.url)
    if where.hostname:
        await resolve(where.hostname, where.port or 0, wanted.target.allow_remote)


def _settings(wanted: Scenario, place: Place) -> dict[str, dict[str, Any]]:
    """The settings of a relay of its own: several workers, since it is between them that a count goes wrong."""
    smtp: dict[str, Any] = {"workers": 2}
    if wanted.target.tls != "none":
        pair = place.folder / "certificate.pem"  # the directory is closed to others
        pair.write_bytes(Authority(["relay.example", "127.0.0.1"]).pair())
        smtp |= {"listen": [{"port": place.smtp, "tls": wanted.target.tls}], "tls": {"certificate": str(pair), "key": str(pair)}}
    settings: dict[str, dict[str, Any]] = {"smtp": smtp, "quota": wanted.quota.model_dump()}
    return {section: {**settings.get(section, {}), **wanted.relay.get(section, {})} for section in [*settings, *wanted.relay]}


def _check_place(file: Path | None) -> None:
    """See before the load that a report can be written after it."""
    if file is not None and not (file.parent.is_dir() and not file.is_dir()):
        raise ScenarioError(f"{file}: no such place for a report")


def _write(file: Path | None, text: Callable[[], str]) -> None:
    """Write a report, or say that it could not be: the verdict stands either way, and has been shown."""
    if file is None:
        return
    try:
        file.write_text(text(), encoding="utf-8", errors="replace")
    except OSError as error:
        _warn(f"{file}: the report could not be written: {error.strerror}")


def _warn(text: str) -> None:
    typer.echo(f"relay: {plain(text)}", err=True)


def _ended(text: str, status: int) -> typer.Exit:
    _warn(text)
    return typer.Exit(status)


def _show(result: LoadResult, as_json: bool, report: Path | None, report_json: Path | None) -> None:
    """Show the verdict, then write the reports: they may go wrong, and it was long in the making."""
    _print(result, as_json)
    _write(report, lambda: page(result.outcome))
    _write(report_json, lambda: json.dumps(document(result.outcome), indent=2) + "\n")


def _print(result: LoadResult, as_json: bool) -> None:
    for change in result.outcome.changes:
        if change.error:
            _warn(f"{change.kind} of {change.user} was not done: {change.error}")
    if as_json:
        typer.echo(json.dumps(document(result.outcome), indent=2))
        return
    console = Console()
    console.print(result.tally.table(is_final=True))
    for line in told(result.outcome.verdict):
        console.print(plain(line), markup=False, highlight=False, soft_wrap=True)


def told(verdict: Verdict) -> Iterator[str]:
    """The verdict's lines, of its users the fullest."""
    fullest = sorted(verdict.usages, key=_fullness, reverse=True)[:FULLEST]
    yield from replace(verdict, usages=tuple(fullest)).lines()
    if left := len(verdict.usages) - len(fullest):
        yield f"       and {left:,} more users, less full; --report-json has them all"


def _fullness(usage: Usage) -> tuple[float, int]:
    hourly, total = usage.limits.hourly, usage.limits.total
    return max(usage.most / hourly if hourly else 0.0, usage.taken / total if total else 0.0), usage.taken
