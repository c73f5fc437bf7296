"""Trace fields: ours are recognised, a message's own octets are left alone, and nothing a client says breaks out of a field."""

from __future__ import annotations

import email
import email.policy
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.mail.field import unstuff
from relay.mail.trace import Header, Hop, is_header_ascii, prefix, read_header

HOST = b"relay.example"
DATE = "Thu, 01 Jan 1970 00:00:00 -0000"
HOP = Hop("client.example", "192.0.2.1", "relay.example", "ESMTPSA")


@pytest.mark.parametrize(
    "hop", [HOP, Hop("[IPv6:::1]", "2001:db8::1", "Relay.Example", "ESMTPA"), Hop("by", "192.0.2.1", "relay.example", "ESMTPA")]
)
@pytest.mark.parametrize("recipient", ["", "to@d.example"])
def test_a_message_that_comes_back_is_recognised_by_our_own_received(hop: Hop, recipient: str) -> None:
    wire = b"Subject: x\r\n\r\nhello\r\n"
    for passes in range(1, 4):
        wire = prefix(read_header(wire, HOST), hop, "id1", DATE, recipient) + wire
        header = read_header(wire, HOST)
        assert (header.received, header.ours) == (passes, passes)
        assert header.has_date and header.has_message_id


@pytest.mark.parametrize(
    "field",
    [b"Received: from a by relay.example with SMTP; x", b"received: by relay.example; x",
     b"RECEIVED : from a\r\n\tby RELAY.EXAMPLE\r\n with x",
     b"Received:\r\n from a (b [192.0.2.1])\r\n   by relay.example (Postfix)\r\n for <x@y>; z", b"Received: from a by\trelay.example;x",
     b"Received: from a by\r\n relay.example"],
)  # fmt: skip
def test_received_fields_that_name_us_count(field: bytes) -> None:
    assert read_header(field + b"\r\n\r\n", HOST).ours == 1


@pytest.mark.parametrize(
    "field",
    [b"Received: from relay.example by other.example; x", b"Received: from a by relay.example.org; x", b"X-Received: by relay.example",
     b"Received: from a by xrelay.example; x", b"Subject: x\r\n\r\nReceived: by relay.example", b"Received: from a\r\nby relay.example"],
)  # fmt: skip
def test_fields_that_name_others_do_not(field: bytes) -> None:
    assert read_header(field + b"\r\n\r\n", HOST).ours == 0


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (b"", Header(0, 0, False, False, True)),
        (b"\r\n", Header(0, 0, False, False, True)),
        (b"\r\nDate: x\r\n", Header(0, 0, False, False, True)),
        (b"DATE: x\r\nmessage-id:\r\n <a@b>\r\n\r\n", Header(0, 0, True, True, True)),
        (b"Date : x\r\n", Header(0, 0, True, False, True)),
        (b"X-Date: x\r\nSubject: Date: y\r\n Message-ID: z\r\n\r\n", Header(0, 0, False, False, True)),
        (b"Subject: x\r\n\r\nDate: x\r\n", Header(0, 0, False, False, True)),
        (b"hello\r\nDate: x\r\n\r\n", Header(0, 0, False, False, False)),
        (b" folded: x\r\n\r\n", Header(0, 0, False, False, False)),
        (b"From joe Thu Jan 1 00:00:00 1970\r\nDate: x\r\n\r\n", Header(0, 0, False, False, False)),
        (b"..\r\n", Header(0, 0, False, False, False)),
        (b". : x\r\nDate: x\r\n\r\n", Header(0, 0, False, False, False)),
        (b".\t: x\r\n\r\n", Header(0, 0, False, False, False)),
        (b".: x\r\n\r\n", Header(0, 0, False, False, False)),
        (b"..: x\r\n\r\n", Header(0, 0, False, False, True)),
        (b"..X: y\r\n\r\n", Header(0, 0, False, False, True)),
        (b".Subject: x\r\n\r\n", Header(0, 0, False, False, True)),
    ],
)
def test_the_header_section_is_read_and_the_body_is_not(wire: bytes, expected: Header) -> None:
    assert read_header(wire, HOST) == expected


@given(st.text(st.sampled_from(list(". \t:x\n")), max_size=6))
@settings(max_examples=1000)
def test_the_first_line_of_a_message_never_goes_on_with_what_is_put_before_it(text: str) -> None:
    """As whoever gets the message sees it: without stuffed dots."""
    wire = text.encode().replace(b"\n", b"\r\n") + b"\r\n"
    added = prefix(read_header(wire, HOST), HOP, "id1", DATE)
    parsed = email.message_from_bytes(added + unstuff(wire), policy=email.policy.compat32)
    assert parsed["Message-ID"] == "<id1@relay.example>"


HELO = st.text(st.sampled_from([chr(c) for c in range(33, 127) if chr(c) not in '()<>@,;\\"']), min_size=1, max_size=255)


@given(HELO, st.ip_addresses(), st.booleans(), st.booleans(), st.booleans())
def test_what_is_put_before_a_message_is_whole_fields_and_nothing_else(
    helo: str, address: object, has_date: bool, has_id: bool, has_header: bool
) -> None:
    hop = Hop(helo, str(address), "relay.example", "ESMTPA")
    added = prefix(Header(0, 0, has_date, has_id, has_header), hop, "id1", DATE, "to@d.example")
    assert added.count(b"\r\n") == added.count(b"\n") == added.count(b"\r")
    assert all(len(line) <= 998 for line in added.split(b"\r\n"))
    parsed = email.message_from_bytes(added + b"Subject: x\r\n\r\nbody\r\n", policy=email.policy.compat32)
    expected = ["Received"] + ["Date"] * (not has_date) + ["Message-ID"] * (not has_id) + ["Subject"] * has_header
    assert parsed.keys() == expected
    assert parsed.get_payload() == ("body\r\n" if has_header else "Subject: x\r\n\r\nbody\r\n")


HEADER = Header(0, 0, True, True, True)


def test_a_recipient_beyond_ascii_is_named_in_a_message_that_came_with_smtputf8_and_in_no_other() -> None:
    hop = Hop("client.example", "192.0.2.1", "relay.example", "UTF8SMTPSA")
    assert "\r\n\tfor <用户@例え.example>;\r\n".encode() in prefix(HEADER, hop, "id1", DATE, "用户@例え.example")
    assert b"\r\n\tby relay.example with UTF8SMTPSA id id1\r\n\tfor <to@d.example>;\r\n" in prefix(HEADER, hop, "id1", DATE, "to@d.example")
    plain = prefix(HEADER, HOP, "id1", DATE, "用户@例え.example")
    assert plain == prefix(HEADER, HOP, "id1", DATE) and plain.isascii()


@pytest.mark.parametrize(
    ("wire", "is_ascii"),
    [
        (b"Subject: x\r\n\r\nbody\r\n", True),
        ("Subject: x\r\n\r\nbödy\r\n".encode(), True),
        ("Subject: ü\r\n\r\nbody\r\n".encode(), False),
        ("X: y\r\n ü\r\n\r\n".encode(), False),
        ("X: ü\r\n".encode(), False),
        ("\r\nSubject: ü\r\n".encode(), True),
        ("bödy: x\r\n\r\n".encode(), True),
        (b"X: y\r\n" * 100_000 + "Z: ü\r\n\r\n".encode(), False),
        (". : ü\r\n\r\n".encode(), True),
    ],
    ids=["none", "body", "field", "fold", "no body", "no header", "no field", "late", "folded behind a dot"],
)
def test_8_bit_octets_are_found_in_the_header_section_and_only_there(wire: bytes, is_ascii: bool) -> None:
    assert is_header_ascii(wire) is is_ascii


@pytest.mark.parametrize(
    "wire",
    [
        b"received:\r\n" * 300_000,
        b"received:" + b" by" * 1_000_000,
        b"received: by" + b" " * 3_000_000,
        b"received:" + b"\r\n " * 1_000_000,
        b"a" * 3_000_000,
    ],
    ids=["many", "by", "spaces", "folds", "one line"],
)
def test_a_hostile_header_section_is_read_in_linear_time(wire: bytes) -> None:
    began = time.process_time()
    read_header(wire + b"\r\n\r\n", HOST)
    assert time.process_time() - began < 0.3
