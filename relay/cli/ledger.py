"""relay ledger: the ledger recounted, explained, and told that a store is meant.

Nothing is written but by `adopt`. `verify` ends with 0 where there is no difference, with 1 where there is any, with 2 where it cannot
run, the store's absence included: a monitor must not take one for the other.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from relay import daemon
from relay.accounts.provisioning import NotDone
from relay.api.queue_view import QueueDetail, in_full
from relay.cli.door import EX_USAGE, Config, Door, WrongArgument, open_spool, opened, run
from relay.cli.explain import Story, document, tell
from relay.cli.maillog import events_about
from relay.cli.queue_table import plain
from relay.config import ConfigError
from relay.config.settings import Settings
from relay.journal import Journal
from relay.quota.audit import Audit, Record
from relay.source import load
from relay.spool.fault import EntryCorrupt, SpoolUnavailable
from relay.store import fitness
from relay.store.client import StoreForeign, StoreRefused, StoreUnavailable
from relay.store.fitness import Unfit

AT_ONCE = 8
"""Books that are read side by side; each is one look of some ms at the most."""

ledger = typer.Typer(help="The ledger of what users have sent.", no_args_is_help=True, rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Spooled = Callable[[str], Awaitable[QueueDetail | None]]
"""Looks a message up in the spool of this node."""
Answer = TypeVar("Answer")


# -- verify ------------------------------------------------------------------------------------------------------------------


@ledger.command()
def verify(
    user: Annotated[str | None, typer.Argument(metavar="[USER]", help="The SMTP user; all of them without.", show_default=False)] = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Recount books from their entries and the settles on record; exit status 1 on any difference."""
    found: list[tuple[str, Audit]] = []

    async def do() -> int:
        count = 0
        async with opened(config) as door:
            async for name, audit in _audits(door, user):
                count += 1
                if audit.differences and not as_json:
                    _say_differences(name, audit)
                if audit.differences or user is not None:
                    found.append((name, audit))
        return count

    count = _run_or_2(do())
    different = sum(1 for _, audit in found if audit.differences)
    if as_json:
        rows = [{"user": name, "differences": audit.differences, "records": audit.records, "since": audit.since} for name, audit in found]
        typer.echo(json.dumps({"users": count, "different": different, "found": rows}))
    elif user is not None and not different:
        typer.echo(f"{user}: no difference; {_reach(found[0][1])}")
    elif user is None:
        typer.echo(f"{count} users recounted, {different} with differences" if different else f"{count} users recounted, no difference")
    if different:
        raise typer.Exit(1)


def _run_or_2(main: Coroutine[Any, Any, Answer]) -> Answer:
    try:
        return run(main)
    except typer.Exit as end:
        raise typer.Exit(EX_USAGE) from end


async def _audits(door: Door, user: str | None) -> AsyncIterator[tuple[str, Audit]]:
    if user is not None:
        audit = await _audit(door, user)
        if audit is None:
            raise WrongArgument(f"unknown user {user!r}")
        yield user, audit
        return
    async for names in _pages(door):
        for i in range(0, len(names), AT_ONCE):
            part = names[i : i + AT_ONCE]
            for name, each in zip(part, await asyncio.gather(*(_audit(door, name) for name in part)), strict=True):
                if each is not None:  # else it was deleted meanwhile
                    yield name, each


async def _audit(door: Door, user: str) -> Audit | None:
    try:
        return await door.ledger.audit(user)
    except StoreRefused as error:  # a key of another kind than the ledger's, for one
        return Audit((f"the store refuses: {error}",), 0, None)


async def _pages(door: Door) -> AsyncIterator[list[str]]:
    owners = [owner.owner_id async for page in door.registry.owner_pages() for owner in page]
    for owner_id in owners:
        async for page in door.registry.user_pages(owner_id):
            yield [entry.user.name for entry in page]


def _say_differences(user: str, audit: Audit) -> None:
    for difference in audit.differences:
        typer.echo(plain(f"{user}: {difference}"))


def _reach(audit: Audit) -> str:
    if audit.since is None:
        return "no settle is on record"
    return f"{audit.records} settles on record, the first of {audit.since / 1e6:.6f} s since 1970"


# -- explain -----------------------------------------------------------------------------------------------------------------


@ledger.command()
def explain(
    id: Annotated[str, typer.Argument(metavar="ID", help="The message's id, as its reply and the mail log have it.")],
    journal: Annotated[
        Path | None, typer.Option("--journal", metavar="FILE", help="The mail log, -: standard input; journal.file without.")
    ] = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Say why a message got the reply it got, what it was charged, and where it is."""

    async def do() -> Story:
        settings = load(config)
        path = journal or settings.journal.file
        if path is None:
            raise WrongArgument("no journal.file is set: give --journal FILE, made by `journalctl -u relay -o cat > FILE` for instance")
        story = await find_story(config, settings, path, id, lambda id: _find_spooled(settings, id))
        if not story.is_known:
            raise NotDone(
                "; ".join([f"{id!r}: neither {_called(path)} nor the spool of this node knows of such a message", *story.troubles])
            )
        return story

    story = run(do())
    if as_json:
        typer.echo(json.dumps(document(story)))
        return
    typer.echo(plain(story.id))
    for about, text in tell(story):
        typer.echo(f"  {about + ':':<11}{plain(text)}")


async def find_story(config: Path | None, settings: Settings, journal: Path, id: str, spooled: Spooled | None = None) -> Story:
    """Gather what mail log, store and spool know of a message; what cannot be asked is a trouble of the story."""
    try:
        found = await asyncio.to_thread(events_about, journal, id)
    except OSError as error:
        raise WrongArgument(f"{_called(journal)}: {error.strerror or error}") from None
    events = found.events
    troubles = []
    if found.lines and found.unread == found.lines:
        troubles.append(f"no line of {_called(journal)} that names it could be read: {found.lines} are not as the relay writes them")
    entry: QueueDetail | None = None
    try:
        entry = await spooled(id) if spooled is not None else None
    except (SpoolUnavailable, EntryCorrupt) as error:
        troubles.append(f"the spool of this node cannot be read: {error}")
    story = Story(id, events, None, entry, troubles)
    if story.user is None:
        return story
    record: Record | None = None
    try:
        async with opened(config) as door:
            record = await door.ledger.record(story.user, id)
    except (StoreUnavailable, StoreRefused, Unfit, ConfigError) as error:  # the mail log may be read on another host
        troubles.append(f"whether its settle is on record, for the store does not say: {error}")
    return Story(id, events, record, entry, troubles)


def _called(journal: Path) -> str:
    return "standard input" if str(journal) == "-" else str(journal)


async def _find_spooled(settings: Settings, id: str) -> QueueDetail | None:
    with _silence(settings) as journal:
        spool = open_spool(settings, journal)
        if spool is None:
            return None
        try:
            entry = await spool.find(id)
            return in_full(entry, spool.now()) if entry is not None else None
        finally:
            await spool.close()


@contextmanager
def _silence(settings: Settings) -> Iterator[Journal]:
    """A journal that keeps nothing: a look is nothing for the mail log."""
    fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        yield Journal(fd, settings.smtp.hostname)
    finally:
        os.close(fd)


# -- adopt -------------------------------------------------------------------------------------------------------------------


@ledger.command()
def adopt(config: Config = None) -> None:
    """Take the store as it is: after it was emptied or replaced on purpose. Counters start from what it holds."""

    async def do() -> None:
        try:
            async with opened(config):
                typer.echo("The store is already this node's own.")
        except StoreForeign:
            async with opened(config, is_joining=False) as door:
                epoch = await fitness.adopt(door.store, daemon.epoch_file(door.settings))
                typer.echo(f"Adopted the store, epoch {epoch}. Restart the relay.")

    run(do())
