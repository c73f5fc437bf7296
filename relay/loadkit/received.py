"""What a sink has received: a compact record of each message, and the counts over all of them.

Promise: a message counts only when the sink decided to answer 250 to its final dot. One it had whole but did not answer is kept,
marked, and counts for nothing. One it refused leaves no record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass


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

    def __init__(self, on_message: Callable[[Received], None] | None = None) -> None:
        self._on_message = on_message
        self.messages: list[Received] = []
        self.replies: Counter[int] = Counter()
        """By code."""
        self.ids: Counter[str] = Counter()
        """How often each id was answered."""
        self.answered = 0
        self.damaged = 0
        """Answered messages whose body is not what it was."""
        self.connections = 0
        self.octets = 0

    @property
    def duplicates(self) -> int:
        """Answered messages beyond the first of their id."""
        return self.ids.total() - len(self.ids)

    @property
    def unanswered(self) -> int:
        """Messages that came whole and were not answered."""
        return len(self.messages) - self.answered

    def add(self, message: Received, answered: bool) -> None:
        """Record a message that is decided."""
        message.answered = answered
        self.messages.append(message)
        if self._on_message is not None:
            self._on_message(message)
        if not answered:
            return
        self.answered += 1
        self.octets += message.size
        self.damaged += not message.is_intact
        if message.id:
            self.ids[message.id] += 1
