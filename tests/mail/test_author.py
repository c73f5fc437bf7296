"""From and Sender are read strictly: what one reader takes for another address than the next does is not read at all."""

from __future__ import annotations

from email.utils import getaddresses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.loadkit.message import stuff
from relay.mail.author import MAX_MAILBOXES, MAX_OCTETS, read_authors, read_mailboxes
from relay.mail.field import Field, body_start, fields_named, header_of, is_all_fields, read_fields

READ = {
    b"a@b.example": ("a@b.example",),
    b" \t<a@b.example> ": ("a@b.example",),
    b"App <a@b.example>": ("a@b.example",),
    b"John Q. Public, Jr <a@b.example>": None,
    b"John Q. Public <a@b.example>": ("a@b.example",),
    b'"Public, John (c@d.example)" <a@b.example>': ("a@b.example",),
    b'"c@d.example" <a@b.example>': ("a@b.example",),
    b'"say \\"hi\\"" <a@b.example>': ("a@b.example",),
    b"=?utf-8?q?J=C3=BCrgen?= <a@b.example>": ("a@b.example",),
    b"J\xc3\xbcrgen <j\xc3\xbcrgen@b\xc3\xbccher.example>": ("jürgen@bücher.example",),
    b"a@b.example, c <c@d.example>,\r\n <e@f.example>": ("a@b.example", "c@d.example", "e@f.example"),
    b"root@b.example (Cron (nightly) \\) Daemon)": ("root@b.example",),
    b"(who) a@b.example (c@d.example)": ("a@b.example",),
    b'"a b"@d.example': ('"a b"@d.example',),
    b'"a(b"@d.example (c)': ('"a(b"@d.example',),
    b"a@[192.0.2.1]": ("a@[192.0.2.1]",),
    b"App\r\n\t<a@b.example>": ("a@b.example",),
}
NOT_READ = [
    b"", b" ", b",", b"a", b"<>", b"a@", b"@b.example", b"a@b.example,", b",a@b.example", b"a@b.example,,c@d.example",
    b"a@b.example c@d.example",
    b"a@b.example <c@d.example>", b"<a@b.example> <c@d.example>", b"<a@b.example", b"a@b.example>", b"<<a@b.example>>", b"<a@b.example>x",
    b"us: a@b.example, c@d.example;", b"us:;", b"<@c.example:a@b.example>", b"a@b.example; c@d.example", b"App [x] <a@b.example>",
    b"(a@b.example", b"a@b.example)", b"a@b.example (", b'"App <a@b.example>', b"a @ b.example", b"a.@b.example", b"a..b@c.example",
    b"a@b_c.example", b"a@b.example\0", b"a\0 <a@b.example>", b"\xff <a@b.example>", b"a@b.example\x0b", b"a@b.example (\0)",
    b'"\\\xc3\xbc" <a@b.c>',
    b"a\\@c@b.example", b"a@(c.example)b.example", b"a(@c.example)@b.example", b"a@\xef\xbc\xa0b.example", b'"a"b@c.example',
]  # fmt: skip


@pytest.mark.parametrize("value", READ)
def test_an_address_is_read_wherever_it_may_stand(value: bytes) -> None:
    assert read_mailboxes(value) == READ[value]


@pytest.mark.parametrize("value", NOT_READ)
def test_what_is_no_list_of_mailboxes_is_not_read(value: bytes) -> None:
    assert read_mailboxes(value) is None


@given(st.text(st.sampled_from(list('ab@.<>,;:()"\\ [] \t')), max_size=24))
@settings(max_examples=2000)
def test_what_is_read_is_what_other_readers_read(text: str) -> None:
    found = read_mailboxes(text.encode())
    if found is not None and not any(letter in text for letter in '"[('):
        assert list(found) == [address for _, address in getaddresses([text])]


@pytest.mark.parametrize(
    "value", [b"(" * 100_000, b'"' * 100_001, b"a " * 100_000, b"a@b.example," * 20_000, b"<" * 100_000, b"a." * 100_000 + b"@"]
)
def test_a_field_however_long_is_read_in_no_time(value: bytes) -> None:
    assert read_mailboxes(value) is None  # that this line is reached is the test: what goes back over it would take hours


def test_from_stands_once_and_sender_at_most() -> None:
    one, two = Field(b"from", b" a@b.example, b@b.example"), Field(b"sender", b" c@d.example")
    assert read_authors([one]) == ("a@b.example", "b@b.example")
    assert read_authors([two, Field(b"to", b"x"), one]) == ("a@b.example", "b@b.example", "c@d.example")
    for fields in (
        [],
        [two],
        [one, one],
        [one, two, two],
        [one, Field(b"sender", b"a@b.example, c@d.example")],
        [one, Field(b"sender", b"")],
    ):
        assert read_authors(fields) is None


def test_no_more_authors_are_read_than_can_be_judged_in_no_time() -> None:
    def field(name: bytes, count: int) -> Field:
        return Field(name, b",".join([b"a@b.example"] * count))

    assert read_authors([field(b"from", MAX_MAILBOXES)]) == ("a@b.example",) * MAX_MAILBOXES
    assert read_authors([field(b"from", MAX_MAILBOXES + 1)]) is None
    assert read_authors([field(b"from", MAX_MAILBOXES - 1), field(b"sender", 1)]) == ("a@b.example",) * MAX_MAILBOXES
    assert read_authors([field(b"from", MAX_MAILBOXES), field(b"sender", 1)]) is None
    for size in (0, 1):
        blank = b" " * (MAX_OCTETS - 22 + size)
        found = read_authors([Field(b"from", b"a@b.example" + blank), Field(b"sender", b"a@b.example")])
        assert (found is None) is bool(size)


# -- fields --------------------------------------------------------------------------------------------------------------------


def test_fields_are_read_as_whoever_gets_them_will_read_them() -> None:
    wire = b"From: a\r\n .b\r\nfrom\t:c\r\n.From: d\r\n..Dot: e\r\nno field\r\n X: f\r\nX:\r\n\r\nFrom: g\r\n"
    fields = read_fields(header_of(wire))
    assert fields == [(b"from", b" a\r\n .b"), (b"from", b"c"), (b"from", b" d"), (b".dot", b" e"), (b"x", b"")]
    assert wire[body_start(wire) :] == b"From: g\r\n"
    assert read_fields(header_of(b".From: a\r\n\r\n")) == [(b"from", b" a")]


def test_fields_may_be_read_up_to_a_number_or_by_name() -> None:
    head = b"From: a\r\nX: b\r\n c\r\nodd\r\nFROM\t: d\r\nX-From: e\r\nFromage: f\r\nTo: g\r\n From: h\r\n"
    assert read_fields(head, 2) == read_fields(head)[:2]
    assert fields_named(head, b"from", b"sender") == [(b"from", b" a"), (b"from", b" d")]
    assert fields_named(head, b"from", b"sender", at_most=1) == [(b"from", b" a")]
    assert fields_named(head, b"x") == [(b"x", b" b\r\n c")]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"", True), (b"A: b\r\n", True), (b"A:\r\n b\r\n\tc\r\nD :\r\n", True), (b"A\r\n : b\r\n", False), (b"A\0: b\r\n", False),
        (b"A: b\r\nodd\r\n", False), (b" A: b\r\n", False), (b": b\r\n", False), (b"A: b\r\n\r\n", False), (b"A b: c\r\n", False),
    ],
)  # fmt: skip
def test_a_header_section_is_fields_or_it_is_not(head: bytes, expected: bool) -> None:
    assert is_all_fields(head) is expected


@pytest.mark.parametrize(("wire", "head", "body"), [(b"", b"", b""), (b"\r\nx\r\n", b"", b"x\r\n"), (b"A: b\r\n", b"A: b\r\n", b"")])
def test_a_message_may_have_no_header_or_no_body(wire: bytes, head: bytes, body: bytes) -> None:
    assert header_of(wire) == head
    assert wire[body_start(wire) :] == body


@given(st.lists(st.sampled_from([b"A: b", b".", b"..", b".A: b", b" c", b"", b"x"]), max_size=8))
def test_head_and_body_are_all_of_a_message(lines: list[bytes]) -> None:
    message = b"F: x\r\n" + b"".join(line + b"\r\n" for line in lines)
    wire = stuff(message)
    head = header_of(wire)
    assert message.startswith(head)
    assert len(message) - len(head) == len(wire[body_start(wire) :].replace(b"\r\n.", b"\r\n").removeprefix(b".")) + 2 * (b"" in lines)
