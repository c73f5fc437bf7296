"""TestSmtpServer's request: what it costs to read a large one."""

from __future__ import annotations

import time

from relay.dialects.superoffice import read_request

PARTS = 400_000


def test_text_in_many_parts_is_read_in_a_time_that_grows_with_its_length() -> None:
    body = b"<a><SmtpUri>smtp://h.example</SmtpUri><From>" + b"a<b/>" * PARTS + b"</From><UseStoredPassword/></a>"
    began = time.process_time()
    asked = read_request(body, "text/xml")
    assert time.process_time() - began < 1.0  # it takes 0.2 s; joined one after the other, 1.9
    assert (asked.uri, asked.sender, asked.uses_stored) == ("smtp://h.example", "a" * PARTS, False)
