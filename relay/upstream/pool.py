"""The pool of sessions with one smarthost, and the one attempt to forward a message over it.

Promises:
- At most `max_connections` messages are offered at a time, and as many sessions idle or in use. Those whose answer is late are beside
  these: they hold nobody up, and count again only when they are kept. There are five times as many of them at most.
- Those who wait for one are served user by user in turn. Where the smarthost takes so many messages a second, each waits for its
  instant as well.
- A session that is idle too long, too old, used too often or not clean is not used again.
- A message that met a dead session before the smarthost could have seen any of its content, and before its caller was asked, is
  offered once more on a fresh one.
- The caller waits until the deadline at most and has a verdict for every recipient, and hears whether another smarthost may still have
  the message. What was cut short is aborted, never returned; only an answer to the final dot may still be listened for.
- A smarthost that gave no session is left alone for a while; whoever would need a new one hears so at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from relay.mail.envelope import Envelope
from relay.mail.reply import Reply
from relay.mail.verdict import Deferred, Verdicts
from relay.upstream.breaker import Breaker
from relay.upstream.conversation import Broken, Overdue
from relay.upstream.guard import Guard
from relay.upstream.opening import NoSession, connect, permit
from relay.upstream.pace import OverRate, Pace
from relay.upstream.progress import DOT, LATE, MAIL, SLOT, Progress, Stage
from relay.upstream.route import Target
from relay.upstream.slots import Slots
from relay.upstream.smarthost import Message, Smarthost
from relay.upstream.terms import Attempt, Terms, Window
from relay.upstream.trust import Contexts

PROBE = 30.0
"""Seconds that a probe may take, whatever each of its steps may."""

LATE_SESSIONS = 5
"""Times `max_connections`: sessions that may be waiting for a late answer, for the smarthost has to bear them too."""

TOO_FAST = Deferred(Reply(451, "4.5", "The sending rate of the smarthost is reached"), unreached=True)
_UNUSABLE = Deferred(Reply(451, "7.5", "Relay misconfigured: TLS settings of the smarthost cannot be used"), ours=True)


class Pool:
    """Sessions with one smarthost, newest first."""

    def __init__(
        self, target: Target, hostname: str, guard: Guard | None = None, pace: Pace | None = None,
        on_change: Callable[[Pool, bool, str], None] = lambda pool, is_down, text: None, contexts: Contexts | None = None,
    ) -> None:  # fmt: skip
        """`on_change(self, is_down, text)` is called when the smarthost gives no session any more, and when it does again; not once it is
        closed. `contexts` are those of all pools."""
        self.target = target
        self._hostname = hostname
        self._guard = guard or Guard()
        self._pace = pace
        self._on_change = on_change
        self._contexts = Contexts() if contexts is None else contexts
        self._slots = Slots(target.max_connections)
        self._breaker = Breaker(target.down_seconds)
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

    def hurry(self) -> None:
        """Have the next that asks be the probe, where it is known to be down."""
        self._breaker.hurry(time.monotonic())

    @property
    def is_down(self) -> bool:
        """Whether it is known to be down, and nobody could be served by a session that is there."""
        return self._breaker.is_down and not self._idle

    @property
    def is_busy(self) -> bool:
        """Whether all its sessions are in use, or a message waits for its instant."""
        return not self._slots.free or (self._pace is not None and self._pace.is_busy)

    @property
    def is_at_rest(self) -> bool:
        """Whether nobody uses it, and it holds no session."""
        return not self._idle and not self._late and self._slots.free == self.target.max_connections

    async def forward(self, envelope: Envelope, message: Message, terms: Terms, user: str = "", window: Window | None = None) -> Attempt:
        """Offer a message to the smarthost; never raises for what the smarthost does, only what before_dot raises.

        `user` waits in turn with the others; `window` is the time of an attempt that another smarthost may follow.
        """
        now = asyncio.get_running_loop().time()
        progress = Progress(now, terms.deadline) if window is None else Progress(now, window.share, window.rest)
        try:
            if self._breaker.is_down and not self._idle:
                self._seek_leave(progress)
            if self._pace is not None or not self._slots.take_now():
                await self._take_turn(user, progress)
            try:
                return await self._attempt(envelope, message, progress, terms)
            finally:
                self._slots.give_back()
        except NoSession as none:
            return self._cut_short(progress, progress.verdicts_with(envelope, none.verdict))
        except Broken as error:
            return self._cut_short(progress, progress.verdicts(envelope, str(error)))
        except Overdue:
            if self._pace is not None and progress.stage is SLOT:
                return self._cut_short(progress, progress.verdicts_with(envelope, TOO_FAST))
            # Once anything was heard on it, it is this message that takes long: one recipient who is looked up elsewhere, say.
            if window is not None and window.rest and progress.stage is MAIL:
                self._distrust(progress)
            return self._cut_short(progress, progress.verdicts(envelope, LATE))
        finally:
            if self._breaker.is_down:
                self._breaker.withdraw(progress)

    async def _take_turn(self, user: str, progress: Progress) -> None:
        """Wait for a slot, and for the message's instant where there is a pace; raises NoSession, Overdue."""
        try:
            async with asyncio.timeout_at(progress.due):
                if self._pace is not None:
                    is_served = await self._pace.admit(self._slots, user, progress.due)
                else:
                    is_served = await self._slots.wait(user)
        except OverRate:
            raise NoSession(TOO_FAST) from None
        except TimeoutError:
            raise Overdue from None
        if not is_served:
            raise NoSession(self._breaker.verdict)

    def _cut_short(self, progress: Progress, verdicts: Verdicts) -> Attempt:
        """An attempt that ended before the smarthost said what becomes of the message."""
        is_open = not progress.said and progress.stage not in (Stage.BEFORE_DOT, Stage.DOT)
        return Attempt(verdicts, None, is_open, self.target.host)

    async def _attempt(self, envelope: Envelope, message: Message, progress: Progress, terms: Terms) -> Attempt:
        idle = self._take()
        while True:
            session = idle or await self._connect(progress)
            try:
                verdicts = await session.transact(envelope, message, progress, terms)
            except Broken:
                session.abort()
                if idle is None or progress.stage is DOT or progress.stage is Stage.BEFORE_DOT:
                    raise
                # It had died while idle; nothing of the message's content was offered.
                progress.said, idle = {}, None
                continue
            except Overdue:
                if progress.stage is DOT:
                    return self._leave_listening(session, envelope, progress, terms)
                session.abort()
                raise
            except BaseException:
                session.abort()
                raise
            self._give_back(session)
            # Only where nobody was accepted can it have been 421 to MAIL: it was the session's end, and nothing was said of the message.
            is_open = progress.stage is not DOT and _is_unsaid(progress, verdicts)
            return Attempt(verdicts, None, is_open, self.target.host)

    # -- new sessions --------------------------------------------------------------------------------------------------------

    async def _connect(self, progress: Progress) -> Smarthost:
        self._seek_leave(progress)
        progress.stage = Stage.CONNECT
        began = time.monotonic()
        try:
            async with asyncio.timeout_at(progress.due):
                session = await self._open()
        except NoSession as none:
            self._note_failure(progress, none.verdict)
            raise
        except TimeoutError:
            # What had little time left to connect in proves nothing.
            if time.monotonic() - began >= progress.seconds / 2:
                self._note_failure(progress, Deferred(Reply(451, "4.1", f"Upstream not reachable: {LATE}")))
            raise Overdue from None
        self._note_success()
        return session

    async def _open(self) -> Smarthost:
        permit(self.target, self._guard)
        try:
            context = await self._contexts.of(self.target)
        except (OSError, ValueError):
            raise NoSession(_UNUSABLE) from None
        return await connect(self.target, context, self._hostname, self._guard)

    async def probe(self) -> None:
        """Find out whether a smarthost that is down gives sessions again, if its time is up and nobody else does; costs no message."""
        who = object()
        if self._is_closed or not (self._breaker.is_down and self._slots.free and self._breaker.admits(who, time.monotonic())):
            return
        self._slots.take_now()
        try:
            async with asyncio.timeout(PROBE):
                session = await self._open()
        except NoSession as none:
            self._note_failure(who, none.verdict)
        except TimeoutError:
            self._note_failure(who, Deferred(Reply(451, "4.1", f"Upstream not reachable: {LATE}")))
        else:
            self._note_success()
            self._give_back(session)
        finally:
            self._slots.give_back()
            self._breaker.withdraw(who)

    def _seek_leave(self, progress: Progress) -> None:
        """Go on as one who may try to connect; raises NoSession."""
        if not self._breaker.admits(progress, time.monotonic()):
            raise NoSession(self._breaker.verdict)

    def _note_failure(self, who: object, cause: Deferred) -> None:
        was_down = self._breaker.is_down
        if self._breaker.fail(who, time.monotonic(), cause):
            self._slots.send_away()
            if self._pace is not None:
                self._pace.send_away()
            if not (was_down or self._is_closed):
                self._on_change(self, True, cause.reply.text)

    def _distrust(self, progress: Progress) -> None:
        """A session that was there went silent, and others can serve: let no message find out of each idle one whether it is alike."""
        while self._idle:
            self._idle.popleft().abort()
        self._note_failure(progress, Deferred(Reply(451, "4.2", f"Upstream connection failed: {LATE}")))

    def _note_success(self) -> None:
        was_down = self._breaker.is_down
        self._breaker.succeed()
        if was_down and not self._is_closed:
            self._on_change(self, False, "")

    # -- answers that come late ----------------------------------------------------------------------------------------------

    def _leave_listening(self, session: Smarthost, envelope: Envelope, progress: Progress, terms: Terms) -> Attempt:
        """The deadline came after the dot: answer in doubt, and listen on if there is patience."""
        doubt = progress.verdicts(envelope, LATE)
        until = progress.dot_at + terms.patience
        loop = asyncio.get_running_loop()
        if self._is_closed or until <= loop.time():
            session.abort()
            return Attempt(doubt, host=self.target.host)
        if len(self._late) >= LATE_SESSIONS * self.target.max_connections:
            # The one that was waited for longest is the least likely to be answered; it stays in doubt, and its task ends with that.
            self._late.pop(next(iter(self._late))).abort()
        task = loop.create_task(self._listen(session, envelope, progress, until))
        self._late[task] = session
        task.add_done_callback(self._forget)
        return Attempt(doubt, task, host=self.target.host)

    def _forget(self, task: asyncio.Task[Verdicts]) -> None:
        session = self._late.pop(task, None)
        if session is not None and task.cancelled():  # perhaps before it ran at all
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
            now = time.monotonic()
            if session.is_usable and now - session.idle_since < self.target.max_idle and now - session.began < self.target.max_age:
                return session
            session.close()
        return None

    def _give_back(self, session: Smarthost) -> None:
        if self._is_closed or not session.is_usable or session.messages >= self.target.max_messages:
            session.close()
            return
        session.idle_since = time.monotonic()
        if session.idle_since - session.began >= self.target.max_age:
            session.close()
            return
        self._idle.append(session)
        if self._reaper is None:
            self._reaper = asyncio.get_running_loop().call_later(self.target.max_idle, self._reap)

    def _reap(self) -> None:
        self._reaper = None
        oldest = time.monotonic() - self.target.max_idle
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


def _is_unsaid(progress: Progress, verdicts: Verdicts) -> bool:
    """Whether all that was heard is that the session is at its end."""
    return progress.stage is Stage.ENVELOPE and all(isinstance(verdict, Deferred) and verdict.unreached for verdict in verdicts.values())
