"""What an owner's message may cost the others: a header section is signed and judged within bounds, or refused."""

from __future__ import annotations

import asyncio
import time
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from relay.accounts.setting import Outfit, Policy, Signer
from relay.mail.author import MAX_MAILBOXES
from relay.mail.signature import MAX_FIELDS, MAX_NAMES, MAX_SECTION
from relay.mail.trace import MAX_HEADER
from relay.session.sender import NO_AUTHOR, NOT_ITS_AUTHOR, authors_of, judge
from tests.session.conftest import Account, Wire, Worker

TOO_LARGE = b"552 5.3.4 The header section is too large to be signed, it may have 64 KB and 1000 fields, 200 of them signed\r\n"
FROM = b"From: app@example.com\r\n"


@cache
def pem() -> str:
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


async def wait_beside(wire: Wire, work: Any) -> tuple[float, bytes]:
    """How long another client's NOOP took at worst while something was under way, and what came of that."""
    task, worst = asyncio.create_task(work), 0.0
    while not task.done():
        began = time.monotonic()
        assert (await wire.ask(b"NOOP")).startswith(b"250")
        worst = max(worst, time.monotonic() - began)
        await asyncio.sleep(0.002)  # or a thousand commands without a message may end it
    return worst, task.result()


# -- signatures ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [b"To:\r\n" * 104_000, b"X: y\r\n" * MAX_FIELDS, b"X: " + b"y" * MAX_SECTION + b"\r\n", b"To: c@d.example\r\n" * 200],
    ids=["half a megabyte", "fields", "octets", "signed fields"],
)
async def test_a_header_section_that_is_too_large_to_be_signed_is_refused_and_holds_up_nobody(
    worker: Worker, account: Account, fields: bytes
) -> None:
    await worker.arranging.set_signer(account.owner_id, Signer("example.com", "one", pem()))
    bad, good = await worker.enter(account), await worker.enter(await worker.add_user())
    worst, reply = await wait_beside(good, bad.offer(FROM + fields + b"\r\nx\r\n"))
    assert reply == TOO_LARGE
    assert worst < 0.3  # what it was before: 0.7 s
    assert not worker.sink.messages
    assert worker.events("refused")[-1]["reason"] == "header"
    assert await worker.account_of(account) == (0, 0)
    assert await worker.ledger.open_holds(account.name) == {}
    assert (await bad.offer(FROM + b"X: y\r\n" * (MAX_FIELDS - 1) + b"\r\nx\r\n")).startswith(b"250 ")


async def test_what_has_no_signer_or_no_header_section_may_be_as_long_as_it_is(worker: Worker, account: Account) -> None:
    wire = await worker.enter(account)
    fields = b"X: y\r\n" * 20_000
    assert (await wire.offer(FROM + fields)).startswith(b"250 ")
    await worker.arranging.set_signer(account.owner_id, Signer("other.example", "one", pem()))
    assert (await wire.offer(FROM + fields)).startswith(b"250 ")
    await worker.arranging.set_signer(account.owner_id, Signer("example.com", "one", pem()))
    assert (await wire.offer(b"no field\r\n" + fields)).startswith(b"250 ")
    assert (await wire.offer(b"\r\n" + fields)).startswith(b"250 ")


async def test_whose_header_section_is_too_long_to_tell_its_author_does_not_go_unsigned(worker: Worker, account: Account) -> None:
    await worker.arranging.set_signer(account.owner_id, Signer("other.example", "one", pem()))
    wire = await worker.enter(account)
    assert await wire.offer(b"X: " + b"y" * MAX_HEADER + b"\r\nFrom: a@other.example\r\n\r\n") == TOO_LARGE


def test_the_reply_names_the_bounds_there_are() -> None:
    assert f"{MAX_SECTION // 1024} KB and {MAX_FIELDS} fields, {MAX_NAMES} of them".encode() in TOO_LARGE


# -- authors -------------------------------------------------------------------------------------------------------------------


async def test_many_authors_are_judged_by_many_addresses_in_no_time(worker: Worker, account: Account) -> None:
    allowed = ("app@example.com", *(f"a{i}@b.example" for i in range(6000)))
    await worker.arranging.set_policy(account.owner_id, Policy("addresses", allowed, True))
    bad, good = await worker.enter(account), await worker.enter(await worker.add_user())
    last = allowed[-1].encode()
    for count, said in ((13_000, bytes(NO_AUTHOR)), (MAX_MAILBOXES + 1, bytes(NO_AUTHOR)), (MAX_MAILBOXES, b"250 ")):
        worst, reply = await wait_beside(good, bad.offer(b"From: " + b",\r\n ".join([last] * count) + b"\r\n\r\nx\r\n"))
        assert reply.startswith(said), count
        assert worst < 0.3  # what it was before: 1.7 s


def test_a_policy_answers_as_it_was_set_and_is_searched_in_no_time() -> None:
    allowed = tuple(f"a{i}@b.example" for i in range(100_000))
    policy = Policy("addresses", allowed)
    assert policy.allowed is allowed
    assert policy == Policy("addresses", allowed) != Policy("addresses", allowed[:-1])
    assert hash(policy) == hash(Policy("addresses", allowed))
    outfit = Outfit(1, policy=policy)
    began = time.process_time()
    assert all(map(outfit.allows, allowed[-1000:]))
    assert time.process_time() - began < 0.5  # in the tuple it took seconds


def test_every_author_is_judged_whether_it_is_the_first_or_the_last() -> None:
    outfit = Outfit(1, policy=Policy("domains", ("b.example",), True))
    assert judge(outfit, ("a@b.example", "a@b.example", "c@B.example")) is None
    assert judge(outfit, ("a@b.example", "a@b.example", "c@d.example")) == NOT_ITS_AUTHOR
    assert judge(outfit, None) == NO_AUTHOR


# -- lines that are nothing -----------------------------------------------------------------------------------------------------

ODD = {
    "fold before the colon": b"Subject: x\r\nFrom\r\n : ceo@bank.example\r\n" + FROM,
    "NUL in a name": b"Subject: x\r\nFrom\0: ceo@bank.example\r\n" + FROM,
    "no field": b"Subject: x\r\nnot a field\r\n" + FROM,
    "no name": b"Subject: x\r\n: y\r\n" + FROM,
    "8-bit name": b"Subject: x\r\n\xff: y\r\n" + FROM,
    "only a dot": b"Subject: x\r\n..\r\n" + FROM,
    "stuffed": b"Subject: x\r\n.From\0: y\r\n" + FROM,
    "last": FROM + b"not a field\r\n",
    "first": b"not a field\r\n" + FROM,
    "first is folded": b" x: y\r\n" + FROM,
    "first is folded behind a dot": b". : y\r\n" + FROM,
}


@pytest.mark.parametrize("header", ODD.values(), ids=ODD)
async def test_where_from_is_checked_a_header_section_is_fields_and_nothing_else(worker: Worker, account: Account, header: bytes) -> None:
    """What one program takes for a field and the next passes over, or takes for the end, has two meanings."""
    wire = await worker.enter(account)
    await worker.arranging.set_policy(account.owner_id, Policy("domains", ("example.com",), False))
    assert (await wire.offer(header + b"\r\nx\r\n")).startswith(b"250 ")
    await worker.arranging.set_policy(account.owner_id, Policy("domains", ("example.com",), True))
    assert await wire.offer(header + b"\r\nx\r\n") == bytes(NO_AUTHOR)
    assert await wire.offer(header) == bytes(NO_AUTHOR)
    assert (await wire.offer(b"..X: y\r\nSubject :\r\n x\r\n\t y\r\n" + FROM)).startswith(b"250 ")


def test_an_author_is_read_beside_odd_lines_for_the_signature_and_not_for_the_check() -> None:
    wire = FROM + b"odd\r\n\r\n"
    assert authors_of(wire, has_header=True) == ("app@example.com",)
    assert authors_of(wire, has_header=True, is_strict=True) is None


@pytest.mark.parametrize(
    "line", [b"a:\r\n", b"From:\r\n", b"a:\r\n \r\n", b"x\r\n", b"a" * 70 + b":\r\n", b" ", b"a", b"a:\r\n" + b" " * 70]
)
def test_however_a_header_section_is_made_its_authors_are_read_in_no_time(line: bytes) -> None:
    wire = b"a:" + line * ((MAX_HEADER - 10) // len(line)) + b"\r\n\r\n"
    began = time.process_time()
    assert authors_of(wire, has_header=True, is_strict=True) is None
    assert time.process_time() - began < 0.5  # 8 ms at worst
