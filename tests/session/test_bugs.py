"""What a client hears of an exception that nobody expected: the promises about bugs of `connection` and `protocol`."""

from __future__ import annotations

import gc

from relay.accounts.directory import Directory
from relay.accounts.setting import Outfit
from relay.accounts.throttle import Attempt, Throttle
from relay.mail.envelope import Envelope
from relay.session.capture import Capture
from relay.store.client import Store
from relay.upstream.route import Route
from relay.upstream.smarthost import Message
from relay.upstream.terms import Attempt as Forwarded
from relay.upstream.terms import Terms
from tests.session.conftest import Account, Guesses, Worker

CLOSING = b"421 4.3.0 Internal error, closing\r\n"


class BrokenThrottle(Throttle):
    """One with a bug."""

    def attempt(self, address: str, name: str) -> Attempt:
        """Fail."""
        raise ZeroDivisionError("very secret")


async def test_a_bug_in_a_command_ends_its_connection_with_421_and_no_other(worker: Worker, account: Account, store: Store) -> None:
    other = await worker.enter(account)
    wire = await worker.connect()
    await wire.reply()
    await wire.ask(b"EHLO client.example")
    throttle, worker.house.throttle = worker.house.throttle, BrokenThrottle(store, Guesses())
    assert await wire.ask(b"AUTH PLAIN " + account.plain) == CLOSING
    assert await wire.is_closed()
    assert "very secret" in (await worker.await_event("bug"))["traceback"]
    worker.house.throttle = throttle
    assert (await other.offer(b"Subject: x\r\n")).startswith(b"250 ")


class BrokenDirectory(Directory):
    """Another."""

    def known(self, owner_id: str) -> Outfit | None:
        """Fail."""
        raise ZeroDivisionError("very secret")


async def test_a_bug_in_a_command_that_waits_for_nothing_ends_its_connection_alike(worker: Worker, account: Account) -> None:
    wire = await worker.enter(account)
    worker.house.directory = BrokenDirectory(worker.house.registry._store, worker.house.registry._key)
    await wire.send(b"NOOP", b"MAIL FROM:<a@b.example>", b"NOOP")
    assert await wire.reply() == b"250 2.0.0 OK\r\n"
    assert await wire.reply() == CLOSING
    assert await wire.is_closed()
    await worker.await_event("bug")
    await worker.await_connections(0)


async def test_an_idle_connection_holds_nothing_of_its_last_message(worker: Worker, account: Account) -> None:
    wire = await worker.enter(account)
    assert (await wire.offer(b"Subject: x\r\n")).startswith(b"250 ")
    assert await wire.ask(b"NOOP") == b"250 2.0.0 OK\r\n"
    assert not [found for found in gc.get_objects() if isinstance(found, Capture)]


async def test_a_bug_in_a_message_of_chunks_ends_its_connection_for_what_follows_may_be_octets_of_a_chunk(
    worker: Worker, account: Account
) -> None:
    async def broken(route: Route, user: str, envelope: Envelope, message: Message, terms: Terms) -> Forwarded:
        raise ZeroDivisionError("very secret")

    worker.house.forward = broken
    wire = await worker.enter(account)
    await wire.send(b"MAIL FROM:<a@b.example>", b"RCPT TO:<c@d.example>", b"BDAT 6 LAST", b"QUIT", b"NOOP")
    assert [(await wire.reply())[:4] for _ in range(2)] == [b"250 "] * 2
    assert await wire.reply() == CLOSING
    assert await wire.is_closed()
    assert await worker.account_of(account) == (0, 0)
