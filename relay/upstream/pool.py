"""The pool of sessions with one smarthost, and the one attempt to forward a message over it.

Promises: at most `max_connections` sessions at a time; a session that is idle too long, used too often or not clean is not used
again; a message that met a dead session before the smarthost could have seen any of its content is offered once more on a fresh
one; the attempt ends at its deadline with a verdict for every recipient, and what was cut short is aborted, never returned.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from relay.mail.envelope import Envelope
from relay.mail.reply import Reply
from relay.mail.verdict import Deferred, Verdicts
from relay.upstream.conversation import Broken
from relay.upstream.route import Route, tls_context
from relay.upstream.smarthost import Message, NoSession, Progress, Smarthost, Stage, connect


class Pool:
    """Sessions with one smarthost, newest first."""

    def __init__(self, route: Route, hostname: str) -> None:
        self.route = route
        self._hostname = hostname
        self._context = tls_context(route)
        self._slots = asyncio.Semaphore(route.max_connections)
        self._idle: deque[Smarthost] = deque()
        self._reaper: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def forward(self, envelope: Envelope, message: Message) -> Verdicts:
        """Offer a message to the smarthost within the forward deadline; never raises for what the smarthost does."""
        progress = Progress()
        try:
            async with asyncio.timeout(self.route.forward_deadline), self._slots:
                return await self._attempt(envelope, message, progress)
        except NoSession as none:
            verdict = none.verdict
        except TimeoutError:
            verdict = _cut_short(progress, "no answer in time")
        except Broken as error:
            verdict = _cut_short(progress, str(error))
        return dict.fromkeys(envelope.recipients, verdict)

    async def _attempt(self, envelope: Envelope, message: Message, progress: Progress) -> Verdicts:
        session = self._take()
        if session is not None:
            try:
                return await self._use(session, envelope, message, progress)
            except Broken:
                if progress.stage is Stage.DOT:
                    raise
                # It had died while idle; nothing of the message's content was offered.
        session = await connect(self.route, self._context, self._hostname)
        return await self._use(session, envelope, message, progress)

    async def _use(self, session: Smarthost, envelope: Envelope, message: Message, progress: Progress) -> Verdicts:
        try:
            verdicts = await session.transact(envelope, message, progress)
        except BaseException:
            session.abort()
            raise
        self._give_back(session)
        return verdicts

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

    def close(self) -> None:
        """Close the idle sessions; those in use close when they are given back."""
        self._is_closed = True
        if self._reaper is not None:
            self._reaper.cancel()
        while self._idle:
            self._idle.pop().close()


def _cut_short(progress: Progress, why: str) -> Deferred:
    if progress.stage is Stage.DOT:
        return Deferred(Reply(451, "4.2", f"Upstream outcome unknown: {why}"), in_doubt=True)
    return Deferred(Reply(451, "4.2", f"Upstream connection failed: {why}"))
