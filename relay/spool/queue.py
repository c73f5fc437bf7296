"""What an operator sees and does. Functions over a connection, within its transaction.

What a person wants tried now is asked for besides being due (see asked.py).

An entry that is being sent right now is not removed and its wait is not changed: its process will say what came of it. A hold that is put
on it stands when it comes back.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Literal

from relay.spool import rows
from relay.spool.asked import Ask, ask
from relay.spool.claim import load_any, seq_of
from relay.spool.entry import Entry, Hold
from relay.spool.schema import is_damage

Which = Literal["all", "waiting", "held"]
PAGE = 500
"""Entries of a page."""
_WHICH: dict[Which, str] = {"all": "", "waiting": " AND held = ''", "held": " AND held <> ''"}
_IDLE = "(claimed_by = '' OR lease_end <= ?)"


@dataclass(frozen=True, slots=True)
class Counts:
    """The spool in figures. Every entry is one of waiting, claimed and held."""

    waiting: int
    """To be tried when due."""
    held: int
    claimed: int
    """Being sent, and not held."""
    in_doubt: int
    """Entries with a recipient that is to be tried again though he may have the message."""
    reports: int
    charges: int
    oldest: float | None
    """Age of the oldest entry that is not held, in s."""
    octets: int
    """Of all contents."""


def _of(owner: str | None, user: str | None = None) -> tuple[str, list[str]]:
    """A condition on owner and user."""
    words = [("owner", owner), ("user", user)]
    return "".join(f" AND {name} = ?" for name, value in words if value is not None), [value for _, value in words if value is not None]


def page(db: sqlite3.Connection, after: int, owner: str | None, user: str | None, which: Which) -> tuple[int | None, list[Entry]]:
    """The entries after that one, oldest first, and the number of the last if more may come."""
    also, values = _of(owner, user)
    try:
        found = db.execute(
            f"SELECT seq, id FROM entry WHERE seq > ?{also}{_WHICH[which]} ORDER BY seq LIMIT {PAGE}",  # noqa: S608 - words of this module
            (after, *values),
        ).fetchall()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
    else:
        return (found[-1][0] if len(found) == PAGE else None), load_any(db, found)
    # A damaged page is in the way: ask the index alone, and choose among what can be read.
    found = db.execute(f"SELECT seq, id FROM entry INDEXED BY entry_id WHERE seq > ? ORDER BY seq LIMIT {PAGE}", (after,)).fetchall()  # noqa: S608
    entries = [
        entry for entry in load_any(db, found)
        if owner in (None, entry.owner) and user in (None, entry.user) and (which == "all" or (entry.held != "") == (which == "held"))
    ]  # fmt: skip
    return (found[-1][0] if len(found) == PAGE else None), entries


def find(db: sqlite3.Connection, id: str) -> Entry | None:
    """One entry, or what can be read of it."""
    seq = seq_of(db, id)
    return None if seq is None else load_any(db, [(seq, id)])[0]


def counts(db: sqlite3.Connection, owner: str | None, now: float) -> Counts:
    """Count; without an owner in indices alone, which takes some ms for a million entries."""
    also, values = _of(owner)

    def one(sql: str, *more: object) -> tuple[int, float | None, int]:
        return db.execute(sql + also, (*more, *values)).fetchone()  # type: ignore[no-any-return]

    free, oldest, octets = one("SELECT count(*), min(arrived), total(size) FROM entry WHERE held = ''")
    held, _, held_octets = one("SELECT count(*), 0, total(size) FROM entry WHERE held <> ''")
    [claimed, *_] = one("SELECT count(*), 0, 0 FROM entry WHERE claimed_by <> '' AND held = '' AND lease_end > ?", now)
    [reports, *_] = one("SELECT count(*), 0, 0 FROM entry WHERE kind = 'dsn'")
    of_owner = f" AND EXISTS (SELECT 1 FROM entry WHERE entry.seq = standing.seq{also})" if values else ""  # noqa: S608
    doubts = db.execute(
        f"SELECT count(DISTINCT seq) FROM standing WHERE in_doubt <> 0 AND state = 'waiting'{of_owner}",  # noqa: S608
        values,
    ).fetchone()[0]
    charges = 0 if owner is not None else db.execute("SELECT count(*) FROM charge").fetchone()[0]
    age = None if oldest is None else max(0.0, now - oldest)
    return Counts(free - claimed, held, claimed, doubts, reports, charges, age, int(octets + held_octets))


def hold(db: sqlite3.Connection, id: str, reason: Hold, owner: str | None) -> bool:
    """Hold an entry. A person's hold outweighs the relay's own, except that a corrupt entry stays one."""
    seq = seq_of(db, id, owner)
    if seq is None:
        return False
    rule = " AND held <> 'corrupt'" if reason == "operator" else " AND held = ''"
    db.execute(f"UPDATE entry SET held = ? WHERE seq = ?{rule}", (reason, seq))  # noqa: S608
    return True


def mark_corrupt(db: sqlite3.Connection, seq: int) -> bool:
    """Hold an entry that cannot be read; False: it already was, or is gone."""
    return db.execute("UPDATE entry SET held = 'corrupt' WHERE seq = ? AND held <> 'corrupt'", (seq,)).rowcount > 0


def unhold(db: sqlite3.Connection, id: str, owner: str | None, now: float) -> bool:
    """Let an entry go on, due now."""
    seq = seq_of(db, id, owner)
    if seq is None or not _is_held(db, seq):
        return False
    _set_due(db, seq, now)
    db.execute("UPDATE entry SET held = '' WHERE seq = ?", (seq,))
    _ask_for(db, seq, now)
    return True


def retry(db: sqlite3.Connection, id: str, owner: str | None, now: float) -> bool:
    """Have an entry tried now, unless it is held."""
    seq = seq_of(db, id, owner)
    if seq is None or _is_held(db, seq):
        return False
    _set_due(db, seq, now)
    _ask_for(db, seq, now)
    return True


def _ask_for(db: sqlite3.Connection, seq: int, now: float) -> None:
    [owner, route] = db.execute("SELECT owner, route FROM entry WHERE seq = ?", (seq,)).fetchone()
    ask(db, Ask(owner, route), now)


def _is_held(db: sqlite3.Connection, seq: int) -> bool:
    return bool(db.execute("SELECT held <> '' FROM entry WHERE seq = ?", (seq,)).fetchone()[0])


def _set_due(db: sqlite3.Connection, seq: int, now: float) -> None:
    db.execute(f"UPDATE entry SET due = ? WHERE seq = ? AND {_IDLE}", (now, seq, now))  # noqa: S608


def flush(db: sqlite3.Connection, owner: str | None, now: float) -> int:
    """Have all that waits tried now, but for what is in doubt: it would be delivered twice."""
    also, values = _of(owner)
    sure = "seq NOT IN (SELECT seq FROM standing WHERE in_doubt <> 0 AND state = 'waiting')"
    ask(db, Ask(owner, None), now)
    sql = f"UPDATE entry SET due = ? WHERE held = '' AND due > ? AND {_IDLE} AND {sure}{also}"  # noqa: S608
    return db.execute(sql, (now, now, now, *values)).rowcount


def remove(db: sqlite3.Connection, id: str, owner: str | None, now: float) -> Entry | Literal["claimed"] | None:
    """Remove an entry that nobody is sending."""
    seq = seq_of(db, id, owner)
    if seq is None:
        return None
    if db.execute(f"SELECT NOT {_IDLE} FROM entry WHERE seq = ?", (now, seq)).fetchone()[0]:  # noqa: S608
        return "claimed"
    [entry] = load_any(db, [(seq, id)])
    rows.delete(db, [seq])
    return entry


def held_users(db: sqlite3.Connection, reason: Hold) -> set[str]:
    """Whose mail is held for that reason."""
    return {user for (user,) in db.execute("SELECT DISTINCT user FROM entry WHERE held = ? AND held <> ''", (reason,))}


def postpone_user(db: sqlite3.Connection, user: str, due: float, now: float) -> None:
    """Have nothing of a user's mail that nobody is working on be due before then."""
    db.execute(f"UPDATE entry SET due = max(due, ?) WHERE user = ? AND held = '' AND {_IDLE}", (due, user, now))  # noqa: S608


def unhold_user(db: sqlite3.Connection, user: str, reason: Hold, owner: str | None, now: float) -> list[str]:
    """Let a user's mail go on, due now, that is held for that reason; with an owner, only what was taken when the user was that owner's."""
    also, values = _of(owner)
    sql = f"SELECT seq, id FROM entry WHERE held = ? AND held <> '' AND user = ?{also} ORDER BY seq"  # noqa: S608
    found = db.execute(sql, (reason, user, *values)).fetchall()
    for seq, _ in found:
        _set_due(db, seq, now)
        db.execute("UPDATE entry SET held = '' WHERE seq = ?", (seq,))
    return [id for _, id in found]
