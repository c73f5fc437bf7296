"""What a command works with: the rooms opened for one configuration, and every failure as one line and an exit status.

What a command changes is in the mail log; where that is no file, or one that cannot be written to, on standard error.

Exit statuses: 2 for a wrong argument or a configuration that cannot be used, 75 (EX_TEMPFAIL) for a store that does not answer or is
not this node's, 77 (EX_NOPERM) for a spool whose file one may not open, 1 for anything else that could not be done.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from relay import daemon
from relay.accounts.arranging import Arranging
from relay.accounts.directory import Directory, Unreadable
from relay.accounts.provisioning import BadValue, NotDone, Provisioning, UnknownOwner
from relay.accounts.registry import Registry
from relay.accounts.token import Tokens
from relay.config import ConfigError
from relay.config.settings import Settings
from relay.journal import Journal
from relay.quota.ledger import Ledger
from relay.source import load
from relay.spool.fault import SpoolUnavailable
from relay.spool.spool import Spool
from relay.store.client import Store, StoreForeign, StoreRefused, StoreUnavailable
from relay.store.fitness import Unfit

EX_USAGE = 2
EX_TEMPFAIL = 75
EX_NOPERM = 77

Config = Annotated[Path | None, typer.Option("--config", "-c", envvar="RELAY_CONFIG", help="The configuration file (TOML).")]
Answer = TypeVar("Answer")


class WrongArgument(Exception):
    """An argument that cannot be used; the text is for the one who gave it."""


@dataclass(frozen=True, slots=True)
class Door:
    """The rooms behind a command."""

    settings: Settings
    journal: Journal
    store: Store
    ledger: Ledger
    registry: Registry
    provisioning: Provisioning
    directory: Directory
    arranging: Arranging
    tokens: Tokens


class _ShellJournal(Journal):
    """The journal of a command: opened at the first event; what the one at the shell must know is said there too."""

    def __init__(self, fd: int, settings: Settings) -> None:
        """`fd` leads nowhere yet."""
        super().__init__(fd, settings.smtp.hostname, settings.journal.style)
        self._place = fd
        self._path = settings.journal.file
        self._is_open = False

    def event(self, name: str, **fields: Any) -> None:
        """Write one line."""
        if not self._is_open:
            self._open()
        if name == "change_overtaken":
            complain("the change holds, but messages that were in flight may still be taken as before it")
        super().event(name, **fields)

    def _open(self) -> None:
        self._is_open = True
        if self._path is not None:
            try:
                # Not made here: it would be of whoever is at the shell, and the relay, who is somebody else, could not open it any more.
                file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            except OSError as error:
                complain(f"journal.file: {self._path}: {error.strerror}; what would be in it follows")
            else:
                os.dup2(file, self._place, inheritable=False)
                os.close(file)
                return
        os.dup2(2, self._place, inheritable=False)


@asynccontextmanager
async def opened(config: Path | None, is_joining: bool = True) -> AsyncIterator[Door]:
    """Open the rooms; `is_joining` makes sure of the store first (without it nothing was asked of it yet)."""
    settings = load(config)
    with open_journal(settings) as journal:
        async with daemon.open_rooms(settings, journal, may_create_key=False) as rooms:
            if is_joining:
                await daemon.join(rooms)
            directory = Directory(rooms.store, rooms.key)
            yield Door(
                settings, journal, rooms.store, rooms.ledger, rooms.registry, daemon.provisioning(rooms), directory,
                Arranging(rooms.store, rooms.key, directory, journal), Tokens(rooms.store, rooms.key, journal),
            )  # fmt: skip


@contextmanager
def open_journal(settings: Settings) -> Iterator[Journal]:
    """The mail log where it is a file we may write to; else standard error, for standard output is the command's own.

    It is opened at the first event: who only looks needs none.
    """
    fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        yield _ShellJournal(fd, settings)
    finally:
        os.close(fd)


def open_spool(settings: Settings, journal: Journal) -> Spool | None:
    """This node's spool; None where there is none yet: a command makes none. Without an incarnation, for it claims nothing."""
    path = daemon.spool_file(settings)
    try:
        path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SpoolUnavailable(f"{path}: {error.strerror}") from error
    return daemon.open_spool(settings, "", journal)


def run(main: Coroutine[Any, Any, Answer], owner_id: str | None = None) -> Answer:
    """Run a command to its end; what goes wrong is one line on standard error and an exit status. `owner_id` is whom it is about."""
    try:
        return asyncio.run(main)
    except UnknownOwner as error:
        text, status = str(error) if owner_id is None else f"{error} {owner_id!r}", 1
    except (ConfigError, Unfit, BadValue, WrongArgument) as error:
        text, status = str(error), EX_USAGE
    except (NotDone, Unreadable) as error:
        text, status = str(error), 1
    except StoreForeign as error:
        text, status = str(error), EX_TEMPFAIL
    except StoreUnavailable as error:
        text, status = f"the store does not answer ({error}); is the relay running?", EX_TEMPFAIL
    except StoreRefused as error:
        text, status = f"the store refused: {error}", 1
    complain(text)
    raise typer.Exit(status)


def complain(text: str) -> None:
    """Say what is wrong on standard error, each line as the relay's."""
    typer.echo("\n".join(f"relay: {line}" for line in text.splitlines()), err=True)


def confirm(question: str) -> None:
    """Have something that cannot be undone confirmed; ends the command without a yes."""
    try:
        is_sure = typer.confirm(question)
    except typer.Abort:
        typer.echo(err=True)
        is_sure = False
    if not is_sure:
        complain("nothing was removed")
        raise typer.Exit(1)
