"""Whatever a client or a smarthost says, a report keeps its form: no extra field, no extra part, no line that breaks the wire."""

from __future__ import annotations

import re

from hypothesis import assume, given
from hypothesis import strategies as st

from relay.mail.dsn import Report, compose
from relay.mail.envelope import Envelope, Recipient
from tests.mail.test_dsn import parse, returned

ANY = (
    st.text(max_size=60) | st.text('\r\n\t .:;-=_<>()"\\\0é\u2028', max_size=60) | st.binary(max_size=40).map(lambda b: b.decode("latin-1"))
)
LONG = ANY | ANY.map(lambda text: text * 60)
EVIL = st.sampled_from(["\r\nBcc: x@y", "\r\n\r\n--=_report1_1--\r\n", "x\r\n.\r\nMAIL FROM:<>", "+0D+0AAction:+20delivered", "x" * 2000])
SAID = LONG | EVIL
ORCPT = st.tuples(SAID, SAID).map(";".join)

FIELDS = {
    "original-envelope-id", "reporting-mta", "arrival-date", "original-recipient", "final-recipient", "action", "status", "remote-mta",
    "diagnostic-code", "last-attempt-date",
}  # fmt: skip
HEAD = ["Date", "From", "To", "Subject", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"]


@given(st.lists(st.tuples(SAID, ORCPT, SAID, SAID), min_size=1, max_size=3), SAID, SAID, SAID, SAID)
def test_what_others_say_stays_in_the_field_that_quotes_it(
    said: list[tuple[str, str, str, str]], sender: str, envid: str, origin: str, hostname: str
) -> None:
    recipients = [Recipient(address, orcpt=orcpt) for address, orcpt, _, _ in said]
    reports = [Report(one, "failed", "5.0.0", words[2], words[3], 1.0) for one, words in zip(recipients, said, strict=True)]
    envelope = Envelope(sender, tuple(recipients), envid=envid)
    notification = compose(
        envelope, reports, id="report1", origin=origin, hostname=hostname, arrived=0.0, date=2.0, prefix=b"", wire=b"A: b\r\n\r\nc\r\n"
    )
    wire = notification.wire
    assert notification.is_8bit == (not wire.isascii())
    assert wire.isascii() or not sender.isascii()  # the only one that may be written to in UTF-8
    check_wire(wire)
    assert [letter for letter in wire.decode() if not letter.isprintable() and letter not in "\r\n\t"] == []
    head, *parts = re.split(rb"\r\n--=_report1_\d+(?:--)?\r\n", wire)
    names = [line.partition(b":")[0].decode() for line in head.split(b"\r\n") if line[:1] not in b" \t"]
    assert names == HEAD + ["Content-Transfer-Encoding"] * (not b"".join(parts).isascii())
    assert len(parts) == 4 and parts[3] == b""
    top, _, fields = parts[1].partition(b"\r\n\r\n")
    is_global = b"Content-Type: message/global-delivery-status" in top
    assert is_global == (not fields.isascii()) == (b"report-type=global-delivery-status;" in head)
    lines = fields.split(b"\r\n")
    assert {line.partition(b":")[0].decode().lower() for line in lines if line and line[:1] != b" "} <= FIELDS
    assert sum(line.startswith(b"Final-Recipient:") for line in lines) == len(reports)
    assert sum(line.startswith(b"Action: failed") for line in lines) == len(reports)


LINE = st.binary(max_size=30).map(lambda line: re.sub(rb"[\r\n]", b"", line)) | st.sampled_from(
    [b".", b"..", b"--=_report1_1", b"x" * 1100, "Subject: größer".encode()]
)
HEADER = st.lists(LINE.filter(bool), max_size=6)


@given(HEADER, st.lists(LINE, max_size=6), st.booleans(), st.booleans(), st.sampled_from(["alice@app.example", "älice@app.example"]))
def test_what_is_returned_is_the_original(header: list[bytes], body: list[bytes], is_full: bool, is_utf8: bool, sender: str) -> None:
    top = b"".join(line + b"\r\n" for line in header)
    plain = top + b"\r\n" + b"".join(line + b"\r\n" for line in body)
    assume(b"message/global" not in plain)  # it is looked for below, in what the report says itself
    stuffed = re.sub(rb"(\A|\r\n)\.", rb"\1..", plain)
    bob = Recipient("bob@dest.example")
    notification = compose(
        Envelope(sender, (bob,), ret="FULL" if is_full else "HDRS", smtputf8=is_utf8), [Report(bob, "failed", "5.1.1", "550 no")],
        id="report1", origin="origin1", hostname="relay.example", arrived=0.0, date=1.0, prefix=b"", wire=stuffed,
    )  # fmt: skip
    check_wire(notification.wire)
    assert notification.is_8bit == (not notification.wire.isascii())
    is_tidy = b"\0" not in plain and max(map(len, plain.split(b"\r\n"))) <= 998
    whole = is_full and is_tidy
    if sender.isascii():
        assert notification.is_8bit == (whole and not plain.isascii())
    if b"message/global" in notification.wire:
        assert is_utf8 and top.decode() and not top.isascii()
    if parse(notification).get_boundary() == "=_report1_1":
        assert returned(notification) == (plain if whole else top)


def check_wire(wire: bytes) -> None:
    """That these octets may stand between DATA and the final dot."""
    assert wire.endswith(b"\r\n")
    assert b"\r" not in wire.replace(b"\r\n", b"") and b"\n" not in wire.replace(b"\r\n", b"")
    lines = wire.split(b"\r\n")
    assert max(map(len, lines)) <= 999  # a stuffed dot does not count
    assert all(line.startswith(b"..") for line in lines if line.startswith(b"."))
