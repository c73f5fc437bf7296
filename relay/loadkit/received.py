"""What a sink has received: a compact record of each message, and the counts over all of them.

Promise: a message counts only when the sink decided to answer 250 to its final dot. One it had whole but did not answer is kept,
marked, and counts for nothing. One it refused leaves no record. Where messages are counted only, memory is bounded: an id that came
longer ago than a hundred thousand others is taken for a new one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

MOST_IDS = 100_000
"""Ids remembered where messages are counted only."""


@dataclass(slots=True)
class Received:
    """One message; `answered` is set once its 250 is decided."""

    sender: str
    recipients: tuple[str, ...]
    """Those accepted."""
    mail_params: str
    """As sent."""
    rcpt_params: tuple[str, ...]
    size: int
    """Octets after dot-unstuffing."""
    id: str
    """X-Load-Id, else Message-ID, else empty."""
    is_intact: bool
    """Whether its X-Load-Sum, if it has one, agrees with its body."""
    user: str
    """Who authenticated."""
    at: float
    """When its final dot had come, time.time()."""
    digest: bytes = b""
    """SHA-256, where the sink keeps it."""
    content: bytes | None = None
    """Where the sink keeps it."""
    answered: bool = False


class Intake:
    """All that one sink received, and all that it replied."""

    def __init__(self, on_message: Callable[[Received], None] | None = None, *, is_record: bool = True) -> None:
        """Not `is_record`: messages are counted only, for as long as it runs."""
        self._on_message = on_message
        self._is_record = is_record
        self.messages: list[Received] = []
        self.replies: Counter[int] = Counter()
        """By code."""
        self.ids: Counter[str] = Counter()
        """How often each id was answered."""
        self.distinct = self.answered = self.unanswered = 0
        self.damaged = 0
        """Answered messages whose body is not what it was."""
        self._named = 0
        self.connections = 0
        self.octets = 0

    @property
    def duplicates(self) -> int:
        """Answered messages beyond the first of their id."""
        return self._named - self.distinct

    def add(self, message: Received, answered: bool) -> None:
        """Record a message that is decided."""
        message.answered = answered
        if self._is_record:
            self.messages.append(message)
        if self._on_message is not None:
            self._on_message(message)
        if not answered:
            self.unanswered += 1
            return
        self.answered += 1
        self.octets += message.size
        self.damaged += not message.is_intact
        if message.id:
            self._named += 1
            self.distinct += message.id not in self.ids
            self.ids[message.id] += 1
            if len(self.ids) > MOST_IDS and not self._is_record:
                del self.ids[next(iter(self.ids))]  # the one that came first
