"""What is done with entries on their way: claimed, renewed, released, finished. Functions over a connection, within its transaction.

A claim belongs to an incarnation of a process and has a lease on the spool's clock; one whose lease has ended counts as none. `due` of a
claimed entry is what stands if its process is killed. The claim that a put makes lasts until the entry is due.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from relay.spool import rows
from relay.spool.entry import SETTLED, Entry, Hold, Standing, State

_RANK: dict[State, int] = {"waiting": 0, "relayed": 1, "failed": 1, "delivered": 2, "reported": 2, "discarded": 2}
"""How far a standing has come."""


@dataclass(frozen=True, slots=True)
class Damage:
    """An entry that cannot be read, and why."""

    seq: int
    id: str
    why: str


@dataclass(frozen=True, slots=True)
class Finish:
    """What came of an attempt."""

    id: str
    standings: Sequence[Standing]
    due: float | None
    reports: Sequence[rows.Put]
    attempts: int | None
    is_warned: bool | None
    held: Hold
    accepted: int | None
    us: str
    now: float


def seq_of(db: sqlite3.Connection, id: str, owner: str | None = None) -> int | None:
    """The number of an entry (of that owner); None if there is none."""
    row = db.execute("SELECT seq, owner FROM entry WHERE id = ?", (id,)).fetchone()
    return None if row is None or owner not in (None, row[1]) else int(row[0])


def load_all(db: sqlite3.Connection, found: Sequence[tuple[int, str]]) -> tuple[list[Entry], list[Damage]]:
    """Read the entries that are whole, and tell of the others."""
    entries, damages = [], []
    for (seq, id), read in zip(found, rows.load(db, [seq for seq, _ in found]), strict=True):
        if isinstance(read, Entry):
            entries.append(read)
        else:
            damages.append(Damage(seq, id, str(read)))
    return entries, damages


def load_any(db: sqlite3.Connection, found: Sequence[tuple[int, str]]) -> list[Entry]:
    """Read entries, of the corrupt ones what can be read."""
    reads = rows.load(db, [seq for seq, _ in found])
    return [read if isinstance(read, Entry) else rows.salvage(db, seq, id) for (seq, id), read in zip(found, reads, strict=True)]


def mark_settled(db: sqlite3.Connection, calls: Sequence[Sequence[str]]) -> list[None]:
    """Mark many calls' entries with one statement."""
    ids = json.dumps([id for call in calls for id in call])
    db.execute("UPDATE entry SET is_settled = 1 WHERE is_settled = 0 AND id IN (SELECT value FROM json_each(?))", (ids,))
    return [None] * len(calls)


def claim(
    db: sqlite3.Connection, ids: Sequence[str], us: str, lease_end: float, due: float, now: float
) -> tuple[list[Entry], list[Damage]]:
    """Take what is free of these entries."""
    found = db.execute(
        "SELECT seq, id, EXISTS (SELECT 1 FROM content WHERE content.seq = entry.seq) FROM entry"
        " WHERE id IN (SELECT value FROM json_each(?)) AND held = '' AND (is_settled = 1 OR units = 0)"
        " AND (claimed_by = '' OR lease_end <= ?)",
        (json.dumps(ids), now),
    ).fetchall()
    damages = [Damage(seq, id, "its content is gone") for seq, id, has_content in found if not has_content]
    free = [(seq, id) for seq, id, has_content in found if has_content]
    # Read first: what is corrupt is left as it is.
    entries, damaged = load_all(db, free)
    taken = {entry.id for entry in entries}
    db.execute(
        "UPDATE entry SET claimed_by = ?, lease_end = ?, due = ? WHERE seq IN (SELECT value FROM json_each(?))",
        (us, lease_end, due, json.dumps([seq for seq, id in free if id in taken])),
    )
    by_id = {entry.id: replace(entry, claimed_by=us, due=due) for entry in entries}
    return [by_id[id] for id in dict.fromkeys(ids) if id in by_id], damages + damaged


def renew(db: sqlite3.Connection, id: str, us: str, lease_end: float) -> bool:
    """Prolong our claim; False: it is no longer ours."""
    return db.execute("UPDATE entry SET lease_end = ? WHERE id = ? AND claimed_by = ?", (lease_end, id, us)).rowcount > 0


def release(db: sqlite3.Connection, id: str, us: str, due: float) -> None:
    """Drop our claim."""
    db.execute("UPDATE entry SET claimed_by = '', lease_end = 0.0, due = ? WHERE id = ? AND claimed_by = ?", (due, id, us))


def claims_of(db: sqlite3.Connection, incarnation: str) -> list[Entry]:
    """The entries that a process has claimed, the corrupt ones as far as they can be read."""
    return load_any(db, _claimed_by(db, incarnation))


def _claimed_by(db: sqlite3.Connection, incarnation: str) -> list[tuple[int, str]]:
    return db.execute("SELECT seq, id FROM entry WHERE claimed_by = ? AND claimed_by <> '' ORDER BY seq", (incarnation,)).fetchall()


def release_all(db: sqlite3.Connection, incarnation: str, latest: float = float("inf")) -> list[Entry]:
    """Drop all claims of a process, and return their entries, the corrupt ones as far as they can be read; they are due by `latest`."""
    found = _claimed_by(db, incarnation)
    db.execute(
        "UPDATE entry SET claimed_by = '', lease_end = 0.0, due = min(due, ?) WHERE claimed_by = ? AND claimed_by <> ''",
        (latest, incarnation),
    )
    return load_any(db, found)


def finish(db: sqlite3.Connection, tasks: Sequence[Finish]) -> list[bool]:
    """Record what came of attempts, with their reports; remove the entries of which nothing is owed any more."""
    found = db.execute(
        "SELECT id, seq, recipients, claimed_by, lease_end FROM entry WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps([task.id for task in tasks]),),
    )
    there = {id: row for id, *row in found}
    answers = []
    reports: list[rows.Put] = []
    gone: list[int] = []
    for task in tasks:
        answers.append(task.id in there)
        if task.id not in there:
            continue
        seq, recipients, claimed_by, lease_end = there[task.id]
        if len(task.standings) != recipients:
            raise ValueError(f"{task.id}: {len(task.standings)} standings for {recipients} recipients")
        is_others = claimed_by not in ("", task.us) and lease_end > task.now
        standings = _farther(db, seq, task.standings) if is_others else task.standings
        reports += task.reports
        if all(standing.state in SETTLED for standing in standings):
            gone.append(seq)
            del there[task.id]
        else:
            _record(db, seq, task, standings, is_others=is_others)
    rows.insert(db, reports)
    rows.delete(db, gone)
    return answers


def _record(db: sqlite3.Connection, seq: int, task: Finish, standings: Sequence[Standing], *, is_others: bool) -> None:
    """Write the standings of an entry that stays."""
    db.executemany(
        "UPDATE standing SET state = ?, reply = ?, in_doubt = ? WHERE seq = ? AND position = ?",
        [(s.state, rows.spoken(s.reply), s.in_doubt, seq, position) for position, s in enumerate(standings)],
    )
    changes: dict[str, Any] = {}
    if not is_others:
        changes |= {"claimed_by": "", "lease_end": 0.0}
        if task.due is not None:
            changes["due"] = task.due
    if task.attempts is not None:
        changes["attempts"] = task.attempts
    if task.is_warned is not None:
        changes["is_warned"] = task.is_warned
    if task.accepted is not None:
        [entry] = rows.load(db, [seq])
        if isinstance(entry, Entry) and not entry.is_settled:  # settled meanwhile by another, it was charged for what it said then
            changes |= {"accepted": task.accepted, "seal": rows.seal(replace(entry, accepted=task.accepted))}
    if task.held:
        changes["held"] = task.held  # without one, a person's hold of meanwhile stands
    if changes:
        columns = ", ".join(f"{name} = ?" for name in changes)
        db.execute(f"UPDATE entry SET {columns} WHERE seq = ?", (*changes.values(), seq))  # noqa: S608 - the names are those above


def _farther(db: sqlite3.Connection, seq: int, standings: Sequence[Standing]) -> list[Standing]:
    """Ours or those recorded, whichever has come farther: our lease lapsed, and another process is at work on the entry."""
    [entry] = rows.load(db, [seq])
    known = entry.standings if isinstance(entry, Entry) else standings
    return [ours if _RANK[ours.state] > _RANK[old.state] else old for ours, old in zip(standings, known, strict=True)]


def withdraw(db: sqlite3.Connection, id: str) -> bool:
    """Remove an entry that nobody was told of."""
    seq = seq_of(db, id)
    if seq is None:
        return False
    rows.delete(db, [seq])
    return True


def claimants(db: sqlite3.Connection) -> set[str]:
    """Whose claims there are."""
    return {incarnation for (incarnation,) in db.execute("SELECT DISTINCT claimed_by FROM entry WHERE claimed_by <> ''")}


def charged(db: sqlite3.Connection, ids: Sequence[str]) -> dict[str, tuple[str, int, int]]:
    """Of the entries with a hold: id -> user, units, what of them is accepted."""
    found = db.execute(
        "SELECT id, user, units, accepted FROM entry WHERE units > 0 AND id IN (SELECT value FROM json_each(?))", (json.dumps(list(ids)),)
    )
    return {id: (user, units, accepted) for id, user, units, accepted in found}


def unsettled(db: sqlite3.Connection) -> list[tuple[str, str, int, int]]:
    """User, id, units and what of them is accepted, of the free entries whose hold the ledger has not answered for."""
    return db.execute(
        "SELECT user, id, units, accepted FROM entry WHERE is_settled = 0 AND units > 0 AND claimed_by = '' ORDER BY seq"
    ).fetchall()


def keep_charge(db: sqlite3.Connection, charge: tuple[str, str, int, int, int]) -> None:
    """Keep a charge."""
    db.execute("INSERT OR REPLACE INTO charge (user, id, units, accepted, rejected) VALUES (?, ?, ?, ?, ?)", charge)


def forget_charges(db: sqlite3.Connection, ids: Sequence[str]) -> None:
    """Forget charges that the ledger has."""
    db.executemany("DELETE FROM charge WHERE id = ?", [(id,) for id in ids])


def charges(db: sqlite3.Connection) -> list[tuple[str, str, int, int, int]]:
    """All the charges kept."""
    return db.execute("SELECT user, id, units, accepted, rejected FROM charge ORDER BY id").fetchall()
