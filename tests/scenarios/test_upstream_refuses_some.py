"""The smarthost wants a message for some of its recipients: each is delivered to, tried again or reported on; recipients are charged."""

from __future__ import annotations

import pytest

from tests.smarthost_faults import World, world_of_module

pytestmark = pytest.mark.asyncio(loop_scope="module")
ONE, TWO, THREE = (f"{name}@example.net" for name in ("one", "two", "three"))

world = world_of_module(quota={"unit": "recipients"})


def copies(world: World, mark: str) -> list[int]:
    return [world.count(mark, name) for name in (ONE, TWO, THREE)]


async def test_one_of_three_refused_is_reported_to_the_sender_and_not_charged(world: World) -> None:
    before = await world.charged()
    world.script('rcpt match=two* reply="550 5.1.1 no such user"')
    heard = await world.send(ONE, TWO, THREE)
    assert heard.reply.startswith(f"250 2.0.0 {heard.id} ")
    assert copies(world, heard.mark) == [1, 0, 1]  # they did not have to wait for the third
    assert await world.charged() == before + 2
    await world.account()
    assert copies(world, heard.mark) == [1, 0, 1]
    assert [copy.failed for copy in world.reports(heard.mark)] == [(TWO,)]
    assert await world.charged() == before + 2


async def test_one_of_three_deferred_is_delivered_later(world: World) -> None:
    before = await world.charged()
    world.script('rcpt match=two* first=1 reply="450 4.2.0 busy"')
    heard = await world.send(ONE, TWO, THREE)
    assert heard.reply.startswith(f"250 2.0.0 {heard.id} ")
    assert copies(world, heard.mark) == [1, 0, 1]
    await world.account()
    assert copies(world, heard.mark) == [1, 1, 1]
    assert world.reports(heard.mark) == []
    assert await world.charged() == before + 3


async def test_one_refused_one_deferred_and_one_taken_each_get_their_own(world: World) -> None:
    before = await world.charged()
    world.script('rcpt match=two* first=1 reply="450 4.2.0 busy"', 'rcpt match=one* reply="553 5.1.3 no such name"')
    heard = await world.send(ONE, TWO, THREE)
    assert heard.reply.startswith("250 ")
    await world.account()
    assert copies(world, heard.mark) == [0, 1, 1]
    assert [copy.failed for copy in world.reports(heard.mark)] == [(ONE,)]
    assert await world.charged() == before + 2


async def test_a_deferred_one_that_is_refused_later_is_reported_and_stays_charged(world: World) -> None:
    before = await world.charged()
    world.script('rcpt match=two* first=1 reply="450 4.2.0 busy"', 'rcpt match=two* reply="550 5.1.1 gone"')
    heard = await world.send(ONE, TWO, THREE)
    await world.account()
    assert copies(world, heard.mark) == [1, 0, 1]
    assert [copy.failed for copy in world.reports(heard.mark)] == [(TWO,)]
    assert await world.charged() == before + 3


async def test_all_refused_in_different_words_is_refused_whole(world: World) -> None:
    before = await world.charged()
    world.script('rcpt match=two* reply="550 5.1.1 no such user"', 'rcpt reply="553 5.1.3 no such name"')
    heard = await world.send(ONE, TWO, THREE)
    assert heard.reply == "553 5.1.3 upstream said: no such name"
    assert await world.entries() == []
    await world.account()
    assert await world.charged() == before
    assert copies(world, heard.mark) == [0, 0, 0]


async def test_two_refused_and_one_deferred_is_taken_for_the_deferred_one(world: World) -> None:
    before = await world.charged()
    busy = 'rcpt match=two* first=1 reply="450 4.2.0 busy"'
    world.script(busy, *(f'rcpt match={name} reply="550 5.1.1 no"' for name in (ONE, THREE)))
    heard = await world.send(ONE, TWO, THREE)
    assert heard.reply == f"250 2.0.0 {heard.id} Queued"
    await world.account()
    assert copies(world, heard.mark) == [0, 1, 0]
    assert [sorted(copy.failed) for copy in world.reports(heard.mark)] == [[ONE, THREE]]
    assert await world.charged() == before + 1


@pytest.mark.parametrize("code", ["550 5.6.0 not that", "451 4.3.0 not now"])
async def test_one_refused_and_the_content_refused_to_the_others_ends_as_the_content_does(world: World, code: str) -> None:
    before = await world.charged()
    world.script('rcpt match=two* reply="550 5.1.1 no such user"', f'dot first=1 reply="{code}"')
    heard = await world.send(ONE, TWO, THREE)
    await world.account()
    assert heard.reply.startswith("550 " if code.startswith("550") else "250 ")
    is_taken = heard.reply.startswith("250 ")
    assert copies(world, heard.mark) == ([1, 0, 1] if is_taken else [0, 0, 0])
    assert [copy.failed for copy in world.reports(heard.mark)] == ([(TWO,)] if is_taken else [])
    assert await world.charged() == before + (2 if is_taken else 0)
