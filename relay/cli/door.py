"""What a command works with: the rooms opened for one configuration, and every failure as one line and an exit status.

Exit statuses: 2 for a wrong argument or a configuration that cannot be used, 75 (EX_TEMPFAIL) for a store that does not answer or is
not this node's, 1 for anything else that could not be done.
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
from relay.accounts.provisioning import BadValue, NotDone, Provisioning
from relay.accounts.registry import Registry
from relay.accounts.token import Tokens
from relay.config import ConfigError
from relay.config.settings import Settings
from relay.journal import Journal
from relay.quota.ledger import Ledger
from relay.source import load
from relay.store.client import Store, StoreForeign, StoreRefused, StoreUnavailable
from relay.store.fitness import Unfit

EX_USAGE = 2
EX_TEMPFAIL = 75

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
    """The journal of a command: what the one at the shell must know is said there too."""

    def event(self, name: str, **fields: Any) -> None:
        """Write one line."""
        if name == "change_overtaken":
            typer.echo("relay: the change holds, but messages that were in flight may still be taken as before it", err=True)
        super().event(name, **fields)


@asynccontextmanager
async def opened(config: Path | None, is_joining: bool = True) -> AsyncIterator[Door]:
    """Open the rooms; `is_joining` makes sure of the store first (without it nothing was asked of it yet)."""
    settings = load(config)
    with _journal(settings) as journal:
        async with daemon.open_rooms(settings, journal, may_create_key=False) as rooms:
            if is_joining:
                await daemon.join(rooms)
            directory = Directory(rooms.store, rooms.key)
            yield Door(
                settings, journal, rooms.store, rooms.ledger, rooms.registry, daemon.provisioning(rooms), directory,
                Arranging(rooms.store, rooms.key, directory, journal), Tokens(rooms.store, rooms.key, journal),
            )  # fmt: skip


@contextmanager
def _journal(settings: Settings) -> Iterator[Journal]:
    """The mail log where it is a file; else standard output would be it, which is the command's own here."""
    path = settings.journal.file or Path(os.devnull)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise ConfigError(f"journal.file: {path}: {error.strerror}") from None
    try:
        yield _ShellJournal(fd, settings.smtp.hostname, settings.journal.style)
    finally:
        os.close(fd)


def run(main: Coroutine[Any, Any, Answer]) -> Answer:
    """Run a command to its end; what goes wrong is one line on standard error and an exit status."""
    try:
        return asyncio.run(main)
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
    typer.echo("\n".join(f"relay: {line}" for line in text.splitlines()), err=True)
    raise typer.Exit(status)
