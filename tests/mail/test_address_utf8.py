"""Mailboxes beyond ASCII (RFC 6531 section 3.3): what people can read is taken, what could be read in two ways is not."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from relay.mail.address import a_label, canonical, is_mailbox, parse_path

LETTER = st.characters(categories=["Ll", "Lo", "Nd"], min_codepoint=0x80).filter(lambda one: unicodedata.normalize("NFKC", one) == one)
ATOM = st.text(st.sampled_from("abcXYZ019!#$%&'*+-/=?^_`{|}~") | LETTER, min_size=1, max_size=6)
QUOTED = st.text(st.sampled_from("ab <>@,;:().[] ") | LETTER, max_size=6).map(lambda text: f'"{text}"')
LABEL = st.text(st.sampled_from("abcXYZ019") | LETTER, min_size=1, max_size=6).filter(
    lambda label: unicodedata.is_normalized("NFKC", label)
)
MAILBOX = st.builds(
    "{}@{}".format,
    st.lists(ATOM, min_size=1, max_size=2).map(".".join) | QUOTED,
    st.lists(LABEL, min_size=1, max_size=3).map(".".join),
)
TRICKS = "\u00a0\u0085\u0338\u200c\u200d\u2028\u202e\u3002\uff0e\uff20\ufeff\ud800"
ANY = (
    st.text(max_size=40)
    | st.text(st.sampled_from('ab.@<>"\\,;:()[] \t\r\n\0üÜ用é' + TRICKS), max_size=20)
    | MAILBOX
)  # fmt: skip


@given(MAILBOX)
def test_every_mailbox_of_readable_letters_is_read_as_itself(mailbox: str) -> None:
    assume(len(mailbox.rpartition("@")[0].encode()) <= 64)
    assert is_mailbox(mailbox, True)
    assert parse_path(f"<{mailbox}>", True) == (mailbox, "")
    assert parse_path(f"<@hop.example,@hüp.example:{mailbox}> A=1 B", True) == (mailbox, "A=1 B")
    assert is_mailbox(mailbox) == mailbox.isascii()


@given(ANY)
@example("ü@b.c\n")
@example('"ü\r"@b.c')
@example("a\u0085@b.c")
@example("\uff20@b.c")
@example("a@b\u3002c")
def test_whatever_is_accepted_can_stand_in_a_command_and_in_a_header_however_it_is_normalised(text: str) -> None:
    found = parse_path(text, True) or parse_path(f"<{text}>", True)
    if found is None:
        return
    mailbox, _ = found
    assert len(mailbox.encode()) <= 254  # which no surrogate lets pass
    assert all(letter.isprintable() or letter in "\u200c\u200d" for letter in mailbox)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", unicodedata.normalize(form, mailbox))
        assert not set(bare) & set('<>()," ;\\') and bare.count("@") == (1 if mailbox else 0), (form, mailbox)
    assert parse_path(f"<{mailbox}>", True) == (mailbox, "")
    if mailbox.isascii():
        assert not mailbox or is_mailbox(mailbox)


@given(st.text(max_size=60))
def test_what_is_ascii_is_read_the_same_way_with_and_without_smtputf8(text: str) -> None:
    text = "".join(letter for letter in text if letter.isascii())
    for path in (text, f"<{text}>", f"<{text}@b.example>"):
        assert parse_path(path) == parse_path(path, True)


@pytest.mark.parametrize(
    "mailbox",
    ["jürgen@bücher.example", "用户@例え.example", "δοκιμή@παράδειγμα.δοκιμή", "ಬೆಂಬಲ@ಡೇಟಾಮೇಲ್.ಭಾರತ", "उदाहरण@उदाहरण.परीक्षा",
     "a@faß.example", "a@l·l.example", "Ünal@Bücher.example", "e\u0301@b.example", "😀@b.example", "x@می\u200cکند.example",
     "ශ්\u200dරී@ශ්\u200dරී.example", "می\u200cکند@b.example", '"ü <x@y>"@b.example', "ü@[192.0.2.1]", "ü@[IPv6:::1]"],
)  # fmt: skip
def test_real_addresses_are_taken(mailbox: str) -> None:
    assert is_mailbox(mailbox, True) and not is_mailbox(mailbox)


@pytest.mark.parametrize(
    "mailbox",
    ["a\u00a0b@d.example", "a\u00adb@d.example", "a\u0080b@d.example", "a\u2003b@d.example", "a\u200bb@d.example",
     "a\u200eb@d.example", "a\u202eb@d.example", "a\u2066b@d.example", "a\u2028b@d.example", "a\u2029b@d.example",
     "\ufeffa@d.example", "a\ufffeb@d.example", "a\ue000b@d.example", "a\U000e0041b@d.example", "a\U0010ffff@d.example",
     "a\ud800@d.example", "a\u200cb@d.example", "\u200cü@d.example", "ü\u200dü@d.example", "a\uff20b@d.example",
     "a\uff20d.example", "a\u2024b@d.example", "a…b@d.example", "a\uff1bb@d.example", "a\uff1cb@d.example",
     "a\u00b4b@d.example", "\u0338ü@d.example", "ü.\u0301@d.example", "=\u0338@d.example", '"\u0301"@d.example', "a@Ü.example",
     "a@😀.example", "a@b\u3002example", "a@ü.\u0301.example", "a@e\u0301.example", "a@\uff42.example", "a@-ü.example",
     "a@ü-.example", "a@üü--b.example", "a@ü..example", "ü@", "@ü", "ü", "a@b_ü.example", "ü@[ü]", "a@①.example"],
)  # fmt: skip
def test_what_could_be_read_in_two_ways_or_not_at_all_is_refused(mailbox: str) -> None:
    assert not is_mailbox(mailbox, True)


@pytest.mark.parametrize(
    ("mailbox", "is_one"),
    [
        ("ü" * 32 + "@d.example", True),
        ("ü" * 32 + "l@d.example", False),
        ("用" * 21 + "l@d.example", True),
        ("用" * 22 + "@d.example", False),
    ],
)
def test_the_limit_of_a_local_part_counts_octets(mailbox: str, is_one: bool) -> None:
    assert is_mailbox(mailbox, True) is is_one


def test_the_limit_of_a_label_is_that_of_its_a_label() -> None:
    longest = "ü" * 52
    assert len(a_label(longest)) <= 63 < len(a_label(longest + "üüüüüü"))
    assert is_mailbox(f"a@{longest}.example", True)
    assert not is_mailbox(f"a@{longest}üüüüüü.example", True)


def test_the_limit_of_a_path_counts_octets() -> None:
    domain = ".".join(["ü" * 30] * 4)
    assert len(domain.encode()) == 243
    assert is_mailbox(f"{'l' * 10}@{domain}", True)
    assert not is_mailbox(f"{'l' * 11}@{domain}", True)


@pytest.mark.parametrize(
    ("a", "b"),
    [("a@Bücher.Example", "a@bücher.example"), ("a@bücher.example", "a@XN--BCHER-KVA.EXAMPLE"), ("ü@B.example", "ü@b.EXAMPLE"),
     ("a@straße.example", "a@xn--strae-oqa.example")],
)  # fmt: skip
def test_the_forms_of_a_domain_are_one_mailbox(a: str, b: str) -> None:
    assert is_mailbox(a, True) and is_mailbox(b, True)
    assert canonical(a) == canonical(b)


def test_the_forms_of_a_local_part_are_not() -> None:
    assert len({canonical(f"{local}@b.example") for local in ("ü", "Ü", "u\u0308", "xn--tda")}) == 4
