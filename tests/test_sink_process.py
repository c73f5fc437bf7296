"""The smarthost that may be killed: what it answered 250 is on record whatever happens to it, and it comes back on its port."""

from __future__ import annotations

import asyncio
import smtplib
from pathlib import Path

from tests.account import Copy
from tests.sink_process import SinkProcess


async def test_what_was_answered_before_a_kill_is_on_record_after_it(place: Path) -> None:
    sink = SinkProcess(place, 'dot match=late* stall=forever\ndot match=no* reply="554 5.6.0 not that"\n')
    try:
        for number in range(2):
            await sink.start()
            mark = f"m{number}@app.example"
            assert await asyncio.to_thread(_send, sink.port, mark, "to@example.net", "no@example.net")
            await sink.end()
            assert sink.copies()[-1] == Copy(f"m{number}", mark, ("to@example.net",))
        assert len(sink.copies()) == 2

        await sink.start()
        sending = asyncio.create_task(asyncio.to_thread(_send, sink.port, "m2@app.example", "late@example.net"))
        await asyncio.sleep(0.3)
        await sink.end()
        assert not await sending
        assert len(sink.copies()) == 2
    finally:
        await sink.end()


def _send(port: int, sender: str, *recipients: str) -> bool:
    """Send a message to each; whether the first was taken and the others were not."""
    replies = []
    for recipient in recipients:
        try:
            with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
                client.sendmail(sender, recipient, f"Message-ID: <{sender.replace('app', 'its')}>\r\n\r\nx\r\n")
        except (OSError, smtplib.SMTPException):
            replies.append(False)
        else:
            replies.append(True)
    return replies == [True] + [False] * (len(recipients) - 1)
