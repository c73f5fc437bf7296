"""Entries as rows: written, read and removed many at once.

Promise: what is read is what was written. The texts that never change, addresses first of all, are sealed with a checksum, and so is the
content: a damaged row is told apart (EntryCorrupt) before a message goes to an address that nobody named.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import chain
from typing import Any, get_args

from relay.mail.envelope import Envelope, Recipient
from relay.spool.entry import Entry, Hold, Kind, Standing, State
from relay.spool.fault import EntryCorrupt
from relay.spool.schema import is_damage

Put = tuple[Entry, bytes, bytes]
"""An entry, its prefix and its wire."""

ENTRY = (
    "seq, id, user, owner, kind, origin, sender, body, ret, envid, recipients, size, units, accepted, seal, arrived, due, is_settled, "
    "attempts, held, claimed_by, lease_end, is_warned, smtputf8, route"
)
STANDING = "seq, position, address, notify, orcpt, state, reply, in_doubt"
CONTENT = "seq, prefix, wire, crc"
CHUNKS = (32, 8, 1)
"""How many rows one INSERT takes. SQLite gives the interpreter's lock away once a statement, not once a row: under a busy event loop every
statement saved is a wait saved."""

_STATES = frozenset(get_args(State))
_KINDS = frozenset(get_args(Kind))
_HOLDS = frozenset(get_args(Hold))


@cache
def _insertion(table: str, columns: str, rows: int) -> str:
    row = f"({', '.join('?' * (columns.count(',') + 1))})"
    return f"INSERT INTO {table} ({columns}) VALUES {', '.join([row] * rows)}"  # noqa: S608 - constants of this module


def _insert(db: sqlite3.Connection, table: str, columns: str, rows: Sequence[tuple[Any, ...]]) -> None:
    start = 0
    for chunk in CHUNKS:
        while len(rows) - start >= chunk:
            db.execute(_insertion(table, columns, chunk), list(chain.from_iterable(rows[start : start + chunk])))
            start += chunk


def insert(db: sqlite3.Connection, puts: Sequence[Put]) -> list[None]:
    """Write entries with their standings and contents."""
    seq: int = db.execute("SELECT max(seq) FROM entry").fetchone()[0] or 0
    entries: list[tuple[Any, ...]] = []
    standings: list[tuple[Any, ...]] = []
    contents: list[tuple[Any, ...]] = []
    for entry, prefix, wire in puts:
        seq += 1
        e = entry.envelope
        entries.append((
            seq, entry.id, entry.user, entry.owner, entry.kind, entry.origin, e.sender, e.body, e.ret, e.envid, len(entry.standings),
            entry.size, entry.units, entry.accepted, seal(entry), entry.arrived, entry.due, entry.is_settled, entry.attempts, entry.held,
            entry.claimed_by, entry.due if entry.claimed_by else 0.0, entry.is_warned, e.smtputf8, entry.route,
        ))  # fmt: skip
        standings += [
            (seq, position, s.recipient.address, s.recipient.notify, s.recipient.orcpt, s.state, spoken(s.reply), s.in_doubt)
            for position, s in enumerate(entry.standings)
        ]
        contents.append((seq, prefix, wire, checksum(prefix, wire)))
    _insert(db, "entry", ENTRY, entries)
    _insert(db, "standing", STANDING, standings)
    _insert(db, "content", CONTENT, contents)
    return [None] * len(puts)


def checksum(prefix: bytes, wire: bytes) -> int:
    """The content's seal."""
    return zlib.crc32(wire, zlib.crc32(prefix) ^ len(prefix))


def seal(entry: Entry) -> int:
    """The checksum of what never changes in an entry. What an older relay sealed has the same one."""
    e = entry.envelope
    words = [
        entry.id, entry.user, entry.owner, entry.kind, entry.origin, e.sender, e.body, e.ret, e.envid,
        f"{entry.size} {entry.units} {entry.accepted} {float(entry.arrived)!r}",
    ]  # fmt: skip
    for standing in entry.standings:
        words += (standing.recipient.address, standing.recipient.notify, standing.recipient.orcpt)
    if e.smtputf8:
        words.append("SMTPUTF8")
    return zlib.crc32("\0".join(words).encode())


def spoken(reply: str) -> str:
    """A reply that can be stored, whatever octets it came with."""
    return reply if reply.isascii() else reply.encode("utf-8", "replace").decode()


def load(db: sqlite3.Connection, seqs: Sequence[int]) -> list[Entry | EntryCorrupt]:
    """Read these entries in their order, each as it is or why it cannot be read."""
    if not seqs:
        return []
    try:
        return _load(db, seqs)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        if len(seqs) == 1:
            return [EntryCorrupt(f"its rows cannot be read: {error}")]
    # A damaged page fails the whole statement: one by one, the others are read.
    return [load(db, [seq])[0] for seq in seqs]


def _load(db: sqlite3.Connection, seqs: Sequence[int]) -> list[Entry | EntryCorrupt]:
    wanted = json.dumps(seqs)
    entries = db.execute(f"SELECT {ENTRY} FROM entry WHERE seq IN (SELECT value FROM json_each(?))", (wanted,)).fetchall()  # noqa: S608
    rows: dict[int, list[Sequence[Any]]] = {seq: [] for seq in seqs}
    found = db.execute(
        f"SELECT {STANDING} FROM standing WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq, position",  # noqa: S608
        (wanted,),
    )
    for row in found:
        rows[row[0]].append(row)
    read: dict[int, Entry | EntryCorrupt] = {row[0]: _parse(row, rows[row[0]]) for row in entries}
    return [read.get(seq) or EntryCorrupt("its row is gone") for seq in seqs]


def salvage(db: sqlite3.Connection, seq: int, id: str) -> Entry:
    """Read what can be read of a corrupt entry, to show it to a person."""
    try:
        row = db.execute(f"SELECT {ENTRY} FROM entry WHERE seq = ?", (seq,)).fetchone()  # noqa: S608
        rows = db.execute(f"SELECT {STANDING} FROM standing WHERE seq = ? ORDER BY position", (seq,)).fetchall()  # noqa: S608
        return replace(
            _build([_plain(value) for value in row], [[_plain(value) for value in one] for one in rows], is_lenient=True), held="corrupt"
        )
    except (sqlite3.DatabaseError, ValueError, TypeError):
        return Entry(_plain(id), "", "", Envelope("", ()), (), 0.0, 0.0, held="corrupt")


def id_of(db: sqlite3.Connection, seq: int) -> str:
    """The id of an entry whose row is damaged, from the index."""
    try:
        row = db.execute("SELECT id FROM entry INDEXED BY entry_id WHERE seq = ?", (seq,)).fetchone()
    except sqlite3.DatabaseError:
        row = None
    return "?" if row is None else row[0]


def _plain(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _parse(row: Sequence[Any], rows: Sequence[Sequence[Any]]) -> Entry | EntryCorrupt:
    try:
        entry = _build(row, rows)
        if len(rows) != row[10] or [one[1] for one in rows] != list(range(len(rows))):
            raise EntryCorrupt(f"{len(rows)} standings of {row[10]} are there")
        if seal(entry) != row[14]:
            raise EntryCorrupt("its texts are not as they were written")
    except (ValueError, TypeError, OverflowError) as error:
        return EntryCorrupt(f"its rows cannot be understood: {error}")
    except EntryCorrupt as error:
        return error
    return entry


def _known(word: Any, words: frozenset[str], *, is_lenient: bool) -> Any:
    if word not in words:
        if is_lenient:
            return "waiting" if words is _STATES else "mail" if words is _KINDS else "corrupt"
        raise EntryCorrupt(f"{word!r} is no word of the spool")
    return word


def _build(row: Sequence[Any], rows: Sequence[Sequence[Any]], *, is_lenient: bool = False) -> Entry:
    standings = tuple(
        Standing(Recipient(address, notify, orcpt), _known(state, _STATES, is_lenient=is_lenient), reply, bool(in_doubt))
        for _, _, address, notify, orcpt, state, reply, in_doubt in rows
    )
    (
        _, id, user, owner, kind, origin, sender, body, ret, envid, _, size, units, accepted, _, arrived, due, is_settled, attempts, held,
        claimed_by, _, is_warned, smtputf8, route,
    ) = row  # fmt: skip
    envelope = Envelope(sender, tuple(standing.recipient for standing in standings), body, ret, envid, bool(smtputf8))
    return Entry(
        id, user, owner, envelope, standings,
        float(arrived), float(due), int(units), int(accepted), bool(is_settled), _known(kind, _KINDS, is_lenient=is_lenient), origin,
        int(attempts), _known(held, _HOLDS, is_lenient=is_lenient), claimed_by, bool(is_warned), int(size), route,
    )  # fmt: skip


def read_content(db: sqlite3.Connection, seq: int) -> tuple[bytes, bytes]:
    """Read an entry's prefix and wire; raises EntryCorrupt."""
    try:
        row = db.execute("SELECT prefix, wire, crc FROM content WHERE seq = ?", (seq,)).fetchone()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        raise EntryCorrupt(f"its content cannot be read: {error}") from error
    if row is None:
        raise EntryCorrupt("its content is gone")
    prefix, wire, crc = row
    if not isinstance(prefix, bytes) or not isinstance(wire, bytes) or checksum(prefix, wire) != crc:
        raise EntryCorrupt("its content is not as it was written")
    return prefix, wire


def delete(db: sqlite3.Connection, seqs: Sequence[int]) -> None:
    """Remove entries with all that belongs to them."""
    if seqs:
        gone = (json.dumps(seqs),)
        db.execute("DELETE FROM content WHERE seq IN (SELECT value FROM json_each(?))", gone)
        db.execute("DELETE FROM standing WHERE seq IN (SELECT value FROM json_each(?))", gone)
        db.execute("DELETE FROM entry WHERE seq IN (SELECT value FROM json_each(?))", gone)
