"""What people want tried now is left word of, for the process that tries."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.spool.asked import KEPT, Ask
from relay.spool.pile import Pile
from relay.spool.schema import TABLES, connect
from relay.spool.spool import Spool
from tests.spool.making import Hands, put, scribble
from tests.spool.test_older import VERSION_1


async def test_a_flush_a_retry_and_a_release_are_heard_of_elsewhere(spool: Spool, other: Spool, clock: Hands) -> None:
    await put(spool, "a", owner="x", route="r", due=clock.now + 100)
    await put(spool, "b", owner="y", held="operator")
    assert await other.asked() == {}
    assert await spool.retry("a")
    assert set(await other.asked()) == {Ask("x", "r")}
    assert await spool.unhold("b")
    assert set(await other.asked()) == {Ask("x", "r"), Ask("y", "")}
    await spool.flush("x")
    await spool.flush()
    assert set(await other.asked()) == {Ask("x", "r"), Ask("y", ""), Ask("x", None), Ask(None, None)}


async def test_to_ask_again_is_seen_though_all_is_due_already(spool: Spool, clock: Hands) -> None:
    await put(spool, "a")
    marks = set()
    for _ in range(3):
        assert await spool.flush() == 0
        marks.add((await spool.asked())[Ask(None, None)])
        clock.now += 1
    assert len(marks) == 3


async def test_what_is_refused_or_the_relays_own_doing_asks_for_nothing(spool: Spool, clock: Hands) -> None:
    await put(spool, "a", owner="x", held="disabled")
    assert not await spool.retry("a") and not await spool.retry("none") and not await spool.unhold("a", "y")
    assert await spool.unhold_user("u", "disabled") == ["a"]
    assert not await spool.retry("a", "y")
    assert await spool.asked() == {}


async def test_old_words_go_with_the_next_and_nothing_else_does(spool: Spool, path: Path, clock: Hands) -> None:
    scribble(path, "INSERT INTO meta (name, value) VALUES ('asked', '0'), ('asked!', '0'), ('seen', '0')")
    for number in range(3):
        await spool.flush(f"o{number}")
        clock.now += KEPT / 2 + 1
    assert set(await spool.asked()) == {Ask("o1", None), Ask("o2", None)}
    await spool.flush()
    assert set(await spool.asked()) == {Ask("o2", None), Ask(None, None)}
    db = connect(path)
    assert db.execute("SELECT name FROM meta WHERE value = '0' ORDER BY name").fetchall() == [("asked",), ("asked!",), ("seen",)]
    db.close()


@pytest.mark.parametrize("name", ["asked ", "asked x", "asked 3", "asked [1]", "asked [1, 2, 3]", "asked {}"])
async def test_a_word_that_nobody_understands_is_in_nobodys_way(spool: Spool, path: Path, name: str) -> None:
    scribble(path, f"INSERT INTO meta (name, value) VALUES ('{name}', 'x')")
    assert await spool.asked() == {}


def test_the_words_need_no_table_that_the_first_version_had_not() -> None:
    [table] = [table for table in TABLES if table.startswith("CREATE TABLE meta ")]
    assert table in VERSION_1


def test_an_ask_covers_what_it_means() -> None:
    piles = [Pile("x", ""), Pile("x", "r"), Pile("y", "")]
    covered = [[ask.covers(pile) for pile in piles] for ask in (Ask(None, None), Ask("x", None), Ask("x", ""), Ask("z", None))]
    assert covered == [[True, True, True], [True, True, False], [True, False, False], [False, False, False]]
