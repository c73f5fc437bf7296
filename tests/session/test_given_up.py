"""An upload that is given up, for want of memory, keeps nothing: not even what had come whole by then."""

from __future__ import annotations

import pytest

from relay.session.capture import Capture

MESSAGE = b"Subject: x\r\n\r\n" + b"y" * 10_000 + b"\r\n"


@pytest.mark.parametrize("pieces", [1, 3])
def test_what_is_given_up_once_it_is_whole_is_not_held(pieces: int) -> None:
    wire = MESSAGE + b".\r\n"
    capture, step = Capture(1 << 20), -(-len(wire) // pieces)
    rests = [capture.feed(wire[start : start + step]) for start in range(0, len(wire), step)]
    assert rests[-1] == b""
    assert capture.wire == MESSAGE
    capture.give_up()
    assert (capture.wire, capture.is_given_up) == (b"", True)
