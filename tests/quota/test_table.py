"""The table shows what was entered, marked and not yet cleared, and nothing that was never finished."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.quota.table import MARK, SLOT, STEP, Charge, Table, read_table


def test_a_table_shows_what_was_entered_marked_and_cleared(place: Path) -> None:
    table = Table(place / "t.holds")
    many = [(f"user{number % 3}", f"id{number}", number + 1) for number in range(STEP // SLOT + 5)]
    for hold in many:
        table.enter(*hold)
        table.enter(*hold)  # again is no different
    assert table.path.stat().st_size == 2 * STEP
    assert sorted(read_table(table.path), key=lambda charge: charge.units) == [Charge(*hold, 0, 0) for hold in many]
    table.mark(*many[1], 2, 0)
    table.mark(*many[2], 0, 3)
    table.mark("late", "never-entered", 7, 6, 1)
    for _, id, _ in (many[0], *many[3:]):
        table.clear(id)
    left = {Charge(*many[1], 2, 0), Charge(*many[2], 0, 3), Charge("late", "never-entered", 7, 6, 1)}
    assert set(read_table(table.path)) == left
    table.enter("bob", "new", 1)  # into a slot that was another's
    assert set(read_table(table.path)) == left | {Charge("bob", "new", 1, 0, 0)}
    table.close()
    assert set(read_table(table.path)) == left | {Charge("bob", "new", 1, 0, 0)}


def test_a_table_that_is_closed_takes_nothing_more_and_says_so(place: Path) -> None:
    table = Table(place / "t.holds")
    table.enter("ada", "one", 1)
    table.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        table.enter("ada", "two", 1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        table.mark("ada", "one", 1, 1, 0)
    table.clear("one")
    assert read_table(table.path) == [Charge("ada", "one", 1, 0, 0)]


def test_a_table_shows_only_entries_that_were_finished(place: Path) -> None:
    path = place / "t.holds"
    whole = Charge("a" * 128, "b" * 64, 5, 4, 1)
    torn = whole.line().replace(b"\n", b"\0")
    begun = b"\0" + whole.line()[1:]
    path.write_bytes(torn + begun + whole.line() + b"\0" * SLOT + b"\xff" * 20 + b" x y\n".ljust(SLOT - 20, b"\0") + whole.line()[:40])
    assert read_table(path) == [whole]


def test_a_mark_counts_when_it_is_finished(place: Path) -> None:
    path = place / "t.holds"
    line = Charge("ada", "1", 5, 0, 0).line()[:MARK]
    path.write_bytes(line + b"!4 1\n".ljust(SLOT - MARK, b"\0") + line + b"\x004 1\n".ljust(SLOT - MARK, b"\0"))
    assert read_table(path) == [Charge("ada", "1", 5, 4, 1), Charge("ada", "1", 5, 0, 0)]


def test_an_entry_of_noise_is_no_entry(place: Path) -> None:
    """After a power failure a block may hold anything."""
    path = place / "t.holds"
    path.write_bytes(b"ada 1 \xff 0 0\n".ljust(SLOT, b"\0") + b"ada 1 -1 0 0\n".ljust(SLOT, b"\0") + b"ada 1 1 0\n".ljust(SLOT, b"\0"))
    assert read_table(path) == []
