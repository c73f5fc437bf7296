"""The queue on a terminal: a table, a live table, one message in full.

Promises: nothing that came in from outside moves the cursor, whatever it holds; a list ends with how many it does not show; the live
table outlives a spool that cannot be read for a while, and says so.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from relay.api.queue_view import in_short
from relay.spool.entry import Entry
from relay.spool.fault import SpoolUnavailable, SpoolUnusable
from relay.spool.spool import Counts, Spool

MOST_COUNTED = 10_000
"""How far what is not shown is counted: a queue may be too long to be counted through for one line."""
WIDE = 400
"""Columns of what is not a terminal: each row on one line, however long."""
EVERY = 1.0
"""Seconds between two looks of the live table."""
AROUND = 4
"""Lines of the live table that are no messages."""

_NAMES = ("id", "age", "size", "sender", "to", "tries", "next try", "state", "last reply")
_NUMBERS = frozenset({"age", "size", "to", "tries"})
_ELASTIC = {"sender": 12, "last reply": 20}
"""Columns that may be cut, and what is left of them at least."""
_FIRST_TO_GO = ("last reply", "size", "tries", "sender")
"""Columns that a narrow terminal goes without."""
_GAP = 2

_UNITS = ((86400, "d", 2), (3600, "h", 2), (60, "min", 1))


@dataclass(frozen=True, slots=True)
class Choice:
    """Which messages are to be shown; `limit` 0 is all."""

    owner: str | None
    user: str | None
    which: Literal["all", "held"]
    limit: int


class Listing:
    """The chosen messages, oldest first, and then how many more there are."""

    def __init__(self, spool: Spool | None, chosen: Choice, most_counted: int = MOST_COUNTED) -> None:
        self._spool = spool
        self._chosen = chosen
        self._most = most_counted
        self.more = 0
        """How many were left out, once pages() is through; at most `most_counted`."""

    async def pages(self) -> AsyncIterator[list[Entry]]:
        """Yield the messages within the limit, a page at a time; no page is empty."""
        if self._spool is None:
            return
        chosen, shown = self._chosen, 0
        async for page in self._spool.pages(owner=chosen.owner, user=chosen.user, which=chosen.which):
            part = page[: chosen.limit - shown] if chosen.limit else page
            shown += len(part)
            self.more += len(page) - len(part)
            if part:
                yield part
            if self.more >= self._most:
                self.more = self._most
                break

    @property
    def rest(self) -> str:
        """How many more there are, in words; "" if there are none."""
        if not self.more:
            return ""
        return f"at least {self.more} more" if self.more >= self._most else f"{self.more} more"


async def write(spool: Spool | None, chosen: Choice) -> None:
    """Print the chosen messages as a table."""
    listing = Listing(spool, chosen)
    entries = [entry async for page in listing.pages() for entry in page]
    if not entries or spool is None:
        typer.echo("none")
        return
    console = _console()
    console.print(_table(entries, spool.now(), console.width))
    if listing.rest:
        typer.echo(f"{listing.rest}; --limit shows them")


def write_full(row: Mapping[str, Any]) -> None:
    """Print one message in full."""
    table = Table(show_header=False)
    for key, value in row.items():
        if key != "standings":
            table.add_row(key, Text(_told(key, value)))
    recipients = Table("recipient", "state", "notify", "orcpt", "last reply")
    for each in row["standings"]:
        state = f"{each['state']}, in doubt" if each["in_doubt"] else each["state"]
        cells = (each["address"], state, each["notify"], each["orcpt"], each["last_reply"])
        recipients.add_row(*(Text(plain(cell)) for cell in cells))
    _console().print(table, recipients)


async def watch(open_spool: Callable[[], Spool | None], chosen: Choice) -> None:
    """Show the queue live until cancelled. A spool that is not there yet, or cannot be read now, is tried again with each look."""
    console = _console()
    spool: Spool | None = None
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                try:
                    spool = spool or open_spool()
                    shown = await _look(spool, chosen, console)
                except SpoolUnusable:
                    raise
                except SpoolUnavailable as error:
                    shown = Group(Text(f"the spool cannot be read now: {plain(str(error))}", style="bold"))
                live.update(shown, refresh=True)
                await asyncio.sleep(EVERY)
    finally:
        if spool is not None:
            await spool.close()


async def _look(spool: Spool | None, chosen: Choice, console: Console) -> Group:
    room = max(1, console.height - AROUND)
    listing = Listing(spool, replace(chosen, limit=min(chosen.limit or room, room)), most_counted=1)
    entries = [entry async for page in listing.pages() for entry in page]
    if spool is None:
        return Group(Text("nothing is waiting; no relay has run here yet"))
    head = Text(_head(await spool.counts(chosen.owner)), style="bold")
    parts: list[Any] = [head, _table(entries, spool.now(), console.width)] if entries else [head]
    return Group(*parts, Text("and more")) if listing.more else Group(*parts)


def _head(counts: Counts) -> str:
    words = [
        f"waiting {counts.waiting}", f"held {counts.held}", f"being sent {counts.claimed}", f"in doubt {counts.in_doubt}",
        f"reports {counts.reports}", f"oldest {'-' if counts.oldest is None else span(counts.oldest)}",
    ]  # fmt: skip
    if counts.charges:
        words.append(f"charges kept {counts.charges}")
    return "   ".join(words)


def _table(entries: Sequence[Entry], now: float, width: int) -> Table:
    """A table of exactly the room there is: an id is never cut, sender and reply share what the others leave."""
    rows = [dict(zip(_NAMES, (plain(cell) for cell in _cells(entry, now)), strict=True)) for entry in entries]
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in _NAMES}
    least = widths | {name: min(widths[name], at_least) for name, at_least in _ELASTIC.items()}
    names = list(_NAMES)
    for name in _FIRST_TO_GO:
        if sum(least[name] + _GAP for name in names) <= width:
            break
        names.remove(name)
    spare = max(0, width - sum(least[name] + _GAP for name in names))
    for name in _ELASTIC:
        if name in names:
            grown = min(widths[name], least[name] + spare)
            spare -= grown - least[name]
            least[name] = grown
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for name in names:
        side: Literal["left", "right"] = "right" if name in _NUMBERS else "left"
        table.add_column(name, no_wrap=True, overflow="ellipsis", width=least[name], justify=side)
    for row in rows:
        table.add_row(*(Text(row[name]) for name in names))
    return table


def _cells(entry: Entry, now: float) -> tuple[str, ...]:
    row = in_short(entry, now)
    sender = f"<{row.sender}>" + (" report" if row.kind == "dsn" else "")
    state = f"held ({row.held})" if row.held else "in doubt" if row.state == "in_doubt" else row.state
    age = "-" if row.age is None else span(row.age)
    waiting = f"{row.waiting}/{row.recipients}"
    return row.id, age, octets(row.size), sender, waiting, str(row.attempts), _next(row.next_try), state, row.last_reply


def _next(seconds: int | None) -> str:
    return "-" if seconds is None else f"in {span(seconds)}" if seconds else "now"


def _told(key: str, value: object) -> str:
    if key == "next_try":
        return _next(value if isinstance(value, int) else None)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "":
        return "<>" if key == "sender" else "-"
    if isinstance(value, int) and key in ("age", "size"):
        return span(value) if key == "age" else octets(value)
    return plain(str(value))


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDE)


def span(seconds: float) -> str:
    """A time in one unit: "45 s", "4 min", "50 h"."""
    for size, name, least in _UNITS:
        if seconds >= size * least:
            return f"{int(seconds // size)} {name}"
    return f"{int(seconds)} s"


def octets(number: int) -> str:
    """A size in one unit: "512 B", "2.1 KB", "25 MB"."""
    if number < 1000:
        return f"{number} B"
    value, name = (number / 1e3, "KB") if number < 1_000_000 else (number / 1e6, "MB")
    return f"{value:.1f} {name}" if value < 10 else f"{value:.0f} {name}"


def plain(text: str) -> str:
    """A text of foreign origin, fit for a terminal and for one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
