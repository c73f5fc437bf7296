"""relay bench: what the relay does and costs on this machine, the whole path, with every message accounted for."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from relay.cli.course import GROUPS, QUICK, WHOLE, Course
from relay.cli.sink import wrong
from relay.cli.tryout import NotStarted, end_at_a_signal
from relay.loadkit.bench import AROUND, OURS, Findings, NotAccounted
from relay.loadkit.bench_page import document, page, pictures
from relay.loadkit.caller import Unwelcome
from relay.loadkit.provision import ProvisionError
from relay.store.client import StoreRefused, StoreUnavailable

INTERRUPTED = 130


def add_commands(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(bench)


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Under two minutes, rougher; the whole takes up to twenty.")] = False,
    only: Annotated[
        list[str], typer.Option(help=f"{', '.join(GROUPS)}, or part of a case's name, as '2 KB, plain'; may be repeated.")
    ] = [],
    scale: Annotated[float, typer.Option(help="A part of every count and time: 0.1 is a tenth.", min=0.0001, max=1.0)] = 1.0,
    rounds: Annotated[int, typer.Option(help="Rounds of each case of the path; 0: three, with --quick one.", min=0)] = 0,
    beside: Annotated[list[str], typer.Option(help="NAME=COMMAND of another server, loaded in turns; may be repeated.")] = [],
    sink_command: Annotated[str, typer.Option(help="What to run as the smarthost, as `smtp-sink -c 127.0.0.1:{port} 1000`.")] = "",
    report: Annotated[Path | None, typer.Option(help="Write a page (HTML, self-contained) to this file.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write one JSON document to this file.")] = None,
    picture_folder: Annotated[Path | None, typer.Option("--pictures", help="Write the charts (SVG) to this directory.")] = None,
) -> None:
    """Measure a relay of its own: `relay serve` as shipped in a temporary directory, with its own store, a journal and a sink.

    It measures the whole path (sizes, TLS, open connections or one message
    each), how cost grows with connections, users and waiting mail, and memory.
    CPU is of the relay's processes a message, the store's beside it. After
    each measurement ledger, journal and sink must agree to the message.

    Another server by --beside is told its port, the sink's, whom to let in, a
    file with certificate and key, and how many workers the relay has, as
    {port} {sink} {user} {password} {certificate} {workers}, or in the
    environment as BENCH_PORT and so on. The files go where TMPDIR says.

    Exit status: 0 measured, 1 the mail was not accounted for, 2 nothing was
    begun, 130 it was interrupted.
    """
    others = _besides(beside)
    _check_places(report, json_file, picture_folder)
    plan = (QUICK if quick else WHOLE).scaled(scale).with_rounds(rounds)
    findings = Findings(time.time())
    course = Course(plan, findings, typer.echo, only, sink_command, others)
    for word in only:
        if word not in GROUPS and not any(word.lower() in case[0].lower() for case in Course(plan, findings, typer.echo, [word]).cases()):
            raise wrong(f"--only: {word}: neither {', '.join(GROUPS)} nor part of a case's name")
    try:
        uvloop.run(_run(course))
    except NotAccounted as error:
        typer.echo(f"relay: {error}", err=True)
        raise typer.Exit(1) from None
    except (NotStarted, ProvisionError, Unwelcome, StoreUnavailable, StoreRefused, OSError) as error:
        raise wrong(str(error)) from None
    except asyncio.CancelledError:
        typer.echo("relay: interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None
    _tell_medians(findings)
    _write(findings, report, json_file, picture_folder)


async def _run(course: Course) -> None:
    end_at_a_signal()
    await course.run()


def _besides(words: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        name, equals, command = word.partition("=")
        if not equals or not command.strip() or not re.fullmatch(r"[\w.-]+", name) or name in {OURS, *AROUND, *found}:
            raise wrong(f"--beside: {word}: NAME=COMMAND expected, the name a new one")
        found[name] = command
    return found


def _check_places(report: Path | None, json_file: Path | None, folder: Path | None) -> None:
    """See before the load that its results can be written after it."""
    for file in (report, json_file):
        if file is not None and (file.is_dir() or not file.parent.is_dir()):
            raise wrong(f"{file}: no such place for a file")
    if folder is not None and not folder.is_dir():
        raise wrong(f"--pictures: {folder}: no such directory")


def _tell_medians(findings: Findings) -> None:
    """Where a case was measured more than once or on several servers: its medians, and ours against the others'."""
    for case in findings.cases():
        for server in findings.servers():
            middle, ratio = findings.median(case, server), findings.ratio(case, server)
            if middle is None or len(findings.of(case, OURS)) == len(findings.servers()) == 1:
                continue
            times = f"; the relay is {ratio:.2f} times as fast" if server != OURS and ratio is not None else ""
            typer.echo(f"median of {case}: {middle.line()}{times}")


def _write(findings: Findings, report: Path | None, json_file: Path | None, folder: Path | None) -> None:
    if report is not None:
        report.write_text(page(findings), encoding="utf-8")
    if json_file is not None:
        json_file.write_text(json.dumps(document(findings), indent=2) + "\n", encoding="utf-8")
    if folder is not None:
        for name, picture in pictures(findings).items():
            (folder / name).write_text(picture + "\n", encoding="utf-8")
