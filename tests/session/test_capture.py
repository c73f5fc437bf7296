"""The end of a message: CRLF.CRLF and nothing else, wherever the pieces are cut."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.session.capture import LONG, Capture, content_size, find_end, has_bare_newline

PIECES = st.sampled_from([
    b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"..", b"\r\n..\r\n", b"\n.\n", b"\r.\r", b"\r\n.\r", b"\r\n.\n", b"\n.\r\n", b"\r.\r\n",
    b"x", b"\0",
    b"\xff", b"QUIT", b"\r\n.\r\n",
])  # fmt: skip
SIZES = st.lists(st.integers(1, 12), max_size=60)


def reference(stream: bytes) -> tuple[bytes, bytes] | None:
    """Message and rest, as one reads them who has everything before him; None while there is no end."""
    if stream.startswith(b".\r\n"):
        return b"", stream[3:]
    end = stream.find(b"\r\n.\r\n")
    return None if end < 0 else (stream[: end + 2], stream[end + 5 :])


def feed(capture: Capture, stream: bytes, sizes: Sequence[int]) -> bytes | None:
    """Feed in pieces, until the end; returns what follows it, None if there was none."""
    for size in [*sizes, len(stream)]:
        if not stream:
            return None
        piece, stream = stream[:size], stream[size:]
        rest = capture.feed(piece)
        if rest is not None:
            return rest + stream
    return None


@given(st.lists(PIECES, max_size=30).map(b"".join), SIZES)
@example(b".\r\nQUIT\r\n", [1, 1, 1])
@example(b"\r\n.\r\n", [2, 1, 1])
@example(b"x\r\n.\r\n.\r\n", [1] * 10)
def test_any_cutting_gives_what_a_simple_reader_finds(stream: bytes, sizes: Sequence[int]) -> None:
    capture = Capture(1 << 20)
    rest = feed(capture, stream, sizes)
    expected = reference(stream)
    assert (None if rest is None else (capture.wire, rest)) == expected
    assert not capture.is_over


FILLS = st.tuples(st.sampled_from([b"", b".", b"..", b"a.b ", b"\n.", b"\r\n..", b"\r\n", b"x"]), st.integers(0, 3000))


@given(st.lists(st.one_of(PIECES, FILLS.map(lambda fill: fill[0] * fill[1])), max_size=20).map(b"".join))
def test_the_end_of_what_is_long_is_found_however_many_dots_are_before_it(data: bytes) -> None:
    assert max(find_end(data), -1) == data.find(b"\r\n.\r\n")


@given(st.integers(0, 60), st.integers(0, 2 * LONG), st.lists(PIECES, max_size=4).map(b"".join))
def test_a_long_message_ends_where_a_short_one_would(dots: int, fill: int, after: bytes) -> None:
    capture, stream = Capture(1 << 20), b"x." * dots + b"y" * fill + b"\r\n.\r\n" + after
    assert (capture.feed(stream), capture.wire) == (after, stream[: 2 * dots + fill + 2])


@given(st.lists(PIECES, max_size=30).map(b"".join), SIZES, st.integers(0, 20))
def test_a_message_beyond_the_limit_is_read_to_the_same_end(stream: bytes, sizes: Sequence[int], limit: int) -> None:
    capture = Capture(limit)
    stream = b"x" * 5000 + stream
    rest = feed(capture, stream, sizes)
    expected = reference(stream)
    assert rest == (expected[1] if expected else None)
    if expected:
        assert capture.is_over


@given(st.integers(0, 3000), st.integers(1, 1000))
def test_a_message_that_never_ends_takes_a_bounded_memory(count: int, size: int) -> None:
    capture = Capture(100)
    for _ in range(count):
        assert capture.feed(b"." * size) is None
        assert sum(map(len, capture._chunks)) <= 100 + 50 + 4096 + size


@given(st.binary(max_size=300))
def test_the_limit_is_of_the_content_without_its_stuffed_dots(content: bytes) -> None:
    content = b"".join(line + b"\r\n" for line in content.replace(b"\r", b"").split(b"\n"))
    wire = b"".join(b"." * line.startswith(b".") + line + b"\r\n" for line in content.split(b"\r\n")[:-1])
    assert content_size(wire) == len(content)
    for limit, is_over in ((len(content), False), (len(content) - 1, True)):
        capture = Capture(limit)
        assert capture.feed(wire + b".\r\n") == b""
        assert (capture.wire, capture.is_over) == (wire, is_over)


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"x"]), max_size=12).map(b"".join))
def test_bare_line_ends_are_found(wire: bytes) -> None:
    assert has_bare_newline(wire) == any(end in wire.replace(b"\r\n", b"") for end in (b"\r", b"\n"))


@pytest.mark.parametrize(
    "end",
    [
        b"\n.\n",
        b"\r.\r",
        b"\n.\r\n",
        b"\r\n.\n",
        b"\r.\r\n",
        b"\r\n.\r",
        b"\r\n.\r\r\n",
        b"\r\n\0.\r\n",
        b"\r\n.\0\r\n",
        b"\r\n. \r\n",
        b"\r\n..\r\n",
    ],
)
def test_what_others_may_take_for_the_end_is_none(end: bytes) -> None:
    for cut in range(len(end)):
        capture = Capture(1000)
        assert capture.feed(b"hello" + end[:cut]) is None
        assert capture.feed(end[cut:] + b"MAIL FROM:<evil@x.example>\r\n") is None
        assert capture.feed(b".\r\n") == b""
        assert capture.wire == b"hello" + end + b"MAIL FROM:<evil@x.example>\r\n"
