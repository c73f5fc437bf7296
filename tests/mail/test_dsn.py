"""Reports on delivery: their exact form (golden files in dsn/), who gets one, and what of the original they return."""

from __future__ import annotations

import email
import email.policy
import quopri
from dataclasses import replace
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import pytest

from relay.mail.dsn import Action, Notification, Report, compose, envelope_of, is_wanted
from relay.mail.envelope import Envelope, Recipient
from relay.mail.trace import MAX_HEADER

GOLDEN = Path(__file__).parent / "dsn"
ARRIVED = 1_795_000_000.25
NOW = 1_795_172_800.5
BOB = Recipient("bob@dest.example")
PREFIX = (
    b"Received: from app.example ([192.0.2.7])\r\n\tby relay.example with ESMTPSA id origin1\r\n\tfor <bob@dest.example>;\r\n"
    b"\tWed, 18 Nov 2026 11:06:40 +0000\r\n"
)
WIRE = (
    b"From: Alice <alice@app.example>\r\nTo: bob@dest.example\r\nSubject: The figures\r\nMessage-ID: <figures@app.example>\r\n\r\n"
    b"Hello,\r\n..here they are.\r\n"
)
EIGHT = WIRE.replace(b"The figures", "Die Zahlen für März".encode()).replace(b"here", "größer".encode())


def write(
    *reports: Report, ret: str = "", envid: str = "", prefix: bytes = PREFIX, wire: bytes = WIRE, max_full: int = 10_000,
    sender: str = "alice@app.example", smtputf8: bool = False,
) -> Notification:  # fmt: skip
    """A report on a message of Alice's."""
    envelope = Envelope(sender, tuple(report.recipient for report in reports), ret=ret, envid=envid, smtputf8=smtputf8)
    return compose(
        envelope, reports, id="report1", origin="origin1", hostname="relay.example", arrived=ARRIVED, date=NOW, prefix=prefix, wire=wire,
        max_full=max_full,
    )  # fmt: skip


def parse(notification: Notification) -> EmailMessage:
    """Read a report as a mail program would."""
    wire = notification.wire
    assert not wire.startswith(b".")
    message = email.message_from_bytes(wire.replace(b"\r\n.", b"\r\n"), policy=email.policy.SMTP)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    return message


def returned(notification: Notification) -> bytes:
    """The octets of the third part, decoded."""
    part = notification.wire.replace(b"\r\n.", b"\r\n").split(b"\r\n--=_report1_1")[3]
    head, _, body = part.partition(b"\r\n\r\n")
    assert body.endswith(b"\r\n") or not body
    if b"quoted-printable" in head:
        return quopri.decodestring(body)
    return body


FAILED = Report(BOB, "failed", "5.1.1", "550 5.1.1 No such user here", "mx.dest.example", NOW)
DELAYED = Report(BOB, "delayed", "4.4.1", "451 4.4.1 Upstream not reachable (ConnectionRefusedError)", "", NOW, ARRIVED + 432_000)
RELAYED = Report(
    Recipient("bob@dest.example", "SUCCESS", "rfc822;bob@dest.example"),
    "relayed",
    "2.0.0",
    "250 2.0.0 Ok: queued as 4XYZ",
    "2001:db8::25",
    NOW,
)
SEVERAL = (
    Report(Recipient("carol@dest.example", "FAILURE,DELAY", "rfc822;carol+2Bteam@dest.example"), "failed", "5.2.2",
           "552 5.2.2 The mailbox of this recipient has been full for so long that further mail is refused; see "
           "https://dest.example/help/full", "192.0.2.25", NOW),
    Report(Recipient('"d. o\'hara"@dest.example'), "failed", "5.4.7", "451 4.4.2 Connection lost", "", NOW, is_in_doubt=True),
    Report(Recipient("erin@dest.example"), "failed", "5.7.1", "", "mx.dest.example"),
)  # fmt: skip

YONG = Recipient("用户@例え.example", orcpt="utf-8;用户+tag@例え.example".replace("+", "\\x{2B}"))
UTF8 = (Report(YONG, "failed", "5.1.1", "550 5.1.1 No such user here", "mx.dest.example", NOW), FAILED)
NO_UTF8 = Report(Recipient("bób@dest.example"), "failed", "5.6.7", "550 5.6.7 Non-ASCII recipient address", "", NOW)
INTERNATIONAL: dict[str, Any] = {"sender": "älice@app.example", "smtputf8": True}

CASES = {
    "failed": lambda: write(FAILED),
    "failed_whole": lambda: write(FAILED, ret="FULL"),
    "failed_whole_8bit": lambda: write(FAILED, ret="FULL", wire=EIGHT),
    "failed_header_8bit": lambda: write(FAILED, ret="HDRS", wire=EIGHT),
    "failed_several": lambda: write(*SEVERAL, envid="QQ+2B314+3D159"),
    "delayed": lambda: write(DELAYED, ret="FULL"),
    "relayed": lambda: write(RELAYED, ret="FULL"),
    "utf8_to_ascii": lambda: write(*UTF8, smtputf8=True, wire=EIGHT),
    "utf8_to_ascii_whole": lambda: write(NO_UTF8, ret="FULL", smtputf8=True, wire=EIGHT),
    "utf8_to_utf8": lambda: write(*UTF8, wire=EIGHT, **INTERNATIONAL),
    "utf8_to_utf8_whole": lambda: write(NO_UTF8, ret="FULL", wire=EIGHT, **INTERNATIONAL),
    "utf8_to_utf8_of_ascii": lambda: write(FAILED, **INTERNATIONAL),
}


@pytest.mark.parametrize("case", CASES)
def test_a_report_is_byte_for_byte_as_agreed(case: str) -> None:
    assert CASES[case]().wire == (GOLDEN / f"{case}.eml").read_bytes()


@pytest.mark.parametrize("case", CASES)
def test_a_mail_program_finds_the_three_parts_of_every_report(case: str) -> None:
    notification = CASES[case]()
    message = parse(notification)
    assert message.get_content_type() == "multipart/report"
    assert message["Content-Type"].params["report-type"] == message.get_payload(1).get_content_subtype()  # type: ignore[union-attr]
    is_global = b"Content-Type: message/global-delivery-status" in notification.wire
    assert is_global == (case in ("utf8_to_utf8", "utf8_to_utf8_whole"))
    if "to_utf8" not in case:
        assert message["To"].addresses[0].addr_spec == "alice@app.example"
    assert message["From"].addresses[0].addr_spec == "MAILER-DAEMON@relay.example"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["Message-ID"] == "<report1@relay.example>"
    assert message["In-Reply-To"] == message["References"] == "<figures@app.example>"
    text, status, original = message.iter_parts()
    assert text.get_content_type() == "text/plain"
    assert status.get_content_type() == ("message/global-delivery-status" if is_global else "message/delivery-status")
    kinds = ("message/rfc822", "text/rfc822-headers")
    if "utf8" in case and "of_ascii" not in case:
        kinds = ("message/global", "message/global-headers")
    assert original.get_content_type() == kinds["whole" not in case]
    is_8bit = case in ("failed_whole_8bit", "utf8_to_ascii_whole") or "to_utf8" in case
    assert notification.is_8bit == is_8bit == (not notification.wire.isascii())


def test_the_fields_for_programs_tell_what_was_asked_and_what_happened() -> None:
    status = list(parse(write(*SEVERAL, envid="QQ+2B314+3D159")).iter_parts())[1]
    whole, carol, dora, erin = cast(list[EmailMessage], status.get_payload())
    assert whole.items() == [
        ("Original-Envelope-Id", "QQ+314=159"),
        ("Reporting-MTA", "dns; relay.example"),
        ("Arrival-Date", "Wed, 18 Nov 2026 11:06:40 +0000"),
    ]
    assert carol["Original-Recipient"] == "rfc822; carol+team@dest.example"
    assert carol["Remote-MTA"] == "dns; [192.0.2.25]"
    assert carol["Diagnostic-Code"].endswith("refused; see https://dest.example/help/full")
    assert (dora["Final-Recipient"], dora["Status"]) == ('rfc822; "d. o\'hara"@dest.example', "5.4.7")
    assert "Remote-MTA" not in dora and "Original-Recipient" not in dora
    assert "Diagnostic-Code" not in erin and "Last-Attempt-Date" not in erin
    assert all(group["Action"] == "failed" and "Will-Retry-Until" not in group for group in (carol, dora, erin))


def test_an_address_that_is_not_ascii_is_spelled_where_the_report_must_be_and_written_where_it_need_not() -> None:
    spelled, written = write(*UTF8, smtputf8=True).wire, write(*UTF8, **INTERNATIONAL).wire
    assert b"\r\nFinal-Recipient: utf-8; \\x{7528}\\x{6237}@\\x{4F8B}\\x{3048}.example\r\n" in spelled
    assert b"\r\nOriginal-Recipient: utf-8; \\x{7528}\\x{6237}\\x{2B}tag@\\x{4F8B}\\x{3048}.example\r\n" in spelled
    assert "\r\nFinal-Recipient: utf-8; 用户@例え.example\r\n".encode() in written
    assert "\r\nOriginal-Recipient: utf-8; 用户+tag@例え.example\r\n".encode() in written
    for wire in (spelled, written):  # what is ASCII stays as it always was
        assert b"\r\nFinal-Recipient: rfc822; bob@dest.example\r\n" in wire
    for notification in (write(*UTF8, smtputf8=True), write(*UTF8, **INTERNATIONAL)):
        text = next(iter(parse(notification).iter_parts()))
        assert "\n<用户@例え.example>\n" in text.get_content().replace("\r\n", "\n")


def test_a_header_that_is_no_utf8_although_it_was_said_to_be_is_returned_as_before() -> None:
    latin = WIRE.replace(b"The figures", "März".encode("latin-1"))
    for whole, kind in (("FULL", b"message/rfc822"), ("HDRS", b"text/rfc822-headers")):
        notification = write(FAILED, ret=whole, wire=latin, **INTERNATIONAL)
        assert b"\r\nContent-Type: " + kind + b"\r\n" in notification.wire and b"message/global" not in notification.wire
        assert "Subject: März".encode("latin-1") in returned(notification)


def test_a_report_to_an_address_that_is_not_ascii_goes_by_smtputf8() -> None:
    original = Envelope("älice@app.example", (BOB,), "8BITMIME", "FULL", "x", smtputf8=True)
    assert envelope_of(original, True) == Envelope("", (Recipient("älice@app.example", "NEVER"),), "8BITMIME", smtputf8=True)
    assert envelope_of(original._replace(sender="alice@app.example"), False) == Envelope("", (Recipient("alice@app.example", "NEVER"),))


def test_only_a_delayed_report_says_until_when_it_is_tried_and_that_nothing_need_be_done() -> None:
    assert b"\r\nWill-Retry-Until: Mon, 23 Nov 2026 11:06:40 +0000\r\n" in write(DELAYED).wire
    assert b"You need not do anything" in b" ".join(write(DELAYED).wire.split())
    assert b"Will-Retry-Until" not in write(replace(FAILED, will_retry_until=NOW)).wire


@pytest.mark.parametrize(
    ("envid", "shown"), [("QQ+2B1+20x", "QQ+1 x"), ("+0D+0ATo:", "+0D+0ATo:"), ("+7F+FF+2b+", "+7F+FF+2b+"), ("+7E", "~")]
)
def test_xtext_is_decoded_as_far_as_it_is_printable(envid: str, shown: str) -> None:
    orcpt = Recipient("bob@dest.example", orcpt=f"rfc822;{envid}")
    wire = write(replace(FAILED, recipient=orcpt), envid=envid).wire
    assert f"\r\nOriginal-Envelope-Id: {shown}\r\n".encode() in wire
    assert f"\r\nOriginal-Recipient: rfc822; {shown}\r\n".encode() in wire


@pytest.mark.parametrize(
    ("notify", "actions"),
    [
        ("", {"failed", "delayed"}),
        ("NEVER", set()),
        ("SUCCESS", {"relayed"}),
        ("FAILURE", {"failed"}),
        ("DELAY", {"delayed"}),
        ("SUCCESS,FAILURE,DELAY", {"failed", "delayed", "relayed"}),
    ],
)
def test_a_sender_gets_the_reports_it_asked_for(notify: str, actions: set[Action]) -> None:
    recipient = Recipient("bob@dest.example", notify)
    every: tuple[Action, ...] = ("failed", "delayed", "relayed")
    assert {one for one in every if is_wanted(Envelope("alice@app.example", (recipient,)), recipient, one)} == actions
    assert not any(is_wanted(Envelope("", (recipient,)), recipient, one) for one in every)


def test_a_report_goes_from_nobody_to_the_sender_and_asks_for_no_report() -> None:
    original = Envelope("alice@app.example", (BOB,), "8BITMIME", "FULL", "id1")
    assert envelope_of(original, is_8bit=True) == Envelope("", (Recipient("alice@app.example", "NEVER"),), "8BITMIME")
    assert envelope_of(original, is_8bit=False) == Envelope("", (Recipient("alice@app.example", "NEVER"),))


HEADER = PREFIX + WIRE[: WIRE.index(b"\r\n\r\n") + 2]


@pytest.mark.parametrize(
    "notification",
    [
        write(FAILED),
        write(FAILED, ret="HDRS"),
        write(DELAYED, ret="FULL"),
        write(FAILED, ret="FULL", max_full=len(PREFIX + WIRE) - 1),
        write(Report(BOB, "failed", "5.3.4", "552 5.3.4 Too big"), ret="FULL"),
        write(Report(BOB, "failed", "5.6.3", "554 5.6.3 8-bit content"), ret="FULL"),
        write(FAILED, ret="FULL", wire=WIRE + b"x" * 999 + b"\r\n"),
        write(FAILED, ret="FULL", wire=WIRE + b"bare\nline feed\r\n"),
        write(FAILED, ret="FULL", wire=WIRE + b"NUL\x00\r\n"),
    ],
)
def test_the_header_alone_is_returned_unless_the_whole_is_asked_for_and_can_be_carried(notification: Notification) -> None:
    assert returned(notification) == HEADER
    assert b"the header of your message" in b" ".join(notification.wire.split())


def test_the_whole_message_is_returned_as_it_was_before_its_dots_were_stuffed() -> None:
    assert returned(write(FAILED, ret="FULL", max_full=len(PREFIX + WIRE))) == PREFIX + WIRE.replace(b"..here", b".here")
    assert returned(write(FAILED, ret="FULL", prefix=b"", wire=b"..\r\n...\r\n")) == b".\r\n..\r\n"


@pytest.mark.parametrize(
    ("prefix", "wire", "expected"),
    [
        (b"", b"", b""),
        (b"", b"\r\nbody\r\n", b""),
        (b"A: 1\r\n", b"\r\nbody\r\n", b"A: 1\r\n"),
        (b"A: 1\r\n\r\n", b"no header\r\n\r\nbody\r\n", b"A: 1\r\n"),
        (b"A: 1\r\n", b"B: 2\r\n", b"A: 1\r\nB: 2\r\n"),
        (b"", b"B: 2", b"B: 2\r\n"),
        (b"", b"B: 2\r\n..C\r\n\r\n", b"B: 2\r\n.C\r\n"),
        (b"", b"B: " + b"x" * 996 + b"\r\n\r\n", b"B: " + b"x" * 996 + b"\r\n"),
        (b"", b"B: \x00 = \r \n_\t\r\n \xff \r\n\r\n", b"B: \x00 = \r \n_\t\r\n \xff \r\n"),
    ],
)
def test_the_header_is_found_and_returned_whatever_it_is(prefix: bytes, wire: bytes, expected: bytes) -> None:
    notification = write(FAILED, prefix=prefix, wire=wire)
    assert returned(notification) == expected
    assert notification.wire.isascii()
    assert max(map(len, notification.wire.split(b"\r\n"))) <= 998


def test_of_a_header_without_end_the_first_whole_fields_are_returned() -> None:
    field = b"X: " + b"x" * 90 + b"\r\n y\r\n"
    header = returned(write(FAILED, wire=field * (2 * MAX_HEADER // len(field))))
    assert header.startswith(PREFIX + field) and header.endswith(field)
    assert MAX_HEADER - 2 * len(field) < len(header) < MAX_HEADER + len(PREFIX)
    assert returned(write(FAILED, prefix=b"", wire=b"x" * (MAX_HEADER + 3))) == b""


@pytest.mark.parametrize("header", [b"Message-ID: no angles", b"Message-ID: <a@b> <c@d>", b"Message-ID: <a\xe9@b>", b"X: <a@b>"])
def test_no_message_is_referred_to_by_an_id_that_is_none(header: bytes) -> None:
    message = parse(write(FAILED, wire=header + b"\r\n\r\n"))
    assert message["References"] is None and message["In-Reply-To"] is None


def test_a_boundary_that_stands_in_the_message_is_not_used() -> None:
    message = parse(write(FAILED, ret="FULL", wire=WIRE + b"--=_report1_1\r\n--=_report1_2--\r\n"))
    assert message.get_boundary() == "=_report1_3"
    assert len(list(message.iter_parts())) == 3
