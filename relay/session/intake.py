"""The intake of one connection: how its messages come in, each within its deadline and the budget of memory.

Promises:
- A message is followed by commands only after its end, and is complete before anybody is told of it.
- A client that uploads too slowly holds its connection no longer than its deadline: Silent ends it. What it had to wait for the budget is
  not held against it.
- What a message holds of the budget is given back, whatever becomes of its connection.
"""

from __future__ import annotations

import asyncio

from relay.session.budget import Budget
from relay.session.capture import Capture, Upload
from relay.session.engine import Engine
from relay.session.house import Rules
from relay.session.outbox import Outbox

START_MAIL = b"354 End data with <CR><LF>.<CR><LF>\r\n"


class Intake(Engine):
    """Reads messages."""

    __slots__ = ("_began", "_budget", "_excused", "_held", "_seated", "_until")

    def __init__(self, loop: asyncio.AbstractEventLoop, rules: Rules, budget: Budget, outbox: Outbox) -> None:
        super().__init__(loop, rules, outbox)
        self._budget = budget
        self._began = self._until = 0.0  # of the upload: when it began, and when it must be there however fast it comes
        self._seated: Upload | None = None
        self._held = 0  # octets of this connection in the budget
        self._excused = 0.0  # seconds that an upload had to wait for the budget

    @property
    def account(self) -> str:
        """Whose memory a message of this connection takes; "" while nobody has logged in."""
        return ""

    def message(self) -> asyncio.Future[Upload]:
        """Say 354 and read a message to its end, for which the future waits; either raises Gone or Silent."""
        capture = Capture(self._rules.max_message_bytes)
        self._out.append(START_MAIL)
        self.take_seat(capture)
        now = self._events.time()
        return self.receive(capture, now + self._rules.data_deadline, now)

    def take_seat(self, upload: Upload) -> None:
        """A message begins: until it is complete, between its chunks too, the budget may have it wait, or given up."""
        self._seated, self._excused = upload, 0.0
        self._budget.begin(self)

    def leave_seat(self, octets: int = 0) -> None:
        """It is complete, with so many octets in its last piece, or broken off."""
        upload, self._seated, self._upload = self._seated, None, None
        if upload is None:
            return
        if not self._budget.end(self, self._held, octets):
            upload.give_up()
            self.release()
        if self._starving is not None:
            self.relieve()

    def receive(self, upload: Upload, latest: float, began: float) -> asyncio.Future[Upload]:
        """Read an upload that `began` then, or a chunk of it, to its end, for which the future waits.

        Either raises Gone, or Silent if it is too slow or takes longer than `latest`.
        """
        self._upload = upload
        if self._at < len(self._buffer):
            data, self._buffer, self._at = self._buffer[self._at :], b"", 0
            rest = self._feed(upload, data)
            if rest is not None:
                self._buffer = rest
                done: asyncio.Future[Upload] = self._events.create_future()
                done.set_result(upload)
                return done
        if self._out:  # else what was said goes out with the rest of its group
            self._outbox.send(self)
        self._began, self._until = began, latest
        due = began + self._rules.grace  # what it may take beyond is found when that is over
        return self._input(due if due < latest else latest)

    def _due(self, upload: Upload) -> float:
        """When an upload must be there, had it nothing more to come."""
        rate = self._rules.min_rate
        if not rate:
            return self._until
        return min(self._until, self._began + self._rules.grace + self._excuse() + upload.octets / rate)

    def _feed(self, upload: Upload, data: bytes) -> bytes | None:
        """Give octets to the upload; returns what follows it once it is complete."""
        rest = upload.feed(data)
        octets = len(data) - len(rest) if rest else len(data)
        if upload.is_given_up or upload.is_over:
            self.release()
            octets = 0
        self._held += octets
        if rest is None:
            self._budget.take(octets)
            return None
        if upload.is_whole:
            self.leave_seat(octets)
        else:
            self._upload = None
            self._budget.take(octets)
        return rest

    def release(self) -> None:
        """The octets of the message are needed no more."""
        if self._held:
            held, self._held = self._held, 0
            self._budget.give_back(self, held)

    def starve(self) -> None:
        """The budget has no room: read no more of the upload, and give it up if that lasts."""
        upload = self._seated
        if upload is not None and not upload.is_given_up and not upload.is_over and self._starving is None:
            self._transport.pause_reading()
            self._starving = self._events.call_later(self._rules.upload_wait, self._give_up)

    def relieve(self) -> None:
        """There is room again, or none is needed: read on."""
        if self._starving is not None:
            self._excused = self._excuse()
            self._starving.cancel()
            self._starving = None
            if not self._is_held_back and not self._transport.is_closing():
                self._transport.resume_reading()

    def _excuse(self) -> float:
        """Seconds that the upload had to wait for the budget, up to now."""
        if self._starving is None:
            return self._excused
        return self._excused + self._rules.upload_wait - max(0.0, self._starving.when() - self._events.time())

    def _give_up(self) -> None:
        if self._seated is not None:
            self._seated.give_up()
            self.release()
        self.relieve()

    def finish(self) -> None:
        """Close the connection, after what was written; who does not read that is cut off."""
        self.leave_seat()
        self.release()
        super().finish()
