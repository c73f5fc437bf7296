"""relay demo: the whole relay in a temporary directory, with a sink for its smarthost; sends real mail and shows what happens."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import signal
import smtplib
import socket
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from relay.cli.door import opened
from relay.loadkit.sink import Sink
from relay.worker import die_with

HOURLY, TOTAL, MESSAGES = 5, 20, 7
STARTING = 60.0
"""Seconds the relay may take to get ready."""
STOPPED = 130
"""Exit status of a self-run that a signal ended."""


class NotAsPromised(Exception):
    """The demonstration showed something other than it should."""


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(demo)


def demo(
    once: Annotated[bool, typer.Option("--once", help="Stop after the self-run; non-zero if anything was not as promised.")] = False,
) -> None:
    """Start a relay in a temporary directory, send mail through it until its limit refuses it, and keep it running to be tried."""
    console = Console(highlight=False, soft_wrap=True)
    try:
        asyncio.run(_demo(console, once))
    except NotAsPromised as error:
        console.print(f"[bold red]Not as promised:[/] {escape(str(error))}")
        raise typer.Exit(1) from None
    except asyncio.CancelledError:
        with suppress(OSError):  # the terminal may be gone
            console.print("Stopped.")
        raise typer.Exit(STOPPED if once else 0) from None


@dataclass(frozen=True, slots=True)
class Place:
    """Where the demonstration runs."""

    folder: Path
    smtp: int
    api: int
    sink: int

    @property
    def config(self) -> Path:
        """The configuration file of the relay."""
        return self.folder / "relay.toml"


@dataclass(frozen=True, slots=True)
class Names:
    """Who was made for it."""

    owner_id: str
    token: str
    user: str
    password: str


async def _demo(console: Console, is_once: bool) -> None:
    _stop_at_a_signal()
    folder = Path(tempfile.mkdtemp(prefix="relay-demo-"))
    try:
        place = Place(folder, _port(2525), _port(8025), _port(2600))
        sink = Sink("127.0.0.1", place.sink)
        await sink.start()
        try:
            async with _relay(place, console) as process:
                names = await _provision(place, console)
                await _self_run(place, names, sink, console)
                if not is_once:
                    _explain(place, names, console)
                    raise NotAsPromised(f"the relay ended with status {await process.wait()}")
        finally:
            await sink.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stop_at_a_signal() -> None:
    """Let the first signal, a closed terminal's too, end the demonstration from wherever it is; what is open is then closed in order."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    signals = [number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]

    def on_signal() -> None:
        for number in signals:
            loop.add_signal_handler(number, lambda: None)  # a second one would cut the closing short
        task.cancel()

    for number in signals:
        loop.add_signal_handler(number, on_signal)


def _port(wanted: int) -> int:
    """The port if it is free, else any other."""
    for port in (wanted, 0):
        with closing(socket.socket()) as sock, suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection that just ended does not count
            sock.bind(("127.0.0.1", port))
            found: int = sock.getsockname()[1]
            return found
    raise NotAsPromised("no free port on 127.0.0.1")


@asynccontextmanager
async def _relay(place: Place, console: Console) -> AsyncIterator[asyncio.subprocess.Process]:
    place.config.write_text(
        f'[smtp]\nhostname = "relay.example"\nworkers = 2\n'
        f"[[smtp.listen]]\nport = {place.smtp}\nauth_without_tls = true\n"
        f"[api]\nport = {place.api}\n[upstream]\nport = {place.sink}\n"
        f'[data]\ndirectory = "{place.folder / "data"}"\n[journal]\nfile = "{place.folder / "journal.log"}"\n'
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "relay", "serve", "--config", str(place.config), env=environment,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, start_new_session=True,
        preexec_fn=die_with(os.getpid()),
    )  # fmt: skip
    try:
        console.print(f"relay serve --config {place.config}")
        await _await_ready(process, console)
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await process.wait()


async def _await_ready(process: asyncio.subprocess.Process, console: Console) -> None:
    assert process.stderr is not None
    said = ""
    with suppress(TimeoutError):
        async with asyncio.timeout(STARTING):
            while line := (await process.stderr.readline()).decode("utf-8", "replace"):
                said = line.strip()
                console.print(f"  {escape(said)}")
                if said.startswith("relay is ready"):
                    return
    raise NotAsPromised(f"the relay did not get ready: {said}")


async def _provision(place: Place, console: Console) -> Names:
    """An owner as an operator makes one, a user as a vendor's client does."""
    async with opened(place.config) as door:
        owner, token = await door.provisioning.add_owner("demo")
    console.print(f"\nowner {owner.owner_id} made, as by: relay owner add demo --config {place.config}")
    body = {"owner_id": owner.owner_id, "token": token, "total_limit": TOTAL, "hourly_limit": HOURLY}
    answer = await asyncio.to_thread(_call, f"http://127.0.0.1:{place.api}/v1.0/settings/addSmtp", body)
    if answer.get("status") != "success":
        raise NotAsPromised(f"addSmtp answered {answer}")
    console.print(f"user {answer['smtp_user_name']} made by POST /v1.0/settings/addSmtp: hourly limit {HOURLY}, total limit {TOTAL}\n")
    return Names(owner.owner_id, token, answer["smtp_user_name"], answer["smtp_password"])


def _call(url: str, body: dict[str, Any] | None = None, basic: str = "") -> dict[str, Any]:
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if basic:
        headers["Authorization"] = "Basic " + base64.b64encode(basic.encode()).decode()
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        found: dict[str, Any] = json.load(answer)
        return found


async def _self_run(place: Place, names: Names, sink: Sink, console: Console) -> None:
    """Send more than the limit allows; everything is checked, not only shown."""
    replies = await asyncio.to_thread(_send, place, names, console)
    taken = [reply for reply in replies if reply.startswith("250 2.0.0 ")]
    refused = [reply for reply in replies if reply.startswith("451 4.7.0 Hourly sending limit reached")]
    if replies != taken + refused or len(taken) != HOURLY:
        raise NotAsPromised(f"expected {HOURLY} messages taken, then 451 4.7.0")
    for reply in refused:
        found = re.search(r"retry-after=(\d+)", reply)
        if found is None or not 3500 < int(found[1]) <= 3601:
            raise NotAsPromised(f"no retry-after of about an hour in: {reply}")
    usage = await asyncio.to_thread(_call, f"http://127.0.0.1:{place.api}/api/v1/usage", None, f"{names.user}:{names.password}")
    if len(sink.messages) != HOURLY:
        raise NotAsPromised(f"the sink has {len(sink.messages)} messages")
    table = Table("what", "count")
    for what, count in usage.items():
        table.add_row(what, "-" if count is None else str(count))
    table.add_row("messages at the sink", str(len(sink.messages)))
    console.print(table)
    if (usage["sent_in_window"], usage["sent_total"]) != (HOURLY, HOURLY):
        raise NotAsPromised(f"the ledger says {usage}")
    console.print(f"[bold green]As promised:[/] {HOURLY} taken, {HOURLY} in the ledger, {HOURLY} at the sink, {MESSAGES - HOURLY} refused.")


def _send(place: Place, names: Names, console: Console) -> list[str]:
    replies = []
    with smtplib.SMTP("127.0.0.1", place.smtp, timeout=30) as client:
        client.login(names.user, names.password)
        for number in range(1, MESSAGES + 1):
            text = f"From: app@example.com\r\nTo: you@example.net\r\nSubject: demo {number}\r\n\r\nHello number {number}.\r\n"
            client.mail("app@example.com")
            client.rcpt("you@example.net")
            try:
                code, said = client.data(text)
            except smtplib.SMTPDataError as error:  # refused before the message was asked for
                code, said = error.smtp_code, error.smtp_error if isinstance(error.smtp_error, bytes) else error.smtp_error.encode()
            replies.append(f"{code} {said.decode('ascii', 'replace')}")
            console.print(f"message {number}: [{'green' if code == 250 else 'yellow'}]{escape(replies[-1])}[/]")
            if code != 250:
                client.rset()
    return replies


def _explain(place: Place, names: Names, console: Console) -> None:
    api = f"http://127.0.0.1:{place.api}"
    body = json.dumps({"owner_id": names.owner_id, "token": names.token, "smtp_user_name": names.user, "hourly_limit": 10})
    console.print("\nThe relay keeps running. To paste into another shell:\n")
    console.print(f"curl -s {api}/v1.0/settings/editSmtp -d '{body}'", markup=False)
    console.print(f"curl -s -u {names.user}:{names.password} {api}/api/v1/usage", markup=False)
    console.print(
        f"swaks --server 127.0.0.1:{place.smtp} --auth PLAIN --auth-user {names.user} --auth-password {names.password} "
        "--from app@example.com --to you@example.net",
        markup=False,
    )
    console.print(
        f"python3 -c \"import smtplib; s = smtplib.SMTP('127.0.0.1', {place.smtp}); s.login('{names.user}', '{names.password}'); "
        "print(s.sendmail('app@example.com', ['you@example.net'], 'Subject: hello\\r\\n\\r\\nHello.'))\"",
        markup=False,
    )
    console.print(f"tail -f {place.folder / 'journal.log'}", markup=False)
    console.print(f"\nThe API's own pages: {api}/docs   Stop with Ctrl-C.")
