"""The spellings of an address of the type utf-8 (RFC 6533 section 3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.unitext import is_unitext, read, spell, to_ascii

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)


@given(TEXT)
def test_what_is_spelled_in_ascii_can_stand_in_a_command_and_is_read_as_it_was(text: str) -> None:
    spelled = spell(text)
    assert is_unitext(spelled) and spelled.isascii() and spelled.isprintable() and not set(spelled) & set(" +=")
    assert to_ascii(spelled) == spelled
    if text.isprintable():
        assert read(spelled) == text
    assert read(spelled).isprintable()


@given(st.text(max_size=30) | st.text(st.sampled_from("aü用\\x{}0F8D5C+= \n\u2028"), max_size=20))
def test_what_is_taken_means_the_same_in_either_spelling(text: str) -> None:
    if is_unitext(text):
        assert to_ascii(text).isascii() and is_unitext(to_ascii(text))
        assert read(to_ascii(text)) == read(text)


@pytest.mark.parametrize(
    "text", ["a@b.c", "ü@b.c", "\\x{FC}@b.c", "\\x{fc}@b.c", "用\\x{2B}户@例え.c", "\\x{10FFFF}", "\\x{01}", "a>b", "\\x{7F}"]
)
def test_both_spellings_are_taken(text: str) -> None:
    assert is_unitext(text)


@pytest.mark.parametrize(
    "text",
    ["", "a b", "a+b", "a=b", "a\\b", "\\", "\\x{}", "\\x{F}", "\\x{G0}", "\\x{D800}", "\\x{DFFF}", "\\x{110000}", "\\x{0000}", "\\x{FC",
     "a\u2028b", "a\u00a0b", "a\u202eb", "\u0338a", "\ud800", "a\r", "a\0", "+FC"],
)  # fmt: skip
def test_what_is_neither_is_refused(text: str) -> None:
    assert not is_unitext(text)


def test_what_cannot_be_printed_stays_spelled() -> None:
    assert read("\\x{0D}\\x{0A}To:\\x{20}\\x{FC}\\x{202E}\\x{D800}") == "\\x{0D}\\x{0A}To: ü\\x{202E}\\x{D800}"
