"""The pool of sessions with one smarthost, and the one attempt to forward a message over it.

Promises:
- At most `max_connections` messages are offered at a time, and as many sessions idle or in use. One whose answer is late is beside
  these: it holds nobody up, and counts again only when it is kept.
- A session that is idle too long, used too often or not clean is not used again.
- A message that met a dead session before the smarthost could have seen any of its content, and before its caller was asked, is
  offered once more on a fresh one.
- The caller waits until the deadline at most and has a verdict for every recipient. What was cut short is aborted, never returned;
  only an answer to the final dot may still be listened for.
- A smarthost that gave no session is left alone for a while; whoever would need a new one hears so at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from relay.mail.envelope import Envelope
from relay.mail.reply import Reply
from relay.mail.verdict import Deferred, Verdicts
from relay.upstream.breaker import Breaker
from relay.upstream.conversation import Broken, Overdue
from relay.upstream.progress import LATE, Progress, Stage
from relay.upstream.route import Route, tls_context
from relay.upstream.slots import Slots
from relay.upstream.smarthost import Message, NoSession, Smarthost, connect
from relay.upstream.terms import Attempt, Terms


class Pool:
    """Sessions with one smarthost, newest first."""

    def __init__(self, route: Route, hostname: str) -> None:
        self.route = route
        self._hostname = hostname
        self._context = tls_context(route)
        self._slots = Slots(route.max_connections)
        self._breaker = Breaker(route.down_seconds)
        self._idle: deque[Smarthost] = deque()
        self._late: dict[asyncio.Task[Verdicts], Smarthost] = {}
        self._reaper: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def down_until(self) -> float:
        """Until when nobody but those who find an idle session is served, time.monotonic(); 0.0 when upstream is not known to be down.

        It may lie in the past: then the next message is the probe. While that is under way it stays a second ahead.
        """
        return self._breaker.until(time.monotonic())

    async def forward(self, envelope: Envelope, message: Message, terms: Terms) -> Attempt:
        """Offer a message to the smarthost; never raises for what the smarthost does, only what before_dot raises."""
        progress = Progress(terms.deadline)
        try:
            if self._breaker.is_down and not self._idle:
                self._seek_leave(progress)
            if not self._slots.take_now() and not await self._slots.wait():
                raise NoSession(self._breaker.verdict)
            try:
                return await self._attempt(envelope, message, progress, terms)
            finally:
                self._slots.give_back()
        except NoSession as none:
            return Attempt(progress.verdicts_with(envelope, none.verdict))
        except Broken as error:
            return Attempt(progress.verdicts(envelope, str(error)))
        except asyncio.CancelledError:
            if not progress.is_overdue:
                raise
            return Attempt(progress.verdicts(envelope, LATE))
        finally:
            progress.end()
            self._breaker.withdraw(progress)

    async def _attempt(self, envelope: Envelope, message: Message, progress: Progress, terms: Terms) -> Attempt:
        session = self._take()
        if session is not None:
            try:
                return await self._use(session, envelope, message, progress, terms)
            except Broken:
                if progress.stage in (Stage.BEFORE_DOT, Stage.DOT):
                    raise
                # It had died while idle; nothing of the message's content was offered.
                progress.said = {}
        session = await self._connect(progress, terms)
        return await self._use(session, envelope, message, progress, terms)

    async def _use(self, session: Smarthost, envelope: Envelope, message: Message, progress: Progress, terms: Terms) -> Attempt:
        try:
            verdicts = await session.transact(envelope, message, progress, terms)
        except Overdue:
            return self._leave_listening(session, envelope, progress, terms)
        except BaseException:
            session.abort()
            raise
        self._give_back(session)
        return Attempt(verdicts)

    # -- new sessions --------------------------------------------------------------------------------------------------------

    async def _connect(self, progress: Progress, terms: Terms) -> Smarthost:
        self._seek_leave(progress)
        progress.stage = Stage.CONNECT
        began = time.monotonic()
        try:
            session = await connect(self.route, self._context, self._hostname)
        except NoSession as none:
            self._note_failure(progress, none.verdict)
            raise
        except asyncio.CancelledError:
            # What had little time left to connect in proves nothing.
            if progress.is_overdue and time.monotonic() - began >= terms.deadline / 2:
                self._note_failure(progress, Deferred(Reply(451, "4.1", f"Upstream not reachable: {LATE}")))
            raise
        self._breaker.succeed()
        return session

    def _seek_leave(self, progress: Progress) -> None:
        """Go on as one who may try to connect; raises NoSession."""
        if not self._breaker.admits(progress, time.monotonic()):
            raise NoSession(self._breaker.verdict)

    def _note_failure(self, progress: Progress, cause: Deferred) -> None:
        if self._breaker.fail(progress, time.monotonic(), cause):
            self._slots.send_away()

    # -- answers that come late ----------------------------------------------------------------------------------------------

    def _leave_listening(self, session: Smarthost, envelope: Envelope, progress: Progress, terms: Terms) -> Attempt:
        """The deadline came after the dot: answer in doubt, and listen on if there is patience."""
        doubt = progress.verdicts(envelope, LATE)
        until = progress.dot_at + terms.patience
        loop = asyncio.get_running_loop()
        if self._is_closed or until <= loop.time():
            session.abort()
            return Attempt(doubt)
        task = loop.create_task(self._listen(session, envelope, progress, until))
        self._late[task] = session
        task.add_done_callback(self._forget)
        return Attempt(doubt, task)

    def _forget(self, task: asyncio.Task[Verdicts]) -> None:
        session = self._late.pop(task)
        if task.cancelled():  # perhaps before it ran at all
            session.abort()

    async def _listen(self, session: Smarthost, envelope: Envelope, progress: Progress, until: float) -> Verdicts:
        accepted = [recipient for recipient in envelope.recipients if recipient not in progress.said]
        try:
            async with asyncio.timeout_at(until):
                verdicts = await session.hear_dot(accepted, progress)
        except (Broken, TimeoutError) as error:
            session.abort()
            return progress.verdicts(envelope, str(error) or LATE)
        if len(self._idle) < self._slots.free:
            self._give_back(session)
        else:
            session.close()
        return verdicts

    # -- sessions at rest ----------------------------------------------------------------------------------------------------

    def _take(self) -> Smarthost | None:
        while self._idle:
            session = self._idle.pop()
            if session.is_usable and time.monotonic() - session.idle_since < self.route.max_idle:
                return session
            session.close()
        return None

    def _give_back(self, session: Smarthost) -> None:
        if self._is_closed or not session.is_usable or session.messages >= self.route.max_messages:
            session.close()
            return
        session.idle_since = time.monotonic()
        self._idle.append(session)
        if self._reaper is None:
            self._reaper = asyncio.get_running_loop().call_later(self.route.max_idle, self._reap)

    def _reap(self) -> None:
        self._reaper = None
        oldest = time.monotonic() - self.route.max_idle
        while self._idle and self._idle[0].idle_since <= oldest:
            self._idle.popleft().close()
        if self._idle:
            self._reaper = asyncio.get_running_loop().call_at(
                asyncio.get_running_loop().time() + self._idle[0].idle_since - oldest + 0.01, self._reap
            )

    async def wind_up(self, timeout: float) -> None:
        """Let the answers that are late come in for so many seconds, then close."""
        if self._late:
            await asyncio.wait(tuple(self._late), timeout=timeout)
        self.close()

    def close(self) -> None:
        """Close the idle sessions, and cut those whose answer is late: it stays in doubt, and their tasks end at once.

        Sessions in use close when they are given back; if their deadline strikes first, nobody listens on.
        """
        self._is_closed = True
        if self._reaper is not None:
            self._reaper.cancel()
        while self._idle:
            self._idle.pop().close()
        for session in self._late.values():
            session.abort()
