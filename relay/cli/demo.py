"""relay demo: the whole relay in a temporary directory, with a sink for its smarthost; sends real mail and shows what happens."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import smtplib
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from relay.cli.tryout import NotStarted, Place, add_owner, end_at_a_signal, found_place, started
from relay.loadkit.provision import direct
from relay.loadkit.sink import Sink

HOURLY, TOTAL, MESSAGES = 5, 20, 7
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
    except (NotAsPromised, NotStarted) as error:
        console.print(f"[bold red]Not as promised:[/] {escape(str(error))}")
        raise typer.Exit(1) from None
    except asyncio.CancelledError:
        with suppress(OSError):  # the terminal may be gone
            console.print("Stopped.")
        raise typer.Exit(STOPPED if once else 0) from None


@dataclass(frozen=True, slots=True)
class Names:
    """Who was made for it."""

    owner_id: str
    token: str
    user: str
    password: str


async def _demo(console: Console, is_once: bool) -> None:
    end_at_a_signal()
    with found_place("relay-demo-", smtp=2525, api=8025, sink=2600) as place:
        sink = Sink("127.0.0.1", place.sink)
        await sink.start()
        try:
            console.print(f"relay serve --config {place.config}")
            async with started(place, {"smtp": {"workers": 2}}, lambda said: console.print(f"  {escape(said)}")) as process:
                names = await _provision(place, console)
                await _self_run(place, names, sink, console)
                if not is_once:
                    _explain(place, names, console)
                    raise NotAsPromised(f"the relay ended with status {await process.wait()}")
        finally:
            await sink.stop()


async def _provision(place: Place, console: Console) -> Names:
    """An owner as an operator makes one, a user as a vendor's client does."""
    owner_id, token = await add_owner(place, "demo")
    console.print(f"\nowner {owner_id} made, as by: relay owner add demo --config {place.config}")
    body = {"owner_id": owner_id, "token": token, "total_limit": TOTAL, "hourly_limit": HOURLY}
    answer = await asyncio.to_thread(_call, f"http://127.0.0.1:{place.api}/v1.0/settings/addSmtp", body)
    if answer.get("status") != "success":
        raise NotAsPromised(f"addSmtp answered {answer}")
    console.print(f"user {answer['smtp_user_name']} made by POST /v1.0/settings/addSmtp: hourly limit {HOURLY}, total limit {TOTAL}\n")
    return Names(owner_id, token, answer["smtp_user_name"], answer["smtp_password"])


def _call(url: str, body: dict[str, Any] | None = None, basic: str = "") -> dict[str, Any]:
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if basic:
        headers["Authorization"] = "Basic " + base64.b64encode(basic.encode()).decode()
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, headers)  # noqa: S310
    with direct().open(request, timeout=30) as answer:
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
