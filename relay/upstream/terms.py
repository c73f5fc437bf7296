"""What a caller asks of one attempt to forward, and what it gets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from relay.mail.envelope import Recipient
from relay.mail.verdict import Verdict, Verdicts


@dataclass(frozen=True, slots=True)
class Terms:
    """The conditions of one attempt; durations in seconds."""

    deadline: float
    """From the call to the end of the caller's wait."""
    is_split: bool = False
    """Some recipients may be served without the others: the caller can keep the message for those."""
    patience: float = 0.0
    """How long after the final dot its answer is still listened for, beyond the deadline (RFC 5321 section 4.5.3.2.6: 600 s)."""
    before_dot: Callable[[Mapping[Recipient, Verdict]], Awaitable[None]] | None = None
    """Awaited exactly once, with the verdicts of the recipients already refused: after 354, or the recipients' replies where the content
    goes as a chunk, and before the first octet of it.

    If it raises, the connection is aborted, nothing was offered, and the exception passes through unchanged. The deadline does not
    cut it short: one that strikes meanwhile ends the attempt when it returns, without a dot.
    """


class Window(NamedTuple):
    """The time of an attempt that another smarthost may follow, in seconds."""

    share: float
    """For this one, as long as the caller was not asked yet."""
    rest: float
    """What is left of the caller's wait after that: an answer to the final dot is waited for until then."""


class Attempt(NamedTuple):
    """What became of it."""

    verdicts: Verdicts
    """For every recipient."""
    late: asyncio.Task[Verdicts] | None = None
    """Set when the deadline came after the dot and patience is left: the verdicts say in doubt, this task will have the final ones; in
    doubt still if the connection is lost or patience ends. It raises nothing unless it is cancelled, which aborts the connection."""
    is_open: bool = False
    """Nothing was said of the message, its caller was not asked and nothing of its content was sent: another smarthost may have it."""
    host: str = ""
    """The smarthost that this is of; where there were several, the last one."""
