"""Delivery status notifications: what became of a message, written to its sender (RFC 3464), as the sender wished (RFC 3461).

Promises:
- Nothing that a client or another server said leaves the field it is quoted in: what is not printable is replaced, and no line is longer
  than RFC 5321 section 4.5.3.1.6 allows.
- A report is all ASCII, the returned message apart, unless the address it goes to is not: then it goes by SMTPUTF8, and its fields may
  have UTF-8, too. Other people's addresses that are not ASCII are spelled in it (RFC 6533 section 3).
- The returned octets are the original's, fields that this relay added included. Only a header section that is not 7-bit, or is broken,
  is encoded (quoted-printable, which RFC 6522 section 4 permits), so that any smarthost can take the report.
- A report is not answered by a report: null sender, NOTIFY=NEVER.

Whether a report may be sent at all for an entry, and in which state that leaves it, is decided by those who call.
"""

from __future__ import annotations

import binascii
import ipaddress
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Literal

from relay.mail.envelope import Envelope, Recipient
from relay.mail.reply import sanitise
from relay.mail.trace import MAX_HEADER
from relay.mail.unitext import KIND, read, spell, to_ascii

Action = Literal["failed", "delayed", "relayed"]
"""What RFC 3464 section 2.3.3 calls it. Never "delivered" or "expanded": a relay has no mailboxes."""

MAX_FULL = 1 << 20
"""Octets of an original that is returned whole where RET=FULL asks for it; of a larger one the header is (RFC 3461 section 6.2)."""

_WIDTH = 72
_LONGEST = 900
"""Octets of a foreign value in a field; with the field's name it stays within a line of 998."""

_WISH: dict[Action, str] = {"failed": "FAILURE", "delayed": "DELAY", "relayed": "SUCCESS"}
_SUBJECT: dict[Action, str] = {
    "failed": "Your message could not be delivered",
    "delayed": "Your message is delayed and still being tried",
    "relayed": "Your message was passed on",
}

_NOT_ASCII = re.compile(r"[^\x20-\x7e]")
_HEX = re.compile(r"\+([2-6][0-9A-F]|7[0-9A-E])")
_BARE = re.compile(rb"\x00|\r(?!\n)|(?<!\r)\n")
_MESSAGE_ID = re.compile(rb"^message-id[ \t]*:(?:\r\n(?=[ \t]))?[ \t]*(<[!-;=?-~]{1,400}@[!-;=?-~]{1,400}>)[ \t]*\r$", re.I | re.M)


@dataclass(frozen=True, slots=True)
class Report:
    """What is to be said of one recipient."""

    recipient: Recipient
    action: Action
    status: str
    """The enhanced status code, "5.1.1"."""
    diagnostic: str = ""
    """The reply it rests on, "550 5.1.1 text"; "" where there was none."""
    remote: str = ""
    """The server that gave that reply; "" if this relay did itself (RFC 3464 section 2.3.6)."""
    last_attempt: float | None = None
    will_retry_until: float | None = None
    is_in_doubt: bool = False
    """It may have been delivered all the same (RFC 1047)."""


@dataclass(frozen=True, slots=True)
class Notification:
    """A composed report."""

    wire: bytes
    """In SMTP wire form: CRLF, dot-stuffed, without the final dot; it needs no fields put before it."""
    is_8bit: bool
    """It has 8-bit octets, and must be declared BODY=8BITMIME."""


def is_wanted(envelope: Envelope, recipient: Recipient, action: Action) -> bool:
    """Whether the sender is to get a report of that kind (RFC 3461 sections 4.1 and 5.2); without NOTIFY, of failure and delay."""
    if not envelope.sender:
        return False
    if not recipient.notify:
        return action != "relayed"
    return _WISH[action] in recipient.notify.upper().split(",")


def envelope_of(original: Envelope, is_8bit: bool) -> Envelope:
    """The envelope of a report on a message: no RET, no ENVID, NOTIFY=NEVER (RFC 3461 section 6.1)."""
    body, is_utf8 = "8BITMIME" if is_8bit else "", not original.sender.isascii()
    return Envelope("", (Recipient(original.sender, "NEVER"),), body, smtputf8=is_utf8)


def compose(
    envelope: Envelope, reports: Sequence[Report], *, id: str, origin: str, hostname: str, arrived: float, date: float, prefix: bytes,
    wire: bytes, max_full: int = MAX_FULL,
) -> Notification:  # fmt: skip
    """Write one report on recipients of one message, all with the same action.

    `id` is the report's own and `origin` the message's, which came at `arrived`; `prefix` and `wire` are its content as spooled.
    """
    action = reports[0].action
    assert all(report.action == action for report in reports), "one report tells of one action"
    hostname, is_utf8 = _plain(hostname), not envelope.sender.isascii()
    header = _header(prefix, wire)
    whole = _whole(envelope, reports, prefix, wire, max_full)
    status = _lines(_status(envelope, reports, hostname, arrived, is_utf8))
    kind = "delivery-status" if status.isascii() else "global-delivery-status"
    parts = [
        _prose(_lines(_text(reports, origin, hostname, arrived, whole is not None))),
        b"Content-Type: message/" + kind.encode("ascii") + b"\r\n" + _encoding(status) + b"\r\n" + status,
        _returned(header, whole, is_global=envelope.smtputf8 and _is_utf8(header), is_utf8=is_utf8),
    ]
    boundary = _boundary(id, parts)
    head = [
        f"Date: {_date(date)}",
        f"From: Mail Delivery System <MAILER-DAEMON@{hostname}>",
        f"To: <{_plain(envelope.sender, is_utf8=is_utf8)}>",
        f"Subject: {_SUBJECT[action]}",
        f"Message-ID: <{_plain(id)}@{hostname}>",
    ]
    if found := _MESSAGE_ID.search(header):
        name = found[1].decode("ascii")
        head += [f"In-Reply-To: {name}", f"References: {name}"]
    head += ["Auto-Submitted: auto-replied", "MIME-Version: 1.0"]
    head += [f'Content-Type: multipart/report; report-type={kind};\r\n boundary="{boundary}"']
    delimiter = b"--" + boundary.encode("ascii")
    body = b"".join(delimiter + b"\r\n" + part + b"\r\n" for part in parts)
    octets = _lines(head) + _encoding(body) + b"\r\n" + body + delimiter + b"--\r\n"
    return Notification(_stuff(octets), not octets.isascii())


def _boundary(id: str, parts: Sequence[bytes]) -> str:
    """A boundary that is in no part: it names the report, and a number goes up until it is new."""
    stem = "=_" + re.sub(r"[^A-Za-z0-9]", "", id)[:48]
    number = 1
    while any(f"{stem}_{number}".encode() in part for part in parts):
        number += 1
    return f"{stem}_{number}"


# -- for programs ------------------------------------------------------------------------------------------------------------


def _status(envelope: Envelope, reports: Sequence[Report], hostname: str, arrived: float, is_utf8: bool) -> list[str]:
    """The fields of message/delivery-status (RFC 3464 section 2, RFC 3461 section 6.3, RFC 6533 section 4)."""
    fields = [f"Original-Envelope-Id: {_from_xtext(envelope.envid)}"] if envelope.envid else []
    fields += [f"Reporting-MTA: dns; {hostname}", f"Arrival-Date: {_date(arrived)}"]
    for report in reports:
        fields.append("")
        if report.recipient.orcpt:
            fields.append(f"Original-Recipient: {_original(report.recipient.orcpt, is_utf8)}")
        fields.append(f"Final-Recipient: {_typed(report.recipient.address, is_utf8)}")
        fields.append(f"Action: {report.action}")
        fields.append(f"Status: {_plain(report.status)}")
        if report.remote:
            fields.append(f"Remote-MTA: dns; {_server(report.remote)}")
        if said := _flat(report.diagnostic):
            fields.append("\r\n ".join(_wrap(f"Diagnostic-Code: smtp; {said}")))
        if report.last_attempt is not None:
            fields.append(f"Last-Attempt-Date: {_date(report.last_attempt)}")
        if report.will_retry_until is not None and report.action == "delayed":
            fields.append(f"Will-Retry-Until: {_date(report.will_retry_until)}")
    return fields


def _original(orcpt: str, is_utf8: bool) -> str:
    """ORCPT's type and address."""
    kind, _, address = orcpt.partition(";")
    if kind.lower() != KIND:
        return f"{_plain(kind, 64)}; {_from_xtext(address)}"
    return f"{KIND}; {_plain(read(address) if is_utf8 else to_ascii(address), is_utf8=is_utf8)}"


def _typed(address: str, is_utf8: bool) -> str:
    """An address with its type; one that is not ASCII is spelled where the report must be (RFC 6533 section 3)."""
    if address.isascii():
        return f"rfc822; {_plain(address)}"
    return f"{KIND}; {_plain(address if is_utf8 else spell(address), is_utf8=is_utf8)}"


# -- for people --------------------------------------------------------------------------------------------------------------


_ADVICE: tuple[tuple[str, str], ...] = (
    ("1.1", "There seems to be no such address. Please check how it is spelled, and send the message again."),
    ("1", "Something is wrong with an address. Please check how it is spelled, and send the message again."),
    ("2.2", "The recipient's mailbox is full. Please tell the recipient by other means, or try again later."),
    ("2", "The recipient's mailbox cannot take the message now. Please reach the recipient by other means."),
    ("3.4", "The message is too large. Please send it again without large attachments, or in several parts."),
    ("4.7", "It was tried again and again, until its time was up. Please send it again later, or reach the recipient by other means."),
    ("6.7", "A mail server on the way takes no addresses with letters other than A to Z. Please use another address of the recipient's."),
    ("6.9", "A mail server on the way takes no header with letters other than A to Z. Please send it again with a plainer subject."),
    ("6", "The form of the message was not accepted. Please send it again in a simpler form, for example as plain text."),
    ("7", "The message was refused by a rule. If you think that is wrong, please ask whoever looks after the refusing server."),
)
"""What a sender can do about a failure, by the front of the detail of its status; the first that fits."""
_ADVICE_ELSE = "Sending the message again unchanged will probably not help. Please reach the recipient by other means."


def _text(reports: Sequence[Report], origin: str, hostname: str, arrived: float, is_whole: bool) -> list[str]:
    """The part for people: what happened to which address, what was said, what to do."""
    action = reports[0].action
    addresses = "this address" if len(reports) == 1 else "these addresses"
    when = f"The message that you sent on {_date(arrived)}"
    opening = {
        "failed": f"{when} could not be delivered to {addresses}, and will not be tried again.",
        "delayed": f"{when} could not be delivered to {addresses} yet. You need not do anything, and please do not send it again: "
        "it is still being tried, and you will be told if it fails in the end.",
        "relayed": f"{when} was passed on for {addresses} to a mail server that does not report deliveries. "
        "It was accepted there; you will get no further confirmation from this system.",
    }[action]
    lines = [f"This is an automatic message from the mail system at {hostname}.", "", *_wrap(opening)]
    for report in reports:
        lines += ["", f"<{_plain(report.recipient.address, is_utf8=True)}>"]
        lines += _account(report)
    lines += ["", *_wrap(f"If you need help, please write to postmaster@{hostname} and quote the reference {_plain(origin)}.")]
    attached = "your message" if is_whole else "the header of your message"
    return [*lines, "", *_wrap(f"Attached are the details for mail programs, and {attached}.")]


def _prose(text: bytes) -> bytes:
    """The first part: as it is if that is ASCII, else so that any smarthost can take it."""
    if text.isascii():
        return b"Content-Type: text/plain; charset=us-ascii\r\n\r\n" + text
    return b"Content-Type: text/plain; charset=utf-8\r\n" + _QUOTED + b"\r\n" + _quoted(text)


def _account(report: Report) -> list[str]:
    """What is told of one recipient, set in under its address; what was said, further in."""
    lines, told = [], []
    if said := _flat(report.diagnostic):
        lines += _wrap(f"The mail server {_server(report.remote)} answered:" if report.remote else "The reason:", 4)
        lines += _wrap(said, 8)
    if report.is_in_doubt:
        told.append("The last answer to the message never came, so it may have been delivered all the same.")
    if report.action == "failed":
        detail = report.status.partition(".")[2]
        told.append(next((advice for front, advice in _ADVICE if f"{detail}.".startswith(f"{front}.")), _ADVICE_ELSE))
    elif report.action == "delayed" and report.will_retry_until is not None:
        told.append(f"It will be tried until {_date(report.will_retry_until)}.")
    return lines + [line for paragraph in told for line in _wrap(paragraph, 4)]


# -- the original ------------------------------------------------------------------------------------------------------------


def _header(prefix: bytes, wire: bytes) -> bytes:
    """The original's header section with its last CRLF, without dots stuffed; of one beyond MAX_HEADER the first whole fields."""
    front = prefix + _unstuff(wire[: MAX_HEADER + 2])
    end = front.find(b"\r\n\r\n")
    if front.startswith(b"\r\n"):
        return b""
    if end >= 0:
        return front[: end + 2]
    if len(wire) > MAX_HEADER + 2:
        cuts = [found.start() for found in re.finditer(rb"\r\n(?![ \t]|\Z)", front)]
        return front[: cuts[-1] + 2] if cuts else b""
    return front if not front or front.endswith(b"\r\n") else front + b"\r\n"


def _whole(envelope: Envelope, reports: Sequence[Report], prefix: bytes, wire: bytes, max_full: int) -> bytes | None:
    """The whole original, without dots stuffed, if it is to be returned (RFC 3461 section 4.3) and a smarthost will take it."""
    if envelope.ret != "FULL" or reports[0].action != "failed" or len(prefix) + len(wire) > max_full:
        return None
    # What was refused for its size or its 8-bit octets would be refused again inside the report.
    if {"3.4", "6.3"} & {report.status.partition(".")[2] for report in reports}:
        return None
    whole = prefix + _unstuff(wire)
    return whole if _is_tidy(whole) else None


def _returned(header: bytes, whole: bytes | None, is_global: bool, is_utf8: bool) -> bytes:
    """The third part: the whole message, or its header section. `is_global`: the header is one of RFC 6532, which has types of its own."""
    if whole is not None:
        return b"Content-Type: message/" + (b"global" if is_global else b"rfc822") + b"\r\n" + _encoding(whole) + b"\r\n" + whole
    head = b"Content-Type: " + (b"message/global-headers" if is_global else b"text/rfc822-headers") + b"\r\n"
    if (header.isascii() or (is_global and is_utf8)) and _is_tidy(header):
        return head + _encoding(header) + b"\r\n" + header
    return head + _QUOTED + b"\r\n" + _quoted(header)


_QUOTED = b"Content-Transfer-Encoding: quoted-printable\r\n"


def _encoding(content: bytes) -> bytes:
    """The field that goes with a content that is not encoded; none says 7bit."""
    return b"" if content.isascii() else b"Content-Transfer-Encoding: 8bit\r\n"


def _is_utf8(octets: bytes) -> bool:
    """Whether they are UTF-8, and need it."""
    try:
        return not octets.isascii() and bool(octets.decode())
    except UnicodeDecodeError:
        return False


def _quoted(octets: bytes) -> bytes:
    return b"\r\n".join(_quote(line) for line in octets.split(b"\r\n"))


def _quote(line: bytes) -> bytes:
    """One line in quoted-printable; the only line feeds that come out of it are those of soft breaks."""
    return binascii.b2a_qp(line, istext=False).replace(b"\n", b"\r\n")


def _is_tidy(octets: bytes) -> bool:
    """Whether they may go out as they are: lines end in CRLF alone and fit, and there is no NUL (RFC 5322 section 2.1.1, RFC 5321)."""
    return not _BARE.search(octets) and max(map(len, octets.split(b"\r\n"))) <= 998


def _unstuff(wire: bytes) -> bytes:
    plain = wire.replace(b"\r\n.", b"\r\n")
    return plain[1:] if plain.startswith(b".") else plain


def _stuff(octets: bytes) -> bytes:
    """Double the dots at the front of lines (RFC 5321 section 4.5.2); a message of ours never begins with one."""
    return octets.replace(b"\r\n.", b"\r\n..")


# -- foreign words -----------------------------------------------------------------------------------------------------------


def _plain(text: str, limit: int = _LONGEST, *, is_utf8: bool = False) -> str:
    """A foreign value that must keep its spelling: only what may not stand in a field is replaced. `limit` is in octets."""
    if not is_utf8 or text.isascii():
        return _NOT_ASCII.sub("?", text)[:limit]
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    return shown.encode()[:limit].decode("utf-8", "ignore")


def _flat(text: str) -> str:
    """Foreign prose on one line, its runs of spaces made one, so that it may be folded anywhere."""
    return " ".join(sanitise(text, _LONGEST).split())


def _from_xtext(text: str) -> str:
    """Decode xtext (RFC 3461 section 4). What is not printable ASCII should not be in it, and stays encoded."""
    return _plain(_HEX.sub(lambda found: chr(int(found[1], 16)), text))


def _server(name: str) -> str:
    """An MTA's name, or its address as a domain literal (RFC 3461 section 9.3)."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return _plain(name, 255)
    return f"[IPv6:{address}]" if address.version == 6 else f"[{address}]"


def _date(seconds: float) -> str:
    """A date of RFC 5322 section 3.3, in UTC and with a numeric zone, as RFC 3464 asks."""
    return format_datetime(datetime.fromtimestamp(int(seconds), UTC))


def _wrap(text: str, indent: int = 0) -> list[str]:
    """Break a text between words, never within one."""
    front = " " * indent
    return textwrap.wrap(text, _WIDTH, initial_indent=front, subsequent_indent=front, break_long_words=False, break_on_hyphens=False)


def _lines(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode()
