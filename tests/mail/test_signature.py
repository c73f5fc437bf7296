"""DKIM signatures: a verifier that is not ours finds every one of them good, and one over a changed message bad."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import time
from collections.abc import Callable
from functools import cache

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.loadkit.message import stuff
from relay.mail.field import unstuff
from relay.mail.signature import MAX_FIELDS, MAX_NAMES, MAX_SECTION, STRIDE, PrivateKey, TooLarge, Unsignable, hash_body, read_key, sign
from relay.mail.trace import Hop, prefix, read_header

KINDS = ("rsa", "ed25519")
HOP = Hop("client.example", "192.0.2.1", "relay.example", "ESMTPSA")
DATE = "Sat, 21 Nov 2026 10:00:00 +0000"
PLAIN = b"From: App <app@b.example>\r\nTo: c@d.example\r\nSubject: x\r\n\r\nSome text\r\n"


@cache
def key_of(kind: str) -> PrivateKey:
    return rsa.generate_private_key(65537, 2048) if kind == "rsa" else ed25519.Ed25519PrivateKey.generate()


def pem_of(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@cache
def resolver() -> Callable[..., bytes]:
    """The DNS as a verifier sees it."""
    keys = {kind: key_of(kind).public_key() for kind in KINDS}
    rsa_key = keys["rsa"].public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    records = {
        b"rsa._domainkey.b.example.": b"v=DKIM1; k=rsa; p=" + base64.b64encode(rsa_key),
        b"ed25519._domainkey.b.example.": b"v=DKIM1; k=ed25519; p="
        + base64.b64encode(keys["ed25519"].public_bytes(Encoding.Raw, PublicFormat.Raw)),
    }
    return lambda name, timeout=5: records[name]


def sent(message: bytes, kind: str) -> bytes:
    """A message as it goes out, without its stuffed dots: what the relay adds, its signature first."""
    wire = stuff(message)
    before = prefix(read_header(wire, b"relay.example"), HOP, "id1", DATE, "c@d.example")
    return sign(before, wire, "b.example", kind, key_of(kind), int(time.time())) + before + message


def is_good(message: bytes) -> bool:
    return bool(dkim.verify(message, dnsfunc=resolver()))


# -- what a verifier finds ---------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    [
        b"From",
        b"FROM",
        b"To",
        b"Cc",
        b"Subject",
        b"Date",
        b"Message-ID",
        b"Reply-To",
        b"List-Unsubscribe",
        b"Content-Type",
        b"X-Other",
        b".X",
    ]
)
WHITE = st.sampled_from([b" ", b"  ", b"\t", b" \t ", b"\r\n ", b"\r\n\t \r\n\t", b""])
WORDS = st.lists(st.tuples(WHITE, st.sampled_from([b"a", b"b@c.example", b"=?utf-8?q?x?=", b".", b":", b";", b"\xc3\xbc"])), max_size=5)
FIELDS = st.tuples(NAMES, WORDS, WHITE).map(lambda one: one[0] + b":" + b"".join(a + b for a, b in one[1]) + one[2].rstrip() + b"x\r\n")
HEADS = st.lists(FIELDS, min_size=1, max_size=8).map(lambda fields: b"From: a@b.example\r\n" + b"".join(fields))
BODIES = st.lists(st.sampled_from([b"\r\n", b" ", b"\t", b".", b"a", b"  b ", b"..", b"\xff", b"\0", b"\r\n."]), max_size=40).map(b"".join)


@pytest.mark.parametrize("kind", KINDS)
@given(head=HEADS, body=BODIES)
@example(head=b"From: a@b.example\r\n", body=b"")
@example(head=b"From: a@b.example\r\n", body=b" \t\r\n\r\n \r\n")
@example(head=b"From: a@b.example\r\n", body=b".\r\n..\r\n")
@settings(max_examples=60, deadline=None)
def test_whatever_its_header_and_its_body_a_signature_is_found_good(kind: str, head: bytes, body: bytes) -> None:
    assert is_good(sent(head + b"\r\n" + body + b"\r\n", kind))


@pytest.mark.parametrize(
    "message", [b"", b"\r\n", b"no header\r\n", b"..\r\n", b"From: a@b.example\r\n", b"\r\nFrom: a@b.example\r\n", b" : x\r\n\r\n"]
)
def test_a_message_without_a_header_or_without_a_body_is_signed_too(message: bytes) -> None:
    """What has no From is signed all the same: none can be added."""
    out = sent(message, "rsa")
    assert (b"\th=from:from:" in out) is message.startswith(b"From")
    assert is_good(out)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_changed_on_the_way_is_found_out(kind: str) -> None:
    out = sent(PLAIN, kind)
    assert is_good(out)
    assert is_good(out.replace(b"Some text", b"Some  \ttext \r\n\r\n").replace(b"Subject: x", b"SUBJECT:\r\n  x "))
    for old, new in [
        (b"Some text", b"Other text"), (b"Some text", b"Sometext"), (b"Subject: x", b"Subject: y"), (b"To: c@", b"To: x@"),
        (b"From: App", b"From: evil@b.example\r\nFrom: App"), (b"Subject: x", b"Subject: x\r\nFrom: evil@b.example"),
        (b"Some text\r\n", b"Some text\r\nand more\r\n"), (f"Date: {DATE}".encode(), b"Date: Sun, 22 Nov 2026 10:00:00 +0000"),
        (b"Message-ID: <id1@", b"Message-ID: <id2@"), (b"d=b.example", b"d=c.example"), (b"c=relaxed/relaxed", b"c=relaxed/simple"),
    ]:  # fmt: skip
        assert old in out
        changed = out.replace(old, new)
        try:
            assert not is_good(changed), new
        except KeyError:
            assert new == b"d=c.example"  # whose key nobody has


def test_of_fields_with_one_name_each_is_signed_and_the_order_counts() -> None:
    out = sent(b"From: a@b.example\r\nTo: one@d.example\r\nTo: two@d.example\r\n\r\n", "ed25519")
    assert b"h=from:from:to:to:date:message-id;" in out
    assert is_good(out)
    assert not is_good(out.replace(b"To: one@d.example\r\nTo: two@d.example", b"To: two@d.example\r\nTo: one@d.example"))


def test_a_signature_has_short_lines_and_tells_its_time_and_no_length() -> None:
    fields = b"".join(b"List-%b: x\r\n" % name for name in (b"Id", b"Help", b"Post", b"Owner", b"Archive", b"Subscribe", b"Unsubscribe"))
    field = sent(b"From: a@b.example\r\n" + fields + b"\r\n", "rsa").partition(b"Received:")[0]
    assert all(len(line) <= 78 for line in field.split(b"\r\n"))
    assert b" t=1" in field and b"l=" not in field.replace(b"rel", b"")
    assert field.endswith(b"\r\n") and not field.endswith(b"\r\n\r\n")


# -- what is too much ----------------------------------------------------------------------------------------------------------

AUTHOR = b"From: a@b.example\r\n"
LARGEST = [
    (b"X: y\r\n" * (MAX_FIELDS - 1), b"X: y\r\n"),
    (b"To: c@d.example\r\n" * (MAX_NAMES - 4), b"To: c@d.example\r\n"),  # beside From, twice, and the relay's Date and Message-ID
    (b"X: " + b"y" * (MAX_SECTION - len(AUTHOR) - 7) + b"\r\n", b"X: y\r\n"),
]


@pytest.mark.parametrize(("fields", "one_more"), LARGEST, ids=["fields", "signed fields", "octets"])
def test_a_header_section_is_signed_up_to_a_size(fields: bytes, one_more: bytes) -> None:
    out = sent(AUTHOR + fields + b"\r\nx\r\n", "ed25519")
    assert is_good(out) and len(out.partition(b"Received:")[0]) < 8192
    assert is_good(sent(b"\r\n" + fields + one_more, "ed25519"))  # that is a body
    for body in (b"\r\nx\r\n", b""):
        with pytest.raises(TooLarge):
            sent(AUTHOR + fields + one_more + body, "ed25519")


@pytest.mark.parametrize(
    "line", [b"To:\r\n", b"a:\r\n", b"To:" + b" \t" * 400 + b"\r\n", b"To: " + b"x " * 400 + b"\r\n", b"To:x\r\n" + b" x\r\n" * 300]
)
@pytest.mark.parametrize("size", [MAX_SECTION - 100, 26_000_000])
def test_the_largest_header_section_holds_up_nobody(line: bytes, size: int) -> None:
    wire = AUTHOR + line * (size // len(line)) + b"\r\nx\r\n"
    began = time.process_time()
    with contextlib.suppress(TooLarge):
        sign(b"", wire, "b.example", "ed25519", key_of("ed25519"), 1)
    assert time.process_time() - began < 0.2  # it takes 5 ms


# -- the body ----------------------------------------------------------------------------------------------------------------

PIECES = st.sampled_from([b"\r\n", b" ", b"\t", b".", b"a", b"\r\n.", b" \r\n", b"\t\r\n\r\n", b"text "])
HEAD = b"From: x\r\n\r\n"


def relaxed(body: bytes) -> bytes:
    """RFC 6376 section 3.4.4, line by line."""
    lines = [re.sub(rb"[ \t]+", b" ", line).rstrip(b" ") for line in body.split(b"\r\n")]
    text = b"\r\n".join(lines).rstrip(b"\r\n")
    return text + b"\r\n" if text else b""


@given(pieces=st.lists(PIECES, max_size=14), stride=st.integers(1, 9))
@example(pieces=[b"\r\n", b".", b"\r\n", b"."], stride=8)
@example(pieces=[b"a", b"\r\n.", b" "], stride=9)
@example(pieces=[b".", b" "], stride=1)
@settings(max_examples=2000, deadline=None)
def test_a_body_is_the_same_to_a_verifier_wherever_a_stride_ends(pieces: list[bytes], stride: int) -> None:
    body = b"".join(pieces) + b"\r\n"
    assert hash_body(HEAD + stuff(body), len(HEAD), stride) == hashlib.sha256(relaxed(body)).digest()
    # What was not stuffed as it ought to be is read as every server reads it; what would end a message cannot stand in one.
    if b"\r\n.\r\n" not in HEAD + body:
        assert hash_body(HEAD + body, len(HEAD), stride) == hashlib.sha256(relaxed(unstuff(HEAD + body)[len(HEAD) :])).digest()


@pytest.mark.parametrize("line", [b"a", b" ", b"\t", b"\r\n", b".\r\n", b"a \r\n", b"..\r\n"])
@pytest.mark.parametrize("more", [-3, -2, -1, 0, 1, 2])
def test_a_body_of_several_strides_is_too(line: bytes, more: int) -> None:
    body = b"a" + line * ((2 * STRIDE + more) // len(line)) + b" .\r\n"
    assert hash_body(HEAD + stuff(body), len(HEAD)) == hashlib.sha256(relaxed(body)).digest()


def test_the_longest_message_holds_up_nobody() -> None:
    """No stride takes longer than any other, whatever is in it: white space in all of it is the worst."""
    for line in (b" " * 76 + b"\r\n", b" \t" * 500 + b"\r\n", b"\r\n"):
        began = time.process_time()
        hash_body(line * (2_097_152 // len(line)), 0)
        assert time.process_time() - began < 1.0  # it takes 20 ms


# -- keys --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_is_read_and_kept(kind: str) -> None:
    pem = pem_of(key_of(kind))
    assert read_key(pem) is read_key(pem)


@pytest.mark.parametrize("pem", ["", "no key", pem_of(ec.generate_private_key(ec.SECP256R1())), pem_of(key_of("rsa"))[:-200]])
def test_what_cannot_sign_is_said_so_without_a_word_of_it(pem: str) -> None:
    with pytest.raises(Unsignable) as error:
        read_key(pem)
    assert len(pem) < 60 or pem[30:60] not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize(("domain", "selector"), [("b.example;", "one"), ("b.example", "one\r\nX: y"), ("", "one"), ("b.example", "")])
def test_a_name_that_would_break_out_of_the_field_is_not_written(domain: str, selector: str) -> None:
    with pytest.raises(Unsignable):
        sign(b"", PLAIN, domain, selector, key_of("ed25519"), 1)
