"""What an owner has set, seen from the session: it holds for the next message, on connections already open."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from relay.accounts import record
from relay.accounts.arranging import Arranging
from relay.accounts.directory import Directory, Look
from relay.accounts.owner import owner_key
from relay.accounts.secrets import Key
from relay.accounts.setting import Outfit, Policy, Signer
from relay.loadkit.sink import Sink
from relay.mail.trace import read_header
from relay.session.outgoing import LARGE, finish
from relay.store.client import Store, StoreUnavailable
from relay.upstream.smarthost import Message
from tests.session.conftest import Account, Opening, Worker
from tests.session.test_spooling import entries

KEY = Key(bytes(range(32)))
OWN = b"app@example.com"
"""Whom the tests' client sends as."""


@asynccontextmanager
async def another_sink(**options: Any) -> AsyncIterator[Sink]:
    """A smarthost beside the relay's own."""
    sink = Sink("127.0.0.1", 0, **{"keep": True, **options})
    await sink.start()
    try:
        yield sink
    finally:
        await sink.stop()


# -- routes --------------------------------------------------------------------------------------------------------------------


async def test_a_setting_holds_for_the_next_message_and_for_its_owner_and_its_domain_alone(worker: Worker, account: Account) -> None:
    stranger = await worker.add_user()
    wire, other = await worker.enter(account), await worker.enter(stranger)

    async def places() -> tuple[int, int]:
        for one in (wire, other):
            assert (await one.offer(b"Subject: x\r\n")).startswith(b"250 2.0.0 ")
        return len(worker.sink.messages), len(sink.messages)

    async with another_sink() as sink:
        assert await places() == (2, 0)
        await worker.put_setting(account, "other.example", sink.port)
        assert await places() == (4, 0)
        await worker.put_setting(account, "", sink.port)
        assert await places() == (5, 1)
        await worker.put_setting(account, "Example.COM", worker.sink.port)
        assert await places() == (7, 1)
        await worker.arranging.remove_setting(account.owner_id, "example.com")
        assert await places() == (8, 2)
        await worker.arranging.remove_setting(account.owner_id, "")
        assert await places() == (10, 2)


async def test_a_setting_that_is_changed_again_and_again_is_never_a_message_late(worker: Worker, account: Account) -> None:
    """Every message whose DATA comes after the answer to a change goes by it, whoever else is sending."""
    wire = await worker.enter(account)
    others = [await worker.enter(account) for _ in range(4)]
    is_over = False

    async def send(other: Any) -> None:
        while not is_over:
            assert (await other.offer(b"Subject: noise\r\n")).startswith(b"250 2.0.0 ")

    async with another_sink() as sink:
        sinks = [worker.sink, sink]
        tasks = [asyncio.create_task(send(other)) for other in others]
        for turn in range(60):
            await worker.put_setting(account, "example.com", sinks[turn % 2].port)
            mark = b"Subject: turn %d\r\n" % turn
            assert (await wire.offer(mark)).startswith(b"250 2.0.0 ")
            assert any(mark in (message.content or b"") for message in sinks[turn % 2].messages)
        is_over = True
        await asyncio.gather(*tasks)


async def test_what_is_asked_of_an_owner_costs_no_round_trip(worker: Worker, account: Account, store: Store) -> None:
    """What leaves in one write is read by the store in one go: the reserve with the look, then the settle."""

    async def reads() -> int:
        statistics: bytes = await store.command("INFO", "stats")
        return int(next(line for line in statistics.split(b"\r\n") if line.startswith(b"total_reads_processed:")).partition(b":")[2])

    wire = await worker.enter(account)
    assert (await wire.offer(b"Subject: x\r\n")).startswith(b"250 ")
    before = await reads()
    for _ in range(50):
        assert (await wire.offer(b"Subject: x\r\n")).startswith(b"250 ")
    assert await reads() - before < 120


async def test_mail_whose_setting_names_no_smarthost_is_kept_under_the_settings_id(open_worker: Opening) -> None:
    async with open_worker(is_spooling=True) as worker:
        account = await worker.add_user()
        id = await worker.put_setting(account, "example.com")
        wire = await worker.enter(account)
        assert (await wire.offer(b"Subject: x\r\n")).endswith(b" Queued\r\n")
        (entry,) = await entries(worker)
        assert entry.route == id
        assert entry.standings[0].reply == "451 4.3.5 No usable smarthost is set"
        assert (await worker.await_event("upstream_misconfigured"))["cause"] == "451 4.3.5 No usable smarthost is set"
        assert not worker.sink.messages


async def test_mail_that_is_spooled_says_by_which_setting_it_was_taken(open_worker: Opening) -> None:
    async with open_worker(is_spooling=True) as worker, another_sink() as sink:
        account = await worker.add_user()
        wire = await worker.enter(account)
        worker.script('rcpt reply="451 4.2.1 not now"')
        assert (await wire.offer(b"Subject: x\r\n")).endswith(b" Queued\r\n")
        id = await worker.put_setting(account, "example.com", sink.port)
        await sink.stop()
        assert (await wire.offer(b"Subject: x\r\n")).endswith(b" Queued\r\n")
        assert sorted(entry.route for entry in await entries(worker)) == ["", id]


# -- what cannot be told -------------------------------------------------------------------------------------------------------


async def test_settings_that_cannot_be_read_stop_their_owners_mail_for_now_and_nobody_elses(
    worker: Worker, account: Account, store: Store
) -> None:
    stranger = Arranging(store, Key(bytes(32)), Directory(store, Key(bytes(32))), worker.house.journal)
    wire, other = await worker.enter(account), await worker.enter(await worker.add_user())
    await stranger.set_policy(account.owner_id, Policy("any"))
    assert await wire.offer(b"") == b"451 4.3.5 The settings of this account cannot be read, try again later\r\n"
    assert (await other.offer(b"")).startswith(b"250 ")
    alarm = await worker.await_event("setting_unreadable")
    assert alarm["alarm"] and alarm["owner"] == account.owner_id
    assert worker.events("refused")[-1]["reason"] == "setting"
    assert await worker.account_of(account) == (0, 1)
    await worker.arranging.set_policy(account.owner_id, Policy("any"))
    assert (await wire.offer(b"")).startswith(b"250 ")


async def test_who_logs_in_while_the_settings_cannot_be_read_is_let_in(worker: Worker, account: Account, store: Store) -> None:
    stranger = Arranging(store, Key(bytes(32)), Directory(store, Key(bytes(32))), worker.house.journal)
    await stranger.set_policy(account.owner_id, Policy("any"))
    wire = await worker.enter(account)
    assert (await wire.offer(b"")).startswith(b"451 4.3.5 ")


class Unanswered(Directory):
    """A directory that remembers what another does, and whose every question is lost."""

    def __init__(self, before: Directory) -> None:
        self._before = before

    def look(self, owner_id: str) -> Look:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_exception(StoreUnavailable("no answer"))
        return Look(self, owner_id, future, 0)

    def known(self, owner_id: str) -> Outfit | None:
        return self._before.known(owner_id)


async def test_an_owner_of_whom_the_store_says_nothing_holds_nothing(worker: Worker, account: Account) -> None:
    wire = await worker.enter(account)
    directory, worker.house.directory = worker.house.directory, Unanswered(worker.house.directory)
    assert await wire.offer(b"") == b"451 4.3.0 Temporary backend failure, try again later\r\n"
    assert await worker.account_of(account) == (0, 0)
    assert worker.events("refused")[-1]["reason"] == "store"
    worker.house.directory = directory
    assert (await wire.offer(b"")).startswith(b"250 ")


async def test_what_is_remembered_refuses_nobody_for_good(worker: Worker, account: Account) -> None:
    await worker.arranging.set_policy(account.owner_id, Policy("domains", ("b.example",)))
    wire = await worker.enter(account)
    worker.house.directory = Unanswered(worker.house.directory)
    assert (await wire.ask(b"MAIL FROM:<%b>" % OWN)).startswith(b"451 4.3.0 ")
    assert (await wire.ask(b"MAIL FROM:<app@b.example>")).startswith(b"250 ")


# -- who may send --------------------------------------------------------------------------------------------------------------


async def test_a_refused_sender_is_on_record_holds_nothing_and_ends_a_connection_that_does_not_stop(open_worker: Opening) -> None:
    async with open_worker(rules={"max_refusals": 3}) as worker:
        account = await worker.add_user()
        wire = await worker.enter(account)
        for turn in range(3):
            # Each policy is news at DATA: at MAIL the one before is known, which is asked about again where it is against the sender.
            await worker.arranging.set_policy(account.owner_id, Policy("any"))
            assert (await wire.ask(b"MAIL FROM:<%b>" % OWN)).startswith(b"250 ")
            assert (await wire.ask(b"RCPT TO:<c@d.example>")).startswith(b"250 ")
            await worker.arranging.set_policy(account.owner_id, Policy("domains", (f"b{turn}.example",)))
            assert await wire.ask(b"DATA") == b"550 5.7.1 Sender address not allowed for this account\r\n"
        assert (await wire.ask(b"NOOP")).startswith(b"421 4.7.0 Too many refused messages")
        assert await worker.account_of(account) == (0, 0)
        refused = worker.events("refused")
        assert [event["reason"] for event in refused] == ["sender"] * 3
        assert await worker.ledger.open_holds(account.name) == {}


async def test_the_first_mail_on_a_connection_is_judged(worker: Worker, account: Account) -> None:
    """What was never asked of an owner is asked when its user logs in."""
    await worker.arranging.set_policy(account.owner_id, Policy("domains", ("b.example",)))
    wire = await worker.enter(account)
    assert (await wire.ask(b"MAIL FROM:<%b>" % OWN)).startswith(b"550 5.7.1 Sender ")
    assert worker.events("refused")[-1]["reason"] == "sender"


# -- signatures ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, LARGE + 1000])
async def test_a_message_is_signed_for_the_domain_of_its_author_and_the_spool_keeps_the_signature(open_worker: Opening, size: int) -> None:
    key = generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    published = base64.b64encode(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    records = {b"one._domainkey.author.example.": b"v=DKIM1; k=rsa; p=" + published}
    async with open_worker(is_spooling=True) as worker:
        account = await worker.add_user()
        await worker.arranging.set_signer(account.owner_id, Signer("Author.example", "one", pem))
        await worker.arranging.set_signer(account.owner_id, Signer("example.com", "two", pem))
        wire = await worker.enter(account)
        message = b"From: a@author.example\r\nSubject:  x \r\n\r\n" + b"..dots  and\twords\r\n" * (size // 19)
        assert (await wire.offer(message)).startswith(b"250 ")
        content = worker.sink.messages[-1].content
        assert content is not None and content.endswith(message.replace(b"\r\n.", b"\r\n"))
        assert content.startswith(b"DKIM-Signature: ")
        assert dkim.verify(content, dnsfunc=lambda name, timeout=5: records[name])
        worker.script('rcpt reply="451 4.2.1 not now"')
        assert (await wire.offer(message)).endswith(b" Queued\r\n")
        (entry,) = await entries(worker)
        assert worker.house.spool is not None
        prefix, kept = await worker.house.spool.content(entry.id)
        assert dkim.verify(prefix + kept.replace(b"\r\n.", b"\r\n"), dnsfunc=lambda name, timeout=5: records[name])


async def test_what_cannot_be_signed_is_refused_for_now_and_does_not_go_unsigned(worker: Worker, account: Account, store: Store) -> None:
    broken = record.seal_signer(KEY, account.owner_id, Signer("example.com", "one", "very secret"))
    await store.command("HSET", f"{owner_key(account.owner_id)}:{record.SIGNERS}", "example.com", broken)
    await worker.arranging.set_policy(account.owner_id, Policy("any"))  # which makes the version another
    wire = await worker.enter(account)
    assert await wire.offer(b"Subject: x\r\n") == b"451 4.3.5 The message could not be signed, try again later\r\n"
    alarm = await worker.await_event("signature_failed")
    assert (alarm["owner"], alarm["domain"]) == (account.owner_id, "example.com")
    assert "very secret" not in worker.log.read_text()
    assert not worker.sink.messages
    assert await worker.account_of(account) == (0, 0)
    await worker.arranging.remove_signer(account.owner_id, "example.com")
    assert (await wire.offer(b"Subject: x\r\n")).startswith(b"250 ")


async def test_signing_a_long_message_lets_others_go_on(worker: Worker, account: Account) -> None:
    key = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    outfit = Outfit(1, signers={"example.com": Signer("example.com", "one", key)})
    user = await worker.house.registry.find_user(account.name)
    assert user is not None
    message = Message(b"Received: x\r\n", b"Subject: x\r\n\r\n" + b" x" * 10_000_000 + b"\r\n")
    header = read_header(message.wire, b"relay.example")
    began = latest = time.monotonic()
    signing = asyncio.create_task(finish(worker.house, "id", user, 1, outfit, "a@example.com", message, header))
    worst, turns = 0.0, 0
    while not signing.done():
        await asyncio.sleep(0)
        now = time.monotonic()
        worst, latest, turns = max(worst, now - latest), now, turns + 1
    signed = await signing
    assert isinstance(signed, Message) and signed.prefix.startswith(b"DKIM-Signature: ")
    assert turns > 5 and worst < max(0.1, (latest - began) / 2)
