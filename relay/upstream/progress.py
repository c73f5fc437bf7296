"""How far one attempt has come, and what its deadline does to it there."""

from __future__ import annotations

import asyncio
from enum import Enum, auto

from relay.mail.envelope import Envelope, Recipient
from relay.mail.reply import Reply
from relay.mail.verdict import Deferred, Verdict, Verdicts
from relay.upstream.conversation import Broken, Conversation

LATE = "no answer in time"


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


class Progress:
    """One attempt of the task that makes it, with its deadline in seconds from now, and `rest` seconds more once the caller was asked.

    The deadline is one timer, and ends the attempt in the way its stage allows: it cancels the task (as asyncio.timeout would); it lets
    the caller's own step before the dot come to its end; or it ends the wait for the answer to the dot without giving that answer up.
    """

    __slots__ = (
        "_cancelling", "_has_cancelled", "_is_late", "_loop", "_rest", "_talk", "_task", "_timer", "dot_at", "said", "seconds", "stage",
    )  # fmt: skip

    def __init__(self, seconds: float, rest: float = 0.0) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None
        self.stage = Stage.SLOT
        self.seconds = seconds
        """Until the deadline, at first."""
        self.said: dict[Recipient, Verdict] = {}
        """Recipients whose verdict stands, whatever comes."""
        self.dot_at = 0.0
        """When the dot was written, the loop's time."""
        self._task = task
        self._cancelling = task.cancelling()
        self._talk: Conversation | None = None
        self._is_late = False
        self._rest = rest
        self._has_cancelled = False
        self._loop = loop
        self._timer = loop.call_later(seconds, self._strike)

    def _strike(self) -> None:
        if self._rest and self.stage in (Stage.BEFORE_DOT, Stage.DOT):
            self._timer, self._rest = self._loop.call_later(self._rest, self._strike), 0.0
            return
        self._is_late = True
        if self.stage is Stage.DOT:
            assert self._talk is not None
            self._talk.interrupt()
        elif self.stage is not Stage.BEFORE_DOT:
            self._has_cancelled = True
            self._task.cancel()

    @property
    def is_overdue(self) -> bool:
        """Whether a cancellation that is passing is the deadline's own, and nobody else wants this task to end."""
        return self._has_cancelled and self._task.cancelling() <= self._cancelling + 1

    def check(self) -> None:
        """Raise Broken if the deadline struck while it could not end the attempt."""
        if self._is_late:
            raise Broken(LATE)

    def reach_dot(self, talk: Conversation) -> None:
        """The final dot has just been written on this conversation."""
        self.stage, self._talk, self.dot_at = Stage.DOT, talk, self._loop.time()

    def end(self) -> None:
        """Stop the timer; call it once, when the attempt is over."""
        self._timer.cancel()
        if self._has_cancelled:
            self._task.uncancel()

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
