"""The mail log, read back: what it says of one message, in the order in which it happened.

Promises: a file of any size is read in blocks, never as a whole; what was rotated beside it (FILE.1, FILE-20261121.gz and the like) is
looked at, newest first, until the message's beginning is found; a line that is no event is passed over, and counted. JSON and logfmt are
read alike, except that a logfmt value is text. "-" is standard input.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path
from typing import Any

BLOCK = 1 << 20
LONGEST_LINE = 1 << 22
"""What is longer without an end is no line of the mail log."""

Event = dict[str, Any]

_PAIR = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|\S*)')


def connection_of(id: str) -> str:
    """The id of the connection a message came by; empty for one that came by none (a report)."""
    return id.rpartition(".")[0]


@dataclass(slots=True)
class Found:
    """What a mail log says of one message."""

    events: list[Event] = field(default_factory=list)
    """In the order in which it happened, with those of its connection that belong to it."""
    lines: int = 0
    """Lines that name it."""
    unread: int = 0
    """Of them, those that are no events."""


def events_about(path: Path, id: str) -> Found:
    """All events of a message; raises OSError for a file that cannot be read."""
    found = Found()
    for file in [path, *_rotated(path)]:
        try:
            part = _events(file, id)
            found = Found(part.events + found.events, part.lines + found.lines, part.unread + found.unread)
        except (EOFError, OSError, zlib.error):
            if file == path:
                raise
            continue  # one that is being rotated, or was cut off
        if any(_is_beginning(event, id) for event in found.events):
            break
    return found


def _is_beginning(event: Event, id: str) -> bool:
    return event["event"] == "connected" or (event["event"] == "reported" and event.get("dsn") == id)


def _rotated(path: Path) -> list[Path]:
    """The files that this one was before, newest first."""
    if not path.is_file():
        return []
    pattern = re.compile(re.escape(path.name) + r"[.-][0-9][0-9A-Za-z.:_-]*$")
    files = [file for file in path.parent.iterdir() if pattern.fullmatch(file.name) and file.is_file()]
    return sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)


def _open(path: Path) -> AbstractContextManager[BufferedIOBase]:
    if str(path) == "-":
        return nullcontext(sys.stdin.buffer)  # type: ignore[arg-type]
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _events(path: Path, id: str) -> Found:
    found = Found()
    connection = connection_of(id)
    texts = [id, f'"{connection}"', f"={connection} "] if connection else [id]
    needles = [text.encode("ascii", "backslashreplace") for text in texts]
    with _open(path) as file:
        for line in _lines(file, needles):
            found.lines += 1
            event = parse(line)
            if event is None:
                found.unread += 1
                continue
            is_own = id in (event.get("id"), event.get("dsn"))
            if is_own or (connection and event.get("id") == connection):
                found.events.append(event)
    return found


def _lines(file: BufferedIOBase, needles: list[bytes]) -> Iterator[bytes]:
    """The lines that hold one of these; the others are not even taken apart."""
    rest = b""
    while block := file.read(BLOCK):
        whole, mark, rest = (rest + block).rpartition(b"\n")
        if not mark and len(rest) > LONGEST_LINE:
            rest = b""
        if any(needle in whole for needle in needles):
            yield from (line for line in whole.split(b"\n") if any(needle in line for needle in needles))
    if any(needle in rest for needle in needles):
        yield rest


def parse(line: bytes) -> Event | None:
    """Read one line, in either style; None if it is no event."""
    text = line.decode("utf-8", "replace").strip()
    if text.startswith("{"):
        try:
            found = json.loads(text)
        except ValueError:
            return None
    else:
        found = {key: _value(value) for key, value in _PAIR.findall(text)}
    return found if isinstance(found, dict) and isinstance(found.get("event"), str) and "ts" in found else None


def _value(text: str) -> str:
    if not text.startswith('"'):
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        return text


def words(value: object) -> list[str]:
    """A list as either style has it."""
    if isinstance(value, list):
        return [str(item) for item in value]
    return str(value).split(",") if value else []


def number(value: object) -> int | None:
    """A whole number as either style has it."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() else None
