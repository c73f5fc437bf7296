"""Files of users to be imported: name,password,hourly,total.

Promise: a file is read as a whole and every fault in it is named with its line; no password stands in a fault.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from relay.accounts.provisioning import BadValue, check_import
from relay.cli.door import WrongArgument

COLUMNS = ("name", "password", "hourly", "total")
MAX_FAULTS = 20


@dataclass(frozen=True, slots=True)
class NewUser:
    """One line of the file."""

    line: int
    name: str
    password: str
    hourly: int | None
    total: int | None


def read_users(path: Path) -> list[NewUser]:
    """Read the file, "-" is standard input; raises WrongArgument with a line for each fault, the first twenty of them."""
    place = place_of(path)
    found: dict[str, NewUser] = {}
    faults: list[str] = []
    for line, row in _rows(path):
        try:
            new = _read_row(line, row)
            if new.name in found:
                raise BadValue(f"user {new.name} stands in line {found[new.name].line} already")
            found[new.name] = new
        except BadValue as error:
            faults.append(f"{place}:{line}: {error}")
    if not faults and not found:
        faults = [f"{place}: no users in it"]
    if faults:
        more = [f"{place}: {len(faults) - MAX_FAULTS} more faults"] if len(faults) > MAX_FAULTS else []
        raise WrongArgument("\n".join(faults[:MAX_FAULTS] + more))
    return list(found.values())


def place_of(path: Path) -> str:
    """What the file is called in a fault."""
    return "standard input" if str(path) == "-" else str(path)


def _open(path: Path) -> AbstractContextManager[TextIO]:
    if str(path) == "-":
        return io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with _open(path) as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                is_header = reader.line_num == 1 and tuple(cell.strip().lower() for cell in row) == COLUMNS
                if row and not is_header:
                    yield reader.line_num, row
    except OSError as error:
        raise WrongArgument(f"{place_of(path)}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise WrongArgument(f"{place_of(path)}: not in UTF-8") from None
    except csv.Error as error:
        raise WrongArgument(f"{place_of(path)}:{reader.line_num}: {error}") from None


def _read_row(line: int, row: list[str]) -> NewUser:
    if len(row) != len(COLUMNS):
        raise BadValue(f"{len(row)} columns instead of {','.join(COLUMNS)}")
    name, password, hourly, total = row
    new = NewUser(line, name.strip(), password, _read_limit("hourly", hourly.strip()), _read_limit("total", total.strip()))
    check_import(new.name, new.password, new.hourly, new.total)
    return new


def _read_limit(column: str, text: str) -> int | None:
    if text == "unlimited":
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise BadValue(f"{column} is neither a number nor 'unlimited'")
    return int(text)
