"""Piles: what is to be tried, by owner and route, and what is found in them. Functions over a connection, within its transaction.

Promises: what lies in a pile that is not asked for costs nothing; an entry lies where the one who sorts says that its mail goes by now;
nothing that is damaged stands in the way of the rest.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from operator import itemgetter
from typing import Any, NamedTuple

from relay.spool import rows
from relay.spool.claim import Damage, load_all
from relay.spool.entry import Entry, domain_of
from relay.spool.schema import is_damage

_FIRST = "SELECT owner, route, due FROM entry WHERE held = ''"


class Pile(NamedTuple):
    """The entries of one owner that go by one route, and are not held."""

    owner: str
    route: str
    """Id of the owner's setting; "" for the relay's own smarthost."""


Place = Callable[[str], str | None]
"""Which route the mail of a domain goes by now; None: the owner has none for it."""


@dataclass(frozen=True, slots=True)
class Sorted:
    """The ids of what was held for want of a route, and of what is no longer."""

    held: list[str]
    unheld: list[str]


def find_piles(db: sqlite3.Connection) -> tuple[dict[Pile, float], list[Damage]]:
    """All piles, and when the first entry of each is due; one step in the index for each pile."""
    piles: dict[Pile, float] = {}
    # Two questions, because SQLite would walk through all of a pile to answer (owner, route) > (?, ?).
    more_of_owner = f"{_FIRST} AND owner = ? AND route > ? ORDER BY route, due LIMIT 1"
    next_owner = f"{_FIRST} AND owner > ? ORDER BY owner, route, due LIMIT 1"
    try:
        row = db.execute(f"{_FIRST} ORDER BY owner, route, due LIMIT 1").fetchone()
        while row is not None and _is_sound(row):
            owner, route, due = row
            piles[Pile(owner, route)] = due
            row = db.execute(more_of_owner, (owner, route)).fetchone() or db.execute(next_owner, (owner,)).fetchone()
        if row is None:
            return piles, []
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
    return _piles_one_by_one(db)


def _is_sound(row: Sequence[Any]) -> bool:
    """Whether these can be an owner, a route and an instant."""
    owner, route, due = row
    try:
        return bool((owner + route).encode() or True) and isinstance(due, float)
    except (UnicodeEncodeError, TypeError, AttributeError):
        return False


def _piles_one_by_one(db: sqlite3.Connection) -> tuple[dict[Pile, float], list[Damage]]:
    """The same where damage is in the way; what is strange is held then, and no longer met."""
    piles: dict[Pile, float] = {}
    damages: list[Damage] = []
    for seq in _seqs(db, _FREE):
        try:
            row = db.execute("SELECT owner, route, due FROM entry WHERE seq = ?", (seq,)).fetchone()
        except sqlite3.DatabaseError as error:
            damages.append(Damage(seq, rows.id_of(db, seq), f"its rows cannot be read: {error}"))
            continue
        if row is not None and _is_sound(row):
            pile = Pile(row[0], row[1])
            piles[pile] = min(row[2], piles.get(pile, row[2]))
        else:
            damages.append(Damage(seq, rows.id_of(db, seq), "nobody can tell whose it is, or when it is due"))
    return piles, damages


def find_due(
    db: sqlite3.Connection, before: float, wanted: Mapping[Pile, int], now: float, limit: int | None = None
) -> tuple[list[Entry], list[Damage]]:
    """Entries to be tried, so many of each pile at most, the longest due of each first; with a limit, the longest due of all."""
    found: list[tuple[int, str, float]] = []
    damages: list[Damage] = []
    for pile, count in wanted.items():
        some, damaged = _find(db, "due", before, now, count, " AND owner = ? AND route = ?", pile)
        found += some
        damages += damaged
    if limit is not None:
        found = nsmallest(limit, found, key=itemgetter(2))
    entries, more = load_all(db, [(seq, id) for seq, id, _ in found])
    return entries, damages + more


def find_any_due(db: sqlite3.Connection, before: float, limit: int, now: float) -> tuple[list[Entry], list[Damage]]:
    """Entries to be tried, whatever pile they are in, the longest due first."""
    piles, damages = find_piles(db)
    entries, more = find_due(db, before, {pile: limit for pile, due in piles.items() if due <= before}, now, limit)
    return entries, damages + more


def find_expiring(
    db: sqlite3.Connection, arrived_before: float, limit: int, now: float, piles: Sequence[Pile] | None
) -> tuple[list[Entry], list[Damage]]:
    """Entries (of these piles) that have waited for so long, the oldest first."""
    also = " AND EXISTS (SELECT 1 FROM standing WHERE standing.seq = entry.seq AND state = 'waiting')"
    more: tuple[str, ...] = ()
    if piles is not None:
        # The signs keep the piles' own index out of it: the old are few, and first in that of arrivals.
        also += " AND (+owner, +route) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?))"
        more = (json.dumps(piles),)
    found, damages = _find(db, "arrived", arrived_before, now, limit, also, more)
    entries, corrupt = load_all(db, [(seq, id) for seq, id, _ in found])
    return entries, damages + corrupt


def _find(
    db: sqlite3.Connection, instant: str, before: float, now: float, limit: int, also: str, more: tuple[str, ...]
) -> tuple[list[tuple[int, str, float]], list[Damage]]:
    """Entries in the order of an instant, free and not held."""
    free = f"(claimed_by = '' OR lease_end <= ?){also}"
    old = f"held = '' AND {instant} <= ?"
    try:
        found = db.execute(
            f"SELECT seq, id, {instant} FROM entry WHERE {old} AND {free} ORDER BY {instant} LIMIT ?",  # noqa: S608 - words of this module
            (before, now, *more, limit),
        ).fetchall()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
    else:
        return found, []
    # A damaged page is in the way: ask an index alone, then entry by entry.
    found, damages = [], []
    sql = f"SELECT seq FROM entry INDEXED BY {_index_of(db, instant)} WHERE {old} ORDER BY {instant}"  # noqa: S608
    for (seq,) in db.execute(sql, (before,)).fetchall():
        try:
            found += db.execute(f"SELECT seq, id, {instant} FROM entry WHERE seq = ? AND {free}", (seq, now, *more)).fetchall()  # noqa: S608
        except sqlite3.DatabaseError as error:
            damages.append(Damage(seq, rows.id_of(db, seq), f"its rows cannot be read: {error}"))
        if len(found) >= limit:
            break
    return found, damages


def _index_of(db: sqlite3.Connection, instant: str) -> str:
    """The index that knows of an instant without the table."""
    there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    return "entry_arrived" if instant == "arrived" else "entry_pile" if "entry_pile" in there else "entry_due"


# -- sorting -----------------------------------------------------------------------------------------------------------------


def owners_without_route(db: sqlite3.Connection) -> set[str]:
    """Whose mail is held for want of a route."""
    try:
        found = db.execute("SELECT DISTINCT owner FROM entry WHERE held = 'route' AND held <> ''").fetchall()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        found = _one_by_one(db, "SELECT owner FROM entry WHERE seq = ?", _seqs(db, _HELD))
    return {owner for (owner,) in found if _is_sound((owner, "", 0.0))}


def seqs_of(db: sqlite3.Connection, owner: str) -> list[int]:
    """The numbers of an owner's entries that are in a pile or held for want of a route."""
    in_piles = "SELECT seq FROM entry WHERE held = '' AND owner = ?"
    held = "SELECT seq FROM entry WHERE held = 'route' AND held <> '' AND owner = ?"
    try:
        found = db.execute(f"{in_piles} UNION ALL {held}", (owner, owner)).fetchall()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        found = _one_by_one(db, "SELECT seq FROM entry WHERE seq = ? AND owner = ?", _seqs(db, _FREE) + _seqs(db, _HELD), owner)
    return [seq for (seq,) in found]


_FREE = "INDEXED BY entry_arrived WHERE held = ''"
_HELD = "INDEXED BY entry_held WHERE held = 'route' AND held <> ''"


def _seqs(db: sqlite3.Connection, where: str) -> list[int]:
    """The numbers of entries, from an index alone."""
    return [seq for (seq,) in db.execute(f"SELECT seq FROM entry {where}")]  # noqa: S608 - the two above


def _one_by_one(db: sqlite3.Connection, sql: str, seqs: Sequence[int], *more: object) -> list[tuple[Any, ...]]:
    """The rows that can be read."""
    found = []
    for seq in seqs:
        try:
            found += db.execute(sql, (seq, *more)).fetchall()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
    return found


def sort(db: sqlite3.Connection, seqs: Sequence[int], place: Place, now: float) -> Sorted:
    """Put these entries where their mail goes by now, unless someone is working on them; hold those that had a route and have none."""
    columns = "seq, id, kind, sender, route, held, (SELECT address FROM standing WHERE standing.seq = entry.seq AND position = 0)"
    idle = "held IN ('', 'route') AND (claimed_by = '' OR lease_end <= ?)"
    which = "seq IN (SELECT value FROM json_each(?))"
    try:
        found = db.execute(f"SELECT {columns} FROM entry WHERE {which} AND {idle}", (json.dumps(seqs), now)).fetchall()  # noqa: S608
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        found = _one_by_one(db, f"SELECT {columns} FROM entry WHERE seq = ? AND {idle}", seqs, now)  # noqa: S608
    done = Sorted([], [])
    for seq, id, kind, sender, route, held, recipient in found:
        goal = place(domain_of(kind, str(sender), str(recipient)))
        if goal is None and not route:
            goal = ""  # it was never to go by any other than the relay's own
        if goal is None:
            if not held:
                db.execute("UPDATE entry SET held = 'route' WHERE seq = ?", (seq,))
                done.held.append(id)
        elif held:
            db.execute("UPDATE entry SET held = '', route = ?, due = ? WHERE seq = ?", (goal, now, seq))
            done.unheld.append(id)
        elif goal != route:
            db.execute("UPDATE entry SET route = ? WHERE seq = ?", (goal, seq))
    return done
