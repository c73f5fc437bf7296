"""One message a load tried to send, and what its client saw of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Stage = Literal["connect", "auth", "mail", "rcpt", "data", "dot"]

# No more digits than thirty years have: what is longer is nobody's wait.
_RETRY_AFTER = re.compile(r"retry-after=([0-9]{1,9})(?![0-9])")
_TAKEN = re.compile(r"2\.0\.0 (\S+)")


@dataclass(slots=True)
class Attempt:
    """Filled in as the transaction proceeds. Instants are of time.monotonic(), those named `_at` of time.time(); 0.0 is never."""

    load_id: str
    """Empty for a connection that never came to its first message."""
    user: str
    connection: int
    units: int
    """Recipients offered; after the flight, those accepted if any were."""
    started: float = 0.0
    started_at: float = 0.0
    dot_sent: float = 0.0
    replied: float = 0.0
    replied_at: float = 0.0
    """When the last word was heard, or the connection was found lost."""
    code: int = 0
    """0: no reply."""
    text: str = ""
    """The reply's text without its code; lines joined by newlines."""
    stage: Stage | None = None
    """Where it was refused or fell silent; None for a 250 to the final dot."""
    entered_at: float = 0.0
    """When its connection had logged in, time.time(); 0.0 where that was not noted."""
    due: float = 0.0
    """When its pattern wanted it sent, time.monotonic(); 0.0 where it was sent as soon as there was a connection for it."""
    sender: str = ""
    """Of its envelope; "" where that was not noted."""
    recipients: Sequence[str] = ()
    """Of its envelope; after the flight those accepted if any were. Empty where they were not noted."""

    @property
    def latency(self) -> float:
        """Seconds to the last word, from the instant it was due where there is one.

        A load that waits for a slow server sends late; counted from the sending, the messages that had to wait would hide the wait.
        """
        return self.replied - (self.due or self.started)

    @property
    def is_taken(self) -> bool:
        """Whether the client heard a positive reply to its final dot."""
        return self.stage is None and 200 <= self.code < 300

    @property
    def is_unanswered(self) -> bool:
        """Whether the final dot was sent and nothing was heard of it."""
        return self.dot_sent > 0 and self.code == 0

    @property
    def retry_after(self) -> int | None:
        """Seconds that a refusal asked to wait; None too where it is no number that anybody could mean."""
        found = _RETRY_AFTER.search(self.text)
        return int(found[1]) if found else None

    @property
    def relay_id(self) -> str:
        """The relay's id of a taken message (`250 2.0.0 <id> ...`), "" where there is none."""
        found = _TAKEN.match(self.text) if self.is_taken else None
        return found[1] if found else ""
