"""Replies: one line each, whatever they were made of."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from relay.mail.reply import Reply, from_upstream, sanitise

CODES = st.integers(200, 599)


@given(CODES, st.text(max_size=600))
@example(550, "5.1.1 a\r\n250 2.0.0 fooled")
@example(250, "2.0.0 a\n2.0.0 b")
@example(550, "5.\u0661.1 digits of another script")
@example(550, "\u2028\x85\x0b\x0c\x1c")
@example(250, "")
def test_whatever_a_smarthost_says_is_one_line_of_printable_ascii(code: int, text: str) -> None:
    reply = from_upstream(code, text)
    line = bytes(reply)
    assert line.endswith(b"\r\n") and line.count(b"\r") == line.count(b"\n") == 1
    assert line[:-2].decode("ascii").isprintable() and len(line) <= 512
    assert line.startswith(b"%d %d." % (code, code // 100))
    assert reply.text and reply.status.split(".")[0] == str(code)[0]
    assert all(part.isascii() and part.isdigit() for part in reply.status.split("."))


def test_an_enhanced_code_is_kept_where_its_class_agrees() -> None:
    assert str(from_upstream(550, "5.1.1 no such user")) == "550 5.1.1 no such user"
    assert str(from_upstream(550, "4.1.1 odd")) == "550 5.0.0 odd"
    assert str(from_upstream(550, "no code")) == "550 5.0.0 no code"
    assert str(from_upstream(550, "5.1.1")) == "550 5.1.1 no text"
    assert str(from_upstream(550, "5.1.1.1 what")) == "550 5.0.0 5.1.1.1 what"
    assert str(from_upstream(250, "2.0.0 first\n2.0.0 second\nthird")) == "250 2.0.0 first second third"


@given(st.text(), st.integers(1, 50))
def test_foreign_text_is_made_safe_and_short(text: str, limit: int) -> None:
    safe = sanitise(text, limit)
    assert len(safe) <= limit and safe.isascii() and (safe.isprintable() or not safe)


def test_a_reply_without_an_enhanced_code_has_none() -> None:
    assert bytes(Reply(354, "", "Go on")) == b"354 Go on\r\n"


@given(CODES, st.sampled_from(["", "7.1"]), st.integers(480, 600))
def test_no_reply_is_longer_than_512_octets(code: int, detail: str, length: int) -> None:
    line = bytes(Reply(code, detail, "x" * length))
    assert len(line) <= 512 and line.endswith(b"x\r\n") and line.count(b"\n") == 1
