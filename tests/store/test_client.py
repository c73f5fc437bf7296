"""The client answers every call with its own answer or StoreUnavailable, and sends nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.store.client import Script, Store, StoreForeign, StoreRefused, StoreUnavailable
from tests.store.proxy import Proxy

COUNT = Script.of("return redis.call('INCR', KEYS[1])")
WRONG = Script.of("return redis.call('LPUSH', KEYS[1], 'x')")


@pytest.fixture
async def proxy(store: Store, place: Path) -> AsyncIterator[Proxy]:
    proxy = Proxy(str(place / "data" / "store.sock"))
    yield proxy
    await proxy.stop()


@pytest.fixture
async def far(proxy: Proxy) -> AsyncIterator[Store]:
    """A client behind the wire."""
    client = Store(await proxy.start(), timeout=0.3)
    assert await client.command("PING") in (b"PONG", True)
    yield client
    await client.close()


async def test_answers_keep_their_order_with_errors_in_between(store: Store) -> None:
    await store.command("SET", "text", "x")
    calls = [store.command("INCR", "text") if number % 3 == 1 else store.command("ECHO", str(number)) for number in range(300)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    for number, answer in enumerate(answers):
        if number % 3 == 1:
            assert isinstance(answer, StoreRefused) and "not an integer" in str(answer)
        else:
            assert answer == str(number).encode()


async def test_the_calls_of_many_tasks_never_mix(store: Store) -> None:
    async def task(name: int) -> None:
        for number in range(20):
            text = f"{name}.{number}".encode()
            assert await store.command("ECHO", text) == text

    await asyncio.gather(*(task(name) for name in range(50)))


async def test_many_raises_the_first_error_and_has_sent_all(store: Store) -> None:
    await store.command("SET", "text", "x")
    with pytest.raises(StoreRefused):
        await store.many([("INCR", "a"), ("INCR", "text"), ("INCR", "b")])
    assert await store.many([("GET", "a"), ("GET", "b")]) == [b"1", b"1"]


async def test_a_caller_that_gives_up_does_not_disturb_the_others(store: Store) -> None:
    async def ask(number: int) -> bytes:
        answer: bytes = await store.command("ECHO", str(number))
        return answer

    tasks = [asyncio.create_task(ask(number)) for number in range(100)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    for number, answer in enumerate(answers):
        if number % 2:
            assert answer == str(number).encode()
        else:
            assert isinstance(answer, asyncio.CancelledError)
    assert await ask(7) == b"7"


async def test_a_silent_store_is_unavailable_and_later_calls_work(proxy: Proxy, far: Store) -> None:
    proxy.mode = "swallow"
    calls = [far.command("ECHO", str(number)) for number in range(3)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailable] * 3
    proxy.mode = "pass"
    assert await asyncio.gather(*(far.command("ECHO", f"later {number}") for number in range(3))) == [b"later 0", b"later 1", b"later 2"]


async def test_an_answer_that_comes_too_late_is_nobody_elses(place: Path, store: Store) -> None:
    impatient = Store(f"unix://{place / 'data' / 'store.sock'}", timeout=0.1)
    await impatient.command("PING")
    with pytest.raises(StoreUnavailable):
        await impatient.command("BLPOP", "nothing", "0.15")
    assert await asyncio.gather(*(impatient.command("ECHO", str(number)) for number in range(5))) == [b"0", b"1", b"2", b"3", b"4"]
    await asyncio.sleep(0.1)
    assert await impatient.command("ECHO", "own") == b"own"
    await impatient.close()


@pytest.mark.parametrize("loss", ["swallow", "cut"])
async def test_a_script_whose_reply_was_lost_has_run_once(proxy: Proxy, far: Store, store: Store, loss: str) -> None:
    assert await far.run(COUNT, "counter") == 1
    proxy.mode = "cut" if loss == "cut" else "swallow"
    with pytest.raises(StoreUnavailable):
        await far.run(COUNT, "counter")
    proxy.mode = "pass"
    assert await far.command("ECHO", "x") == b"x"
    assert await store.command("GET", "counter") == b"2"


async def test_every_call_on_a_lost_connection_is_carried_out_at_most_once(proxy: Proxy, far: Store, store: Store) -> None:
    await far.run(COUNT, "counter")
    proxy.mode = "cut"
    answers = await asyncio.gather(*(far.run(COUNT, "counter") for _ in range(20)), return_exceptions=True)
    assert all(isinstance(answer, StoreUnavailable) for answer in answers)
    proxy.mode = "pass"
    await asyncio.gather(*(far.run(COUNT, "counter") for _ in range(5)))
    assert 6 <= int(await store.command("GET", "counter")) <= 26


async def test_a_store_that_is_not_there_is_unavailable_and_found_when_it_comes(place: Path, store: Store) -> None:
    late = Proxy(str(place / "data" / "store.sock"))
    url = await late.start()
    await late.stop()
    client = Store(url, timeout=0.5)
    with pytest.raises(StoreUnavailable):
        await client.command("PING")
    await client.close()


async def test_a_script_the_server_forgot_is_sent_whole(store: Store) -> None:
    assert await store.run(COUNT, "counter") == 1
    await store.command("SCRIPT", "FLUSH")
    assert await asyncio.gather(*(store.run(COUNT, "counter") for _ in range(5))) == [2, 3, 4, 5, 6]


async def test_an_error_in_a_script_is_the_stores_refusal(store: Store) -> None:
    await store.command("SET", "text", "x")
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        await store.run(WRONG, "text")


@pytest.mark.parametrize("text", ["OOM full", "MISCONF disk", "LOADING data", "READONLY replica", "NOREPLICAS too few", "CLUSTERDOWN x"])
async def test_a_store_that_cannot_work_now_is_unavailable_not_wrong(store: Store, text: str) -> None:
    with pytest.raises(StoreUnavailable, match=text):
        await store.run(Script.of(f"return redis.error_reply('{text}')"), "x")


async def test_a_subscriber_hears_what_is_published_and_when_its_connection_is_lost(proxy: Proxy, far: Store, store: Store) -> None:
    heard = far.subscribe("changes")
    async with asyncio.timeout(5):
        assert await anext(heard) is None
        await store.command("PUBLISH", "changes", "ada")
        await store.command("PUBLISH", "changes", "bob")
        assert [await anext(heard), await anext(heard)] == ["ada", "bob"]
        proxy.mode = "cut"
        await store.command("PUBLISH", "changes", "lost")
        with pytest.raises(StoreUnavailable):
            await anext(heard)


async def test_a_subscription_that_is_silent_is_asked_whether_it_lives(proxy: Proxy, far: Store, store: Store) -> None:
    """One that answers goes on for as long as nothing is published, one that does not is given up."""
    patient = Store(proxy.url, pulse=0.7)
    heard = patient.subscribe("changes")
    async with asyncio.timeout(10):
        assert await anext(heard) is None
        later = asyncio.ensure_future(anext(heard))
        await asyncio.sleep(2)
        await store.command("PUBLISH", "changes", "ada")
        assert await later == "ada"
        proxy.mode = "swallow"
        with pytest.raises(StoreUnavailable, match="dead"):
            await anext(heard)
    await patient.close()


async def test_a_store_that_is_not_ours_is_not_listened_to(store: Store, far: Store) -> None:
    far.epoch = b"another"
    with pytest.raises(StoreForeign, match="another"):
        await anext(far.subscribe("changes"))
    far.epoch = store.epoch
    assert await anext(far.subscribe("changes")) is None


async def test_a_store_that_turns_away_who_would_listen_refuses(store: Store, far: Store) -> None:
    await store.command("ACL", "SETUSER", "default", "resetchannels", "&other")
    with pytest.raises(StoreRefused, match="NOPERM"):
        await anext(far.subscribe("changes"))


async def test_closing_the_client_ends_a_subscription(store: Store, far: Store) -> None:
    heard = far.subscribe("changes")
    assert await anext(heard) is None
    await far.close()
    with pytest.raises(StoreUnavailable):
        await anext(heard)


async def test_octets_of_every_kind_travel_unchanged(store: Store) -> None:
    every = bytes(range(256)) * 300
    await store.command("SET", "k", every)
    assert await store.command("GET", "k") == every
    assert await store.command("ECHO", "äß\r\n$5\r\n") == "äß\r\n$5\r\n".encode()


class Ear:
    """Hears an answer in the moment in which it is read, and asks again from there."""

    def __init__(self, store: Store, most: int) -> None:
        self._store = store
        self._most = most
        self.heard: list[object] = []
        self.is_over = asyncio.Event()
        self._ask()

    def _ask(self) -> None:
        self._store.tell(self, COUNT, "told", ())

    def done(self) -> bool:
        return False

    def set_result(self, result: object, /) -> None:
        self.heard.append(result)
        if len(self.heard) < self._most:
            self._ask()
        else:
            self.is_over.set()

    def set_exception(self, exception: Exception, /) -> None:
        self.heard.append(exception)
        self.is_over.set()


async def test_who_is_told_hears_every_answer_once_and_may_ask_again_at_once(store: Store) -> None:
    ear = Ear(store, 50)
    others = [store.command("ECHO", str(number)) for number in range(20)]
    await ear.is_over.wait()
    assert ear.heard == list(range(1, 51))
    assert [await other for other in others] == [str(number).encode() for number in range(20)]


async def test_who_is_told_hears_of_a_lost_connection(far: Store, proxy: Proxy) -> None:
    ear = Ear(far, 10**9)
    await asyncio.sleep(0.05)
    await proxy.stop()
    await ear.is_over.wait()
    assert len(ear.heard) > 1 and isinstance(ear.heard[-1], StoreUnavailable)


async def test_closing_waits_for_those_who_are_told(store: Store, place: Path) -> None:
    client = Store(f"unix://{place / 'data' / 'store.sock'}")
    ear = Ear(client, 3)
    await client.close()
    assert ear.heard == [1, 2, 3]


async def test_a_question_is_shared_until_it_leaves(store: Store) -> None:
    await store.command("SET", "asked", "1")
    first = store.share("GET", "asked")
    assert store.share("GET", "asked") is first and store.share("GET", "other") is not first
    change = store.command("SET", "asked", "2")
    assert await first == b"1" and await change in (b"OK", True)
    second = store.share("GET", "asked")
    assert second is not first and await second == b"2"


async def test_a_question_that_has_left_is_asked_anew_even_in_the_same_turn(store: Store) -> None:
    """What was answered to somebody else in between must be seen by who asks after it."""
    await store.command("SET", "asked", "1")
    first = store.share("GET", "asked")
    await asyncio.sleep(0)  # in which it leaves
    second = store.share("GET", "asked")
    assert second is not first
    assert [await first, await second] == [b"1", b"1"]


async def test_a_question_that_was_given_up_is_asked_anew(store: Store) -> None:
    await store.command("PING")
    first = store.share("ECHO", "x")
    first.cancel()
    assert await store.share("ECHO", "x") == b"x"
