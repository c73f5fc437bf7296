"""AUTH under attack: guessing is bounded and slow, locks nobody out, and says nothing; who knows the password comes in."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter

import pytest

from tests.session.conftest import Account, Guesses, Opening, Wire, Worker

WRONG = b"535 5.7.8 Authentication credentials invalid\r\n"
ACCEPTED = b"235 2.7.0 Authentication successful\r\n"


def plain(name: bytes | str, password: bytes | str, identity: bytes = b"") -> bytes:
    parts = (part.encode() if isinstance(part, str) else part for part in (name, password))
    return b"AUTH PLAIN " + base64.b64encode(b"\0".join((identity, *parts)))


async def greeted(worker: Worker, source: str = "127.0.0.1") -> Wire:
    """A connection from an address of this host, after EHLO."""
    streams = await asyncio.open_connection("127.0.0.1", worker.ports["plain"], local_addr=(source, 0))
    worker.wires.append(wire := Wire(*streams))
    await wire.reply()
    await wire.ask(b"EHLO client.example")
    return wire


async def say(worker: Worker, command: bytes, source: str = "127.0.0.1") -> bytes:
    """The answer to AUTH on a connection of its own."""
    wire = await greeted(worker, source)
    answer = await wire.ask(command)
    await wire.close()
    return answer


# -- the throttle ------------------------------------------------------------------------------------------------------------


async def test_of_fifty_guesses_at_once_no_more_are_made_than_may_fail(worker: Worker, account: Account) -> None:
    answers = Counter(await asyncio.gather(*(say(worker, plain(account.name, f"guess{i}")) for i in range(50))))
    assert answers.pop(WRONG) == 5
    assert all(answer.startswith(b"454 4.7.0 Too many failed attempts; retry-after=") for answer in answers)
    assert sum(answers.values()) == 45


async def test_fifty_connections_at_once_with_the_right_password_all_come_in(worker: Worker, account: Account) -> None:
    assert await asyncio.gather(*(say(worker, plain(account.name, account.password)) for _ in range(50))) == [ACCEPTED] * 50


async def test_fifty_connections_at_once_with_a_slow_password_all_come_in(worker: Worker, account: Account) -> None:
    await worker.provisioning.import_user(account.owner_id, "brought", "a person's", None, None)
    assert await asyncio.gather(*(say(worker, plain("brought", "a person's")) for _ in range(50))) == [ACCEPTED] * 50


async def test_the_right_password_forgets_the_wrong_ones_before_it(open_worker: Opening) -> None:
    async with open_worker(guesses=Guesses(failures_per_user=3)) as worker:
        account = await worker.add_user()
        for _ in range(3):
            for _ in range(2):
                assert await say(worker, plain(account.name, "guess")) == WRONG
            assert await say(worker, plain(account.name, account.password)) == ACCEPTED


async def test_the_right_password_of_a_disabled_account_is_no_guess(open_worker: Opening) -> None:
    async with open_worker(guesses=Guesses(failures_per_user=1)) as worker:
        account = await worker.add_user()
        await worker.provisioning.edit_user(account.name, is_enabled=False)
        for _ in range(3):
            assert await say(worker, plain(account.name, account.password)) == b"525 5.7.13 User account disabled\r\n"


async def test_who_stands_in_line_is_held_against_the_password_of_then(open_worker: Opening) -> None:
    async with open_worker(guesses=Guesses(failures_per_user=1)) as worker:
        account = await worker.add_user()
        with worker.house.throttle.attempt("127.0.0.1", account.name) as ahead:
            assert await ahead.admitted()
            old = asyncio.create_task(say(worker, plain(account.name, account.password)))
            await asyncio.sleep(0.1)
            assert not old.done()
            await worker.provisioning.reset_password(account.name)
            ahead.succeeded()
        assert await old == WRONG


async def test_an_attacker_elsewhere_never_locks_the_owner_out(worker: Worker, account: Account) -> None:
    for _ in range(5):
        assert await say(worker, plain(account.name, "guess"), "127.0.0.2") == WRONG
    assert (await say(worker, plain(account.name, account.password), "127.0.0.2")).startswith(b"454 ")
    assert await say(worker, plain(account.name, account.password), "127.0.0.1") == ACCEPTED


async def test_who_has_to_wait_gets_no_slow_hash_computed(open_worker: Opening) -> None:
    async with open_worker(rules={"failure_floor": 0.0}, guesses=Guesses(failures_per_user=1)) as worker:
        account = await worker.add_user()
        await worker.provisioning.import_user(account.owner_id, "brought", "a person's", None, None)
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await say(worker, plain("brought", "guess")) == WRONG
        slow = loop.time() - began
        began = loop.time()
        for _ in range(10):
            assert (await say(worker, plain("brought", "another guess"))).startswith(b"454 ")
        assert loop.time() - began < 5 * slow


async def test_each_failure_of_a_connection_is_answered_later_than_the_one_before(open_worker: Opening) -> None:
    async with open_worker(rules={"failure_floor": 0.05}, guesses=Guesses(failures_per_user=3)) as worker:
        account = await worker.add_user()
        wire, took, loop = await greeted(worker), [], asyncio.get_running_loop()
        for _ in range(4):
            began = loop.time()
            assert (await wire.ask(plain(account.name, "guess"))).startswith((b"535 ", b"454 "))
            took.append(loop.time() - began)
        for i in range(4):
            assert 0.05 * 2**i - 0.005 < took[i] < 0.05 * 2**i + 0.2


# -- what is said and kept of it ---------------------------------------------------------------------------------------------


async def test_octets_that_are_no_utf8_stand_for_nothing_but_themselves(worker: Worker, account: Account) -> None:
    await worker.provisioning.import_user(account.owner_id, "brought", "\ufffd\ufffd pass", None, None)
    assert await say(worker, plain("brought", b"\xff\xfe pass")) == WRONG
    assert await say(worker, plain("brought", b"\xed\xa0\x80 pass")) == WRONG  # a surrogate
    assert await say(worker, plain(b"brought\xff", "\ufffd\ufffd pass")) == WRONG
    assert await say(worker, plain("brought", "\ufffd\ufffd pass")) == ACCEPTED
    assert [line["user"] for line in worker.events("auth_refused")] == ["brought", "brought", "brought\\xff"]


async def test_a_text_is_compared_as_it_is_sent(worker: Worker, account: Account) -> None:
    await worker.provisioning.import_user(account.owner_id, "brought", "pa\u00e9ss", None, None)
    assert await say(worker, plain("brought", "pae\u0301ss")) == WRONG  # the same to the eye, and to NFKC
    assert await say(worker, plain("brought", "pa\u00e9ss\u00ad")) == WRONG  # mapped to nothing by SASLprep
    assert await say(worker, plain("brought", "pa\u00e9ss")) == ACCEPTED


@pytest.mark.parametrize(("identity", "answer"), [("{}", ACCEPTED), ("other", WRONG), ("{} ", WRONG), ("\xff", WRONG)])
async def test_nobody_acts_for_another(worker: Worker, account: Account, identity: str, answer: bytes) -> None:
    said = identity.format(account.name).encode("latin-1")
    assert await say(worker, plain(account.name, account.password, said)) == answer


async def test_login_takes_no_nul(worker: Worker, account: Account) -> None:
    for name, password in ((account.name, account.password + "\0"), (account.name + "\0", account.password)):
        wire = await greeted(worker)
        assert (await wire.ask(b"AUTH LOGIN " + base64.b64encode(name.encode()))).startswith(b"334 ")
        assert await wire.ask(base64.b64encode(password.encode())) == WRONG


async def test_no_secret_and_no_name_in_full_goes_on_record(worker: Worker, account: Account) -> None:
    name, password = "n" * 129 + "tail", "squeamish ossifrage"
    assert await say(worker, plain(name, password)) == WRONG
    assert await say(worker, plain(account.name, password)) == WRONG
    assert await say(worker, plain(account.name, account.password)) == ACCEPTED
    record = worker.log.read_text()
    assert "ossifrage" not in record and account.password not in record and "n" * 129 not in record
    assert base64.b64encode(password.encode()).decode()[:12] not in record
    assert worker.events("auth_refused")[0]["user"] == "n" * 128
