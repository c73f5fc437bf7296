"""relay queue: the operator's side of the spool, at the shell.

Promises: the store is not needed, for the queue is looked at when something is down; nothing is made where no relay has run; what is
taken away from the queue is in the journal, recipient by recipient, or on standard error where the journal is no file we may write to.
With --json each command prints one document: a list of messages, or an object.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from relay import daemon
from relay.api.queue import SETTLING, remove_entry
from relay.api.queue_view import in_full, in_short, owed
from relay.cli import queue_table
from relay.cli.door import EX_NOPERM, EX_TEMPFAIL, EX_USAGE, Config, WrongArgument, complain, confirm, open_journal, open_spool, run
from relay.cli.queue_table import plain
from relay.config import ConfigError
from relay.config.settings import Settings
from relay.journal import Journal
from relay.source import load
from relay.spool.entry import Entry
from relay.spool.fault import EntryCorrupt, SpoolUnavailable, SpoolUnusable
from relay.spool.spool import Spool

NAMED = 10
"""Recipients that are named before a removal."""

queue = typer.Typer(help="Mail that waits for the smarthost.", no_args_is_help=True, rich_markup_mode=None)

Ids = Annotated[list[str], typer.Argument(metavar="ID", help="Ids of messages.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
OwnerId = Annotated[str | None, typer.Option("--owner", metavar="ID", help="Only this owner's.")]
Answer = TypeVar("Answer")
Row = dict[str, Any]


class _Refused(Exception):
    """What cannot be done with one message; the text is one line and names it."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What an operator works with."""

    spool: Spool | None
    """None where no relay has made one yet."""
    journal: Journal

    async def find(self, id: str) -> tuple[Spool, Entry]:
        """Look a message up; raises _Refused."""
        entry = await self.spool.find(id) if self.spool else None
        if self.spool is None or entry is None:
            raise _Refused(f"{plain(id)}: no such message in the queue")
        return self.spool, entry


@asynccontextmanager
async def _opened(config: Path | None) -> AsyncIterator[Desk]:
    """Open the spool of this node and its journal, and nothing else."""
    settings = load(config)
    with open_journal(settings) as journal:
        spool = open_spool(settings, journal)
        if spool is None:
            _check_place(settings)
            complain(f"there is no {plain(str(daemon.spool_file(settings)))}: is --config right, has the relay been started?")
        try:
            yield Desk(spool, journal)
        finally:
            if spool is not None:
                await spool.close()


def _check_place(settings: Settings) -> None:
    """See that a relay may have been here: elsewhere an empty queue would be the answer about another; raises ConfigError."""
    if not settings.data.directory.exists():
        raise ConfigError(f"data.directory: {settings.data.directory}: not found; is --config right, has the relay been started?")


def _run(main: Coroutine[Any, Any, Answer]) -> Answer:
    """Run a command; a spool that cannot be used is one line and an exit status, like everything else."""
    try:
        return run(main)
    except SpoolUnusable as error:
        text, status = str(error), EX_USAGE
    except SpoolUnavailable as error:
        is_denied = isinstance(error.__cause__, PermissionError)
        text, status = (str(error), EX_NOPERM) if is_denied else (f"the spool cannot be used now: {error}", EX_TEMPFAIL)
    complain(plain(text))
    raise typer.Exit(status)


# -- looking -----------------------------------------------------------------------------------------------------------------


@queue.command("list")
def list_messages(
    owner_id: OwnerId = None,
    user: Annotated[str | None, typer.Option("--user", metavar="NAME", help="Only this SMTP user's.")] = None,
    held: Annotated[bool, typer.Option("--held", help="Only what is held.")] = False,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=0, help="At most so many; 0 is all.")] = 100,
    watch: Annotated[bool, typer.Option("--watch", help="Show them live until Ctrl-C.")] = False,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """List the messages of the queue, oldest first."""
    chosen = queue_table.Choice(owner_id, user, "held" if held else "all", limit)

    async def do() -> None:
        if watch and (as_json or not sys.stdout.isatty()):
            raise WrongArgument("--watch goes without --json" if as_json else "--watch needs a terminal")
        if watch:
            settings = load(config)
            with open_journal(settings) as journal:
                await queue_table.watch(lambda: open_spool(settings, journal), chosen)
            return
        async with _opened(config) as desk:
            if as_json:
                await _write_json(desk.spool, chosen)
            else:
                await queue_table.write(desk.spool, chosen)

    try:
        _run(do())
    except KeyboardInterrupt:
        # Ctrl-C is how a live table ends.
        raise typer.Exit(0 if watch else 130) from None


async def _write_json(spool: Spool | None, chosen: queue_table.Choice) -> None:
    """Write the list as it is read: it may be longer than memory is large."""
    listing = queue_table.Listing(spool, chosen)
    mark = "["
    async for page in listing.pages():
        assert spool is not None
        rows = [json.dumps(_short_row(entry, spool.now())) for entry in page]
        typer.echo(mark + ", ".join(rows), nl=False)
        mark = ", "
    typer.echo("[]" if mark == "[" else "]")
    if listing.rest:
        complain(f"{listing.rest}; --limit shows them")


@queue.command()
def show(
    ids: Ids,
    content: Annotated[bool, typer.Option("--content", help="Write the message itself, octet for octet, and nothing else.")] = False,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Show messages with the standing of each recipient."""

    async def look(desk: Desk, id: str) -> Row:
        spool, entry = await desk.find(id)
        return _full_row(entry, spool.now())

    async def write(desk: Desk, id: str) -> Row:
        spool, _ = await desk.find(id)
        try:
            prefix, wire = await spool.content(id)
        except EntryCorrupt as error:
            raise _Refused(f"{id}: {plain(str(error))}") from None
        sys.stdout.buffer.write(prefix + unstuff(wire))
        sys.stdout.buffer.flush()
        return {}

    if not content:
        _act(ids, as_json, config, look, queue_table.write_full)
        return
    if as_json or len(ids) > 1:
        complain("--content goes without --json" if as_json else "--content takes one message at a time")
        raise typer.Exit(EX_USAGE)
    _act(ids, False, config, write, lambda row: None)


def unstuff(wire: bytes) -> bytes:
    """The message of a wire form: without the dots that were added at the beginnings of its lines (RFC 5321 section 4.5.2)."""
    plain = wire.replace(b"\r\n.", b"\r\n")
    return plain[1:] if plain.startswith(b".") else plain


# -- changing ----------------------------------------------------------------------------------------------------------------


@queue.command()
def retry(ids: Ids, as_json: Json = False, config: Config = None) -> None:
    """Have messages tried now."""

    async def do(desk: Desk, id: str) -> Row:
        spool, entry = await desk.find(id)
        if not await spool.retry(id):
            entry = (await desk.find(id))[1]
            if entry.held:
                raise _Refused(f"{id}: held ({entry.held}); release it first")
        return await _row_of(desk, id, entry)

    _act(ids, as_json, config, do, lambda row: typer.echo(f"{row['id']}: {_when(row)}"))


def _when(row: Row) -> str:
    return "being sent right now" if row["next_try"] is None else "due now"


@queue.command()
def hold(ids: Ids, as_json: Json = False, config: Config = None) -> None:
    """Hold messages until they are released."""

    async def do(desk: Desk, id: str) -> Row:
        spool, entry = await desk.find(id)
        if entry.held == "corrupt":
            raise _Refused(f"{id}: held already (corrupt)")
        if entry.held != "operator" and await spool.hold(id, "operator"):
            desk.journal.held(id, "operator")
        return await _row_of(desk, id, entry)

    _act(ids, as_json, config, do, lambda row: typer.echo(f"{row['id']}: held"))


@queue.command()
def release(ids: Ids, as_json: Json = False, config: Config = None) -> None:
    """End holds, whatever their reason; the messages are tried now."""

    async def do(desk: Desk, id: str) -> Row:
        spool, entry = await desk.find(id)
        if not entry.held:
            raise _Refused(f"{id}: not held")
        if await spool.unhold(id):
            desk.journal.unheld(id, entry.held)
        return await _row_of(desk, id, entry)

    _act(ids, as_json, config, do, lambda row: typer.echo(f"{row['id']}: released, {_when(row)}"))


@queue.command()
def remove(
    ids: Ids,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Remove messages for good: nobody gets them any more, and nobody is told."""
    if as_json and not yes:
        complain("--json does not ask: it needs --yes")
        raise typer.Exit(EX_USAGE)
    allowed = list(ids) if yes else _ask(ids, config)

    async def do(desk: Desk, id: str) -> Row:
        spool, _ = await desk.find(id)
        removed = await remove_entry(spool, id)
        if removed is None:
            raise _Refused(f"{plain(id)}: no such message in the queue")
        if removed == "claimed":
            raise _Refused(f"{id}: being sent right now, not removed; hold it, or try again later")
        if removed == "new":
            raise _Refused(f"{id}: being taken right now, not removed; try again in {SETTLING:g} s")
        lost = owed(removed)
        desk.journal.discarded(id, lost, "operator")
        return {"id": id, "discarded": lost}

    _act(allowed, as_json, config, do, lambda row: typer.echo(f"{row['id']}: removed, {len(row['discarded'])} recipients discarded"))


def _ask(ids: Sequence[str], config: Path | None) -> list[str]:
    """Say what would be lost, and ask; what cannot be removed anyway is left to the removal to say."""

    async def look() -> list[Entry]:
        async with _opened(config) as desk:
            found = [await desk.spool.find(id) if desk.spool else None for id in dict.fromkeys(ids)]
        return [entry for entry in found if entry is not None]

    found = _run(look())
    for entry in found:
        typer.echo(_loss(entry))
    if found:
        confirm(f"Remove {len(found)} for good?" if len(found) > 1 else "Remove it for good?")
    return list(ids)


def _loss(entry: Entry) -> str:
    lost = owed(entry)
    what = "report" if entry.kind == "dsn" else "message"
    names = ", ".join(lost[:NAMED]) + (f" and {len(lost) - NAMED} more" if len(lost) > NAMED else "")
    whom = f"{len(lost)} of {len(entry.standings)} recipients will get neither it nor a report: {names}" if lost else "nobody waits for it"
    return plain(f"{entry.id}: {what} from <{entry.envelope.sender}> of {entry.user}; {whom}")


@queue.command()
def flush(owner_id: OwnerId = None, as_json: Json = False, config: Config = None) -> None:
    """Have all that is not held tried now."""

    async def do() -> int:
        async with _opened(config) as desk:
            return 0 if desk.spool is None else await desk.spool.flush(owner_id)

    number = _run(do())
    typer.echo(json.dumps({"flushed": number}) if as_json else f"{number} due now")


# -- showing -----------------------------------------------------------------------------------------------------------------


def _act(
    ids: Sequence[str], as_json: bool, config: Path | None, act: Callable[[Desk, str], Awaitable[Row]], say: Callable[[Row], None]
) -> None:
    """Do one thing with each message; those with which it cannot be done are named on standard error, the others are done."""
    done: list[Row] = []

    async def do() -> bool:
        is_whole = True
        async with _opened(config) as desk:
            for id in dict.fromkeys(ids):
                try:
                    row = await act(desk, id)
                except _Refused as error:
                    complain(str(error))
                    is_whole = False
                    continue
                done.append(row)
                if not as_json:
                    say(row)
        return is_whole

    is_whole = False
    is_over = False
    try:
        is_whole = _run(do())
        is_over = True
    finally:
        # What was done before the spool failed is told too.
        if as_json and (done or is_over):
            typer.echo(json.dumps(done))
    if not is_whole:
        raise typer.Exit(1)


async def _row_of(desk: Desk, id: str, before: Entry) -> Row:
    """A message as it is after a change; as it was, if it has left the queue meanwhile."""
    assert desk.spool is not None
    return _short_row(await desk.spool.find(id) or before, desk.spool.now())


def _short_row(entry: Entry, now: float) -> Row:
    return {"owner_id": entry.owner, **in_short(entry, now).model_dump()}


def _full_row(entry: Entry, now: float) -> Row:
    ours = {"units": entry.units, "accepted": entry.accepted, "is_settled": entry.is_settled, "claimed_by": entry.claimed_by or None}
    return {"owner_id": entry.owner, **ours, **in_full(entry, now).model_dump()}
