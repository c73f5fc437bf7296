"""How far one attempt has come, and what its deadline does to it there."""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from math import inf

from relay.mail.envelope import Envelope
from relay.mail.reply import Reply
from relay.mail.verdict import Deferred, Verdict, Verdicts
from relay.upstream.conversation import Conversation, Overdue

LATE = "no answer in time"

AGAIN = 0.01
"""Seconds after which the deadline strikes once more: what was waited for may have come with it, and been followed by another wait."""

EARLY = 0.001
"""Seconds by which a timer may strike too early: loops count in milliseconds."""


class Stage(Enum):
    """How far an attempt came."""

    SLOT = auto()
    """All sessions are busy."""
    CONNECT = auto()
    MAIL = auto()
    """Nothing was heard yet on this session."""
    ENVELOPE = auto()
    DATA = auto()
    BEFORE_DOT = auto()
    """The caller was asked, once and for all: no other session can carry the message now."""
    DOT = auto()
    """The final dot is written: from here on the outcome is the smarthost's to tell."""


# To get a member by the name of its class takes as long as to call a function (Python 3.11), and a message passes several.
SLOT, MAIL, DOT = Stage.SLOT, Stage.MAIL, Stage.DOT
_NOBODY: Verdicts = {}


class Progress:
    """One attempt, from `now` on, the loop's time: its deadline in seconds, and `rest` seconds more once the caller was asked."""

    __slots__ = ("_is_late", "_rest", "dot_at", "due", "said", "seconds", "stage")

    def __init__(self, now: float, seconds: float, rest: float = 0.0) -> None:
        self.stage = SLOT
        self.seconds = seconds
        """Until the deadline, at first."""
        self.due = now + seconds
        """When the deadline strikes, or strikes next; the loop's time."""
        self.said = _NOBODY
        """Recipients whose verdict stands, whatever comes."""
        self.dot_at = 0.0
        """When the dot was written."""
        self._is_late = False
        self._rest = rest

    def strike(self, now: float, talk: Conversation) -> None:
        """The deadline: end the wait for the smarthost; the caller's own step before the dot comes to its end."""
        if self._rest and self.stage in (Stage.BEFORE_DOT, DOT):
            self.due, self._rest = self.due + self._rest, 0.0
            return
        self._is_late = True
        talk.interrupt()
        self.due = now + AGAIN

    def reach_dot(self, now: float) -> None:
        """The final dot has just been written, at this time of the loop."""
        self.stage, self.dot_at = DOT, now

    def check(self) -> None:
        """Raise Overdue if the deadline struck and did not end the attempt."""
        if self._is_late:
            raise Overdue

    def verdicts(self, envelope: Envelope, why: str) -> Verdicts:
        """The verdicts of an attempt that was cut short here."""
        return self.verdicts_with(envelope, self._cut_short(why))

    def verdicts_with(self, envelope: Envelope, verdict: Verdict) -> Verdicts:
        """This verdict for every recipient that has none yet."""
        return {**dict.fromkeys(envelope.recipients, verdict), **self.said}

    def _cut_short(self, why: str) -> Deferred:
        match self.stage:
            case Stage.DOT:
                return Deferred(Reply(451, "4.2", f"Upstream outcome unknown: {why}"), in_doubt=True)
            case Stage.SLOT:
                return Deferred(Reply(451, "4.5", f"Every session with upstream is busy: {why}"), unreached=True)
            case Stage.CONNECT:
                return Deferred(Reply(451, "4.1", f"Upstream not reachable: {why}"), unreached=True)
            case _:
                return Deferred(Reply(451, "4.2", f"Upstream connection failed: {why}"))


class Watch:
    """The deadlines of what is under way on one session, one attempt after the other.

    Its timer is left as it is when an attempt ends, and set anew only when it strikes or would strike too late: mostly once in the time
    of a deadline, not twice for every message.
    """

    __slots__ = ("_at", "_loop", "_progress", "_talk", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, talk: Conversation) -> None:
        self._loop = loop
        self._talk = talk
        self._progress: Progress | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._at = inf

    def begin(self, progress: Progress) -> None:
        """Let the deadline of this attempt strike while it is the one."""
        self._progress = progress
        if progress.due < self._at:
            self._set(progress.due)

    def end(self) -> None:
        """The attempt is over."""
        self._progress = None

    def close(self) -> None:
        """The session is over."""
        self._progress = None
        self._set(inf)

    def _set(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = at
        self._timer = None if at == inf else self._loop.call_at(at, self._strike)

    def _strike(self) -> None:
        progress, now = self._progress, self._loop.time()
        if progress is not None and progress.due <= now + EARLY:
            progress.strike(now, self._talk)
        self._set(inf if progress is None else progress.due)
