"""However a client's stream is cut into pieces, it is answered and taken as a simple reader reads the whole of it.

The reader is tests/fuzz/reader.py; the sessions are the relay's own, over a transport in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz.harness import Bench, compare, compare_hasty
from tests.fuzz.rooms import FORWARDS, RESERVES, Script
from tests.fuzz.seeds import ENVELOPE, LOG_IN, MESSAGE, bdat, cut

CANARY = b"MAIL FROM:<canary@e.example>\r\nRCPT TO:<canary@e.example>\r\nDATA\r\ncanary\r\n.\r\n"

OCTETS = st.lists(
    st.sampled_from([
        b"\r", b"\n", b".", b"\0", b"x", b"\xff", b"\r\n", b"..", b"\r\n.", b".\r\n", b"\r\n..\r\n", b"\n.\n", b"\r.\r", b"\r\n.\r",
        b"\r\n.\n", b"\n.\r\n", b"\r\n.\r\n", b"\r\n.\0\r\n", b"Subject: x\r\n", b"\r\n\r\n", b"QUIT\r\n", b"RSET\r\n", b"BDAT 3\r\n",
        b"y" * 150,
    ]),
    max_size=8,
).map(b"".join)  # fmt: skip

COMMANDS = st.sampled_from([
    b"NOOP\r\n", b"RSET\r\n", b"DATA\r\n", b"DATA x\r\n", b"BDAT 0\r\n", b"BDAT 0 LAST\r\n", b"BDAT 4\r\nNOOP", b"BDAT 500\r\n",
    b"BDAT -1\r\n", b"QUIT\r\n",
    b"HELP\r\n", b"VRFY x\r\n", b"EHLO x\r\n", b"MAIL FROM:<>\r\n", b"RCPT TO:<x@y.example>\r\n", b"\r\n", b"x\n", b"NO\0OP\r\n",
    ENVELOPE, CANARY,
])  # fmt: skip

BY_DATA = OCTETS.map(lambda octets: ENVELOPE + b"DATA\r\n" + octets + b"\r\n.\r\n")


@st.composite
def by_bdat(draw: st.DrawFn) -> bytes:
    """A message in chunks, with what may come between two of them."""
    chunks = draw(
        st.lists(st.tuples(OCTETS, st.sampled_from([b"", b"", b"", b"NOOP\r\n", b"RSET\r\n", b"DATA\r\n", b"x\r\n"])), max_size=4)
    )
    return ENVELOPE + b"".join(bdat(octets) + between for octets, between in chunks) + bdat(draw(OCTETS), is_last=True)


STREAMS = st.lists(st.one_of(COMMANDS, BY_DATA, by_bdat()), max_size=5).map(b"".join)
CUTS = st.lists(st.integers(0, 1 << 12), max_size=8)
SCRIPTS = st.builds(
    Script, reserves=st.lists(st.sampled_from(("ok", *RESERVES)), max_size=3), forwards=st.lists(st.sampled_from(FORWARDS), max_size=3)
)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """A loop for all of them."""
    bench = Bench()
    yield bench
    bench.close()


@given(STREAMS, CUTS, SCRIPTS)
@settings(max_examples=2000, deadline=None)
@example(b"DATA\r\n" + CANARY, [87], Script())
@example(ENVELOPE + bdat(b"x") + b"MAIL FROM:<a@b>\r\nRSET\r\n" + MESSAGE, [], Script())
def test_any_stream_in_any_pieces_is_read_as_a_simple_reader_reads_it(
    bench: Bench, stream: bytes, cuts: Sequence[int], script: Script
) -> None:
    compare(bench, cut(LOG_IN + stream, [len(LOG_IN) + place for place in cuts]), script=script)


@given(STREAMS, CUTS, st.lists(st.sampled_from([0.0, 0.0, 0.004, 0.011, 0.025]), max_size=9), SCRIPTS)
@settings(max_examples=800, deadline=None)
def test_a_client_that_does_not_wait_is_read_no_otherwise(
    bench: Bench, stream: bytes, cuts: Sequence[int], pauses: Sequence[float], script: Script
) -> None:
    compare_hasty(bench, cut(LOG_IN + stream, cuts), pauses, script)


ENDS = [
    b"\n.\n",
    b"\r\n.\n",
    b"\n.\r\n",
    b"\r.\r",
    b"\r\n.\r",
    b"\r.\r\n",
    b"\n\n.\r\n",
    b"\r\n.\0\r\n",
    b"\r\n\0.\r\n",
    b"\0\r\n.\n",
    b"\r\n..\r\n",
    b"\r\n.\r\r\n",
]


@pytest.mark.parametrize("by", ["DATA", "BDAT"])
@pytest.mark.parametrize("end", ENDS, ids=repr)
def test_what_some_take_for_an_end_is_none_wherever_it_is_cut(bench: Bench, end: bytes, by: str) -> None:
    content = b"Subject: x\r\n\r\nx" + end + CANARY
    inner = content.removesuffix(b".\r\n")
    stream = ENVELOPE + (b"DATA\r\n" + inner + b".\r\n" if by == "DATA" else bdat(inner, is_last=True)) + b"QUIT\r\n"
    start = len(LOG_IN) + len(ENVELOPE)
    for place in range(start, len(LOG_IN + stream)):
        outcome = compare(bench, cut(LOG_IN + stream, [place]))
        assert outcome.codes[-1] == 221
        assert all("canary@e.example" not in offer.recipients for offer in outcome.offers)
    compare(bench, [bytes([octet]) for octet in LOG_IN + stream])


@pytest.mark.parametrize(
    "stream",
    [
        ENVELOPE + MESSAGE + ENVELOPE + b"DATA\r\n.\r\n" + ENVELOPE + b"DATA\r\n..\r\n.\r\nQUIT\r\n",
        ENVELOPE + b"DATA\r\n\r\n.\r\n" + ENVELOPE + bdat(b"") + bdat(b".\r\n.", is_last=True) + b"QUIT\r\n",
        ENVELOPE + bdat(b"\r") + bdat(b"\n") + bdat(b".\r\nQUIT\r\n") + bdat(b"", is_last=True) + b"QUIT\r\n",
        ENVELOPE + bdat(b"x" * 390) + bdat(b"y" * 11) + bdat(b"QUIT\r\n") + bdat(b"QUIT\r\n", is_last=True) + b"QUIT\r\n",
        b"MAIL FROM:<a@b.example>\r\n" + bdat(b"QUIT\r\n") + bdat(b"DATA\r\n", is_last=True) + b"RSET\r\n" + ENVELOPE + MESSAGE,
        ENVELOPE + bdat(b"x\r\n") + b"RSET\r\n" + bdat(b"QUIT\r\n", is_last=True) + ENVELOPE + MESSAGE + b"QUIT\r\n",
        ENVELOPE + b"DATA\r\n" + b"x" * 398 + b"\r\n.\r\n" + ENVELOPE + b"DATA\r\n" + b"x" * 399 + b"\r\n.\r\nQUIT\r\n",
    ],
)  # fmt: skip
def test_a_stream_is_read_the_same_wherever_it_is_cut(bench: Bench, stream: bytes) -> None:
    whole = compare(bench, [LOG_IN + stream])
    for place in range(len(LOG_IN), len(LOG_IN + stream)):
        assert compare(bench, cut(LOG_IN + stream, [place])) == whole
    assert compare(bench, [LOG_IN, *(bytes([octet]) for octet in stream)]) == whole


@pytest.mark.parametrize("size", [12_309, 12_310, 12_311, 12_312])
def test_a_line_is_too_long_by_its_length_wherever_it_is_cut(bench: Bench, size: int) -> None:
    line = b"NOOP ".ljust(size, b"x") + b"\r\n"
    for place in [*range(size - 5, size + 2), 1, 4096]:
        for pieces in ([line], [line[:place], line[place:]], [b"RSET\r\n" + line]):
            assert compare(bench, pieces).codes[-1] == (250 if size <= 12_310 else 500)
