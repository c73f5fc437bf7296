"""What a worker says in one turn of the loop: first the mail log's lines, in one write, then the replies.

Promise: no reply leaves before what was on its way to the mail log when it was said. Where nothing is, a reply need not wait for its turn.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from relay.journal import Journal


class Speaker(Protocol):
    """A connection that has something to say."""

    def speak(self) -> None:
        """Send what was said."""

    def cut(self) -> None:
        """End it: it cannot speak."""


class Outbox:
    """Where replies wait for the log."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._speakers: list[Speaker] = []
        journal.gather(self._begin)

    def _begin(self) -> None:
        """The first line of a turn: it is written at the turn's end."""
        try:
            asyncio.get_running_loop().call_soon(self.flush)
        except RuntimeError:  # no loop runs yet, or any more, so that there is no turn
            self._journal.flush()

    def send(self, speaker: Speaker) -> None:
        """Send what a connection has to say, once the log is on record."""
        if self._journal.waiting:
            self._speakers.append(speaker)
        else:
            speaker.speak()

    def flush(self) -> None:
        """Write the log and send what waits for it, now."""
        self._journal.flush()
        if self._speakers:
            speakers, self._speakers = self._speakers, []
            for speaker in speakers:
                try:
                    speaker.speak()
                except Exception as error:  # a bug, and one connection's: those behind it must not be silent for it
                    self._journal.bug("", error)
                    speaker.cut()

    def close(self) -> None:
        """The worker ends: from now on every line is written at once."""
        self.flush()
        self._journal.gather(None)
