"""The piles of the spool: one for each owner and route, found, asked, sorted, and whatever is damaged in them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from relay.spool.entry import Entry
from relay.spool.pile import Pile, Place, Sorted
from relay.spool.spool import Spool
from tests.spool.making import PREFIX, WIRE, Hands, an_entry, put, scribble

OWN = Pile("o", "")
R1 = Pile("o", "r1")


async def found(spool: Spool, **wanted: int) -> list[str]:
    """The ids that are due in piles, by their route."""
    return [entry.id for entry in await spool.due_in(spool.now(), {Pile("o", route): count for route, count in wanted.items()})]


async def shown(spool: Spool) -> dict[str, tuple[str, str]]:
    """Route and hold of every entry."""
    return {entry.id: (entry.route, entry.held) async for page in spool.pages() for entry in page}


def by(**routes: str) -> Place:
    """Who knows the route of these domains, written with _ for a dot."""
    known = {domain.replace("_", "."): route for domain, route in routes.items()}
    return lambda domain: known.get(domain)


async def test_there_is_a_pile_for_each_owner_and_route_with_something_to_be_tried(spool: Spool, clock: Hands) -> None:
    assert await spool.piles() == {}
    for number, pile in enumerate([R1, OWN, Pile("ö", "ü"), R1, Pile("", "x")]):
        await put(spool, f"m{number}", owner=pile.owner, route=pile.route, due=clock.now + 5 - number)
    await put(spool, "held", route="r2", held="operator")
    assert await spool.piles() == {
        Pile("", "x"): clock.now + 1, OWN: clock.now + 4, R1: clock.now + 2, Pile("ö", "ü"): clock.now + 3,
    }  # fmt: skip
    assert list(await spool.piles()) == sorted(await spool.piles())


async def test_so_many_of_each_pile_are_found_the_longest_due_first(spool: Spool, clock: Hands) -> None:
    for number in range(6):
        await put(spool, f"m{number}", route=f"r{number % 2}", due=clock.now - number)
    assert await found(spool, r0=2, r1=1) == ["m4", "m2", "m5"]
    assert await found(spool, r0=9) == ["m4", "m2", "m0"]
    assert await found(spool, r2=9) == []
    assert [entry.id for entry in await spool.due(clock.now, 4)] == ["m5", "m4", "m3", "m2"]


async def test_what_is_claimed_or_held_or_not_yet_due_is_not_found(spool: Spool, clock: Hands) -> None:
    for number in range(4):
        await put(spool, f"m{number}", route="r1", due=clock.now + (number == 3))
    await spool.claim(["m0"], 60.0, clock.now)
    assert await spool.hold("m1", "route")
    assert await found(spool, r1=9) == ["m2"]


async def test_what_expires_is_found_of_these_piles_only(spool: Spool, clock: Hands) -> None:
    for number in range(4):
        await put(spool, f"m{number}", route=f"r{number % 2}")
        clock.now += 1
    assert [entry.id for entry in await spool.expiring(clock.now, 10, [R1])] == ["m1", "m3"]
    assert [entry.id for entry in await spool.expiring(clock.now - 2, 10, [R1, Pile("o", "r0")])] == ["m0", "m1", "m2"]
    assert await spool.expiring(clock.now, 10, []) == []


async def test_sorting_puts_each_where_its_mail_goes_now(spool: Spool, clock: Hands) -> None:
    await put(spool, "moves", route="r1", sender="a@b@one.example", due=clock.now + 60)
    await put(spool, "own", sender="a@else.example")
    await put(spool, "adopted", sender="a@one.example")
    await put(spool, "orphan", route="r1", sender="a@else.example")
    await put(spool, "report", route="r1", sender="", kind="dsn", units=0)
    await put(spool, "others", owner="p", route="r1", sender="a@one.example")
    seqs = await spool.seqs_of("o")
    assert await spool.sort(seqs, by(one_example="r2", example_org="r3")) == Sorted(["orphan"], [])
    assert await shown(spool) == {
        "moves": ("r2", ""), "own": ("", ""), "adopted": ("r2", ""), "orphan": ("r1", "route"), "report": ("r3", ""), "others": ("r1", ""),
    }  # fmt: skip
    assert (await spool.piles())[Pile("o", "r2")] == clock.now
    assert await spool.owners_without_route() == {"o"}


async def test_what_is_held_for_its_route_is_let_go_with_one_and_nothing_else_is(spool: Spool, clock: Hands) -> None:
    for reason in ("route", "operator", "disabled"):
        await put(spool, reason, route="r1", held=reason, due=clock.now + 60)
    seqs = await spool.seqs_of("o")
    assert await spool.sort(seqs, by()) == Sorted([], [])
    assert await spool.sort(seqs, by(example_com="r2")) == Sorted([], ["route"])
    assert await shown(spool) == {"route": ("r2", ""), "operator": ("r1", "operator"), "disabled": ("r1", "disabled")}
    assert [entry.due for entry in await spool.due(clock.now, 10)] == [clock.now]
    assert await spool.owners_without_route() == set()


async def test_what_is_being_sent_stays_where_it_is(spool: Spool, clock: Hands) -> None:
    await put(spool, "m", route="r1")
    await spool.claim(["m"], 60.0, clock.now)
    assert await spool.sort(await spool.seqs_of("o"), by()) == Sorted([], [])
    assert await shown(spool) == {"m": ("r1", "")}


DAMAGE = ["owner = CAST(x'ff6f' AS TEXT)", "route = CAST(x'fe' AS TEXT)", "owner = x'00'", "due = 'never'", "route = x'ff'"]


@pytest.mark.parametrize("damage", DAMAGE)
async def test_an_entry_of_which_nobody_can_tell_where_it_lies_is_held_and_in_nobodys_way(path: Path, clock: Hands, damage: str) -> None:
    told: list[str] = []
    spool = Spool(path, "me", 0, clock, lambda id, why: told.append(id))
    for id in ("a", "b", "c"):
        await put(spool, id, route="r1", owner=id)
    scribble(path, f"UPDATE entry SET {damage} WHERE id = 'b'")
    await spool.piles()
    assert list(await spool.piles()) == [Pile("a", "r1"), Pile("c", "r1")]
    assert [entry.id for entry in await spool.due(clock.now, 10)] == ["a", "c"]
    assert told == ["b"]
    await spool.close()


def test_a_high_pile_is_passed_over_in_no_time(path: Path, clock: Hands) -> None:
    async def run() -> None:
        spool = Spool(path, "me", 0, clock)
        entries: list[Entry] = [an_entry(f"m{number}", clock.now, route="away", due=clock.now - 9) for number in range(20_000)]
        for start in range(0, len(entries), 1000):
            await asyncio.gather(*(spool.put(entry, PREFIX, WIRE[:100]) for entry in entries[start : start + 1000]))
        await put(spool, "here", route="up")
        began = time.monotonic()
        for _ in range(20):
            assert len(await spool.piles()) == 2
            assert [entry.id for entry in await spool.due_in(clock.now, {Pile("o", "up"): 5})] == ["here"]
        assert time.monotonic() - began < 0.5
        await spool.close()

    asyncio.run(run())
