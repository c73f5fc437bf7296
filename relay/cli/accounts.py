"""relay owner, relay user: accounts at the shell.

A secret is printed where it is made and on request, and never taken from the command line: imported passwords come from a file.
With --json each command prints one document: an object, or a list of them.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from relay.accounts.owner import Owner
from relay.accounts.provisioning import KEEP, UnknownOwner, UnknownUser
from relay.accounts.user import Entry, User, is_limit
from relay.cli.csv_users import NewUser, place_of, read_users
from relay.cli.door import EX_USAGE, Config, Door, WrongArgument, complain, confirm, opened, run
from relay.quota.limit import Usage

UNLIMITED = "unlimited"
ENDLESS = 1 << 40
"""Columns; a row takes those that it needs."""
AT_ONCE = 50
"""Users imported side by side; each waits for its slow hash."""

owner = typer.Typer(help="Owners: who has SMTP users.", no_args_is_help=True, rich_markup_mode=None)
user = typer.Typer(help="SMTP users: who may send how much.", no_args_is_help=True, rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
OwnerId = Annotated[str, typer.Argument(metavar="ID", help="The owner's id.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The SMTP user's name.")]


def _read_limit(text: str) -> str:
    if text != UNLIMITED and not (text.isascii() and text.isdigit() and len(text) < 20 and is_limit(int(text))):
        raise typer.BadParameter(f"{text!r} is neither a positive whole number up to 10**12 nor '{UNLIMITED}'")
    return text


def _limit(text: str) -> int | None:
    return None if text == UNLIMITED else int(text)


Hourly = Annotated[str, typer.Option(metavar="N|unlimited", help="Messages in any hour.", callback=_read_limit)]
Total = Annotated[str, typer.Option(metavar="N|unlimited", help="Messages ever.", callback=_read_limit)]


def _read_change(text: str | None) -> str | None:
    return None if text is None else _read_limit(text)


NewHourly = Annotated[str | None, typer.Option("--hourly", metavar="N|unlimited", help="Messages in any hour.", callback=_read_change)]
NewTotal = Annotated[str | None, typer.Option("--total", metavar="N|unlimited", help="Messages ever.", callback=_read_change)]


# -- owners ------------------------------------------------------------------------------------------------------------------


@owner.command("add")
def add_owner(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who it is, for people to read.")],
    profile: Annotated[str, typer.Option(help="Whose document its API answers follow; poweremail or none.")] = "",
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Make an owner; its token is shown this once."""

    async def do() -> dict[str, Any]:
        async with opened(config) as door:
            made, token = await door.provisioning.add_owner(name, profile)
            return {**_owner_row(made), "token": token}

    _show(run(do()), as_json)


@owner.command("list")
def list_owners(as_json: Json = False, config: Config = None) -> None:
    """List all owners."""

    async def do() -> list[dict[str, Any]]:
        async with opened(config) as door:
            return [_owner_row(found) async for page in door.registry.owner_pages() for found in page]

    _show(run(do()), as_json)


@owner.command("disable")
def disable_owner(owner_id: OwnerId, as_json: Json = False, config: Config = None) -> None:
    """Stop all users of an owner; done when nothing let in before can be sent any more."""
    _set_owner(owner_id, False, as_json, config)


@owner.command("enable")
def enable_owner(owner_id: OwnerId, as_json: Json = False, config: Config = None) -> None:
    """Let an owner's users send again, except those that are disabled themselves."""
    _set_owner(owner_id, True, as_json, config)


def _set_owner(owner_id: str, is_enabled: bool, as_json: bool, config: Path | None) -> None:
    async def do() -> dict[str, Any]:
        async with opened(config) as door:
            users = await door.provisioning.set_owner_status(owner_id, is_enabled)
            found = await door.registry.find_owner(owner_id)
            if found is None:
                raise UnknownOwner("unknown owner")
            return {**_owner_row(found), "users": users}

    _show(run(do(), owner_id), as_json)


@owner.command("token")
def rotate_token(owner_id: OwnerId, as_json: Json = False, config: Config = None) -> None:
    """Give an owner a new token, shown this once; the old one is void at once."""

    async def do() -> dict[str, Any]:
        async with opened(config) as door:
            return {"owner_id": owner_id, "token": await door.provisioning.rotate_token(owner_id)}

    _show(run(do(), owner_id), as_json)


# -- users -------------------------------------------------------------------------------------------------------------------


@user.command("add")
def add_user(
    owner_id: Annotated[str, typer.Option("--owner", metavar="ID", help="Whose user it is.")],
    hourly: Hourly,
    total: Total,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Make a user with a generated name and password."""

    async def do() -> dict[str, Any]:
        async with opened(config) as door:
            made, password = await door.provisioning.add_user(owner_id, _limit(hourly), _limit(total))
            return {**_user_row(made, is_on=True), "smtp_password": password}

    _show(run(do(), owner_id), as_json)


@user.command("list")
def list_users(
    owner_id: Annotated[str | None, typer.Option("--owner", metavar="ID", help="Only this owner's.")] = None,
    passwords: Annotated[bool, typer.Option("--passwords", help="Show the passwords that are kept.")] = False,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """List users."""

    async def do() -> list[dict[str, Any]]:
        rows = []
        async with opened(config) as door:
            async for entry in _entries(door, owner_id):
                row = _user_row(entry.user, is_on=entry.is_switched_on)
                rows.append({**row, "smtp_password": entry.password} if passwords else row)
        return rows

    _show(run(do(), owner_id), as_json)


async def _entries(door: Door, owner_id: str | None) -> AsyncIterator[Entry]:
    if owner_id is not None:
        if await door.registry.find_owner(owner_id) is None:
            raise UnknownOwner("unknown owner")
        ids = [owner_id]
    else:
        ids = [found.owner_id async for page in door.registry.owner_pages() for found in page]
    for each in ids:
        async for page in door.registry.user_pages(each):
            for entry in page:
                yield entry


@user.command("edit")
def edit_user(
    name: Name,
    hourly: NewHourly = None,
    total: NewTotal = None,
    is_enabled: Annotated[bool | None, typer.Option("--enable/--disable", help="Whether it may send.", show_default=False)] = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Change a user; done when nothing let in before can exceed what was restricted."""

    async def do() -> dict[str, Any]:
        if hourly is None and total is None and is_enabled is None:
            raise WrongArgument("nothing to change: give --hourly, --total, --enable or --disable")
        async with opened(config) as door:
            await door.provisioning.edit_user(
                name,
                hourly=KEEP if hourly is None else _limit(hourly),
                total=KEEP if total is None else _limit(total),
                is_enabled=is_enabled,
            )
            return await _row_of(door, name)

    _show(run(do()), as_json)


@user.command("reset-password")
def reset_password(name: Name, as_json: Json = False, config: Config = None) -> None:
    """Give a user a new password; the old one is void at once, on open connections too."""

    async def do() -> dict[str, Any]:
        async with opened(config) as door:
            return {"smtp_user_name": name, "smtp_password": await door.provisioning.reset_password(name)}

    _show(run(do()), as_json)


@user.command("usage")
def show_usage(name: Name, as_json: Json = False, config: Config = None) -> None:
    """Show what a user has sent, and in how many seconds it may send again."""

    async def do() -> dict[str, Any]:
        async with opened(config) as door:
            row, usage = await _row_of(door, name), await _usage(door, name)
            counts = {"sent_in_window": usage.window, "in_flight": usage.in_flight, "sent_total": usage.taken}
            return {**row, **counts, "rejected_in_window": usage.rejected, "retry_after": usage.retry_after}

    shown = run(do())
    if not as_json and shown["retry_after"] is None:
        shown["retry_after"] = "never"
    _show(shown, as_json)


@user.command("delete")
def delete_user(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Remove a user with its counters."""
    if not yes:
        _ask(name, as_json, config)

    async def do() -> dict[str, Any]:
        async with opened(config) as door:
            await door.provisioning.delete_user(name)
            return {"smtp_user_name": name, "status": "deleted"}

    _show(run(do()), as_json)


def _ask(name: str, as_json: bool, config: Path | None) -> None:
    """Say what would be lost, and ask."""
    if as_json or not sys.stdin.isatty():
        complain("--json does not ask: it needs --yes" if as_json else "there is no terminal to ask at: it needs --yes")
        raise typer.Exit(EX_USAGE)

    async def look() -> tuple[dict[str, Any], Usage]:
        async with opened(config) as door:
            return await _row_of(door, name), await _usage(door, name)

    row, usage = run(look())
    counted = f"{usage.taken} counted ever, {usage.window} of them in the window"
    typer.echo(f"{name} of {row['owner_id']}: {counted}; its counters go with it")
    confirm("Remove it for good?")


@user.command("import")
def import_users(
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", help="Lines of name,password,hourly,total; -: standard input.")],
    owner_id: Annotated[str, typer.Option("--owner", metavar="ID", help="Whose users they are.")],
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Make users with their own names and passwords; the whole file is checked before anything is written."""

    async def do() -> dict[str, Any]:
        found = read_users(file)
        async with opened(config) as door:
            await _check_absent(door, file, owner_id, found)
            return {"owner_id": owner_id, "imported": await _import(door, owner_id, found)}

    _show(run(do(), owner_id), as_json)


async def _check_absent(door: Door, file: Path, owner_id: str, found: Sequence[NewUser]) -> None:
    if await door.registry.find_owner(owner_id) is None:
        raise UnknownOwner("unknown owner")
    taken = []
    for i in range(0, len(found), AT_ONCE):
        part = found[i : i + AT_ONCE]
        known = await asyncio.gather(*(door.registry.find_user(new.name) for new in part))
        taken += [
            f"{place_of(file)}:{new.line}: user {new.name} exists already" for new, old in zip(part, known, strict=True) if old is not None
        ]
    if taken:
        raise WrongArgument("\n".join(taken))


async def _import(door: Door, owner_id: str, found: Sequence[NewUser]) -> int:
    for i in range(0, len(found), AT_ONCE):
        part = found[i : i + AT_ONCE]
        await asyncio.gather(*(door.provisioning.import_user(owner_id, u.name, u.password, u.hourly, u.total) for u in part))
    return len(found)


# -- showing -----------------------------------------------------------------------------------------------------------------


def _owner_row(found: Owner) -> dict[str, Any]:
    status = "Enable" if found.is_enabled else "Disable"
    return {"owner_id": found.owner_id, "name": found.name, "status": status, "profile": found.profile}


def _user_row(found: User, *, is_on: bool) -> dict[str, Any]:
    return {
        "smtp_user_name": found.name,
        "owner_id": found.owner_id,
        "status": "Enable" if is_on else "Disable",
        "hourly_limit": found.hourly,
        "total_limit": found.total,
    }


async def _row_of(door: Door, name: str) -> dict[str, Any]:
    entry = await door.registry.find_entry(name)
    if entry is None:
        raise UnknownUser(f"unknown user {name!r}")
    return _user_row(entry.user, is_on=entry.is_switched_on)


async def _usage(door: Door, name: str) -> Usage:
    usage = await door.ledger.usage(name)
    if usage is None:
        raise UnknownUser(f"unknown user {name!r}")
    return usage


def _show(found: dict[str, Any] | list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found))
        return
    table = Table()
    if isinstance(found, dict):
        table.show_header = False
        table.add_column(overflow="fold")
        table.add_column(overflow="fold")
        for key, value in found.items():
            table.add_row(key, _cell(key, value))
    elif found:
        for key in found[0]:
            table.add_column(key, overflow="fold")
        for row in found:
            table.add_row(*(_cell(key, value) for key, value in row.items()))
    else:
        typer.echo("none")
        return
    # What is not a terminal gets each row on one line, however long.
    Console(width=None if sys.stdout.isatty() else ENDLESS).print(table)


def _cell(key: str, value: object) -> Text:
    if value is None:
        value = UNLIMITED if key.endswith("_limit") else "-"
    return Text(str(value))
