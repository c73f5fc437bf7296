"""The post: what is asked of one user's book meanwhile travels together, as one call of one script.

Promises:
- Operations of one user are carried out in the order in which they were asked for; each hears its own answer, and none is sent twice.
- One call of a user is on its way at a time. What is asked when none is leaves at once; the rest leaves together, after the next
  answer, with what that makes others ask. So the busier a user is, or the slower the store, the more its operations share a call, its
  reading and its writing of the book.
- A call that fails fails every operation in it. If the store cannot be had (StoreUnavailable), those that wait fail with it: none waits
  for two calls that are not answered, nor, up to MOST of a user at once, for more than two that are.

What the operations mean is told in post.lua; a caller that gives up does not disturb the others, its operation is carried out.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

from relay.quota.answer import Hold, Outcome, Refusal, Settlement
from relay.store.client import Argument, Script, Store, StoreUnavailable

MOST = 512
"""Operations in one call: a script is carried out whole, and the store does nothing else meanwhile (some 3 ms). As many as a user has
connections by default, each of which asks for one thing at a time."""
LINES = 10_000
"""Users that are remembered; those of whom nothing is on its way are forgotten when there are more."""

_OUTCOMES: dict[bytes, Outcome] = {b"late": "late", b"done": "done"}


_Asked = tuple[bytes, Argument, asyncio.Future[Any], Hold | None]
"""An operation: the member (id:units) that its hold is in the store; what is asked of it, as post.lua tells; who waits for the answer;
and with what a reserve is answered if it succeeds (None: it is a settle)."""


class _Line:
    """The operations of one user: those that are on their way, whose answer it waits for, and those that wait for that."""

    __slots__ = ("asked", "is_out", "key", "out", "post")

    def __init__(self, post: Post, user: str) -> None:
        self.post = post
        self.key = key(user).encode()
        self.is_out = False
        self.out: list[_Asked] = []
        self.asked: list[_Asked] = []

    def send(self) -> None:
        """Send the next call, with as much of what waits as it may carry."""
        self.is_out, out, self.asked = True, self.asked[:MOST], self.asked[MOST:]
        self.out = out
        self.post.store.tell(self, self.post.script, self.key, [asked[0] for asked in out] + [asked[1] for asked in out])

    # -- what waits for an answer of the store -------------------------------------------------------------------------------

    def done(self) -> bool:
        """It listens always: what was asked is carried out, whoever has given up."""
        return False

    def set_result(self, found: Any) -> None:
        """Hand out the answers of a call, and send what waited for it."""
        _hand_out(self.out, found)
        self._go_on()

    def set_exception(self, error: BaseException) -> None:
        """Say to all that waited that there is no answer; if the store cannot be had, to those that were to be sent next, too."""
        _fail(self.out, error)
        if isinstance(error, StoreUnavailable):
            asked, self.asked = self.asked, []
            _fail(asked, error)
        self._go_on()

    def _go_on(self) -> None:
        # Not at once: those who have just heard ask for more within this turn of the loop, and that travels with what waits already.
        self.out = []
        asyncio.get_running_loop().call_soon(self._send_next)

    def _send_next(self) -> None:
        if self.asked:
            self.send()
        else:
            self.is_out = False


class Post:
    """Carries the operations of all users to the store."""

    def __init__(self, store: Store, script: Script) -> None:
        self.store = store
        self.script = script
        self._lines: dict[str, _Line] = {}

    def ask(self, user: str, member: bytes, what: Argument, hold: Hold | None) -> asyncio.Future[Any]:
        """Have one operation carried out; the future hears `hold` or a Refusal where it is given, else a Settlement."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        line = self._lines.get(user)
        if line is None:
            line = self._new_line(user)
        line.asked.append((member, what, answer, hold))
        if not line.is_out:
            line.send()
        return answer

    def _new_line(self, user: str) -> _Line:
        if len(self._lines) >= LINES:
            self._lines = {user: line for user, line in self._lines.items() if line.is_out}
        line = self._lines[user] = _Line(self, user)
        return line


def _fail(operations: list[_Asked], error: BaseException) -> None:
    for _, _, answer, _ in operations:
        if not answer.done():
            answer.set_exception(type(error)(*error.args))


def _hand_out(operations: list[_Asked], found: Any) -> None:
    if isinstance(found, int):  # the clock alone
        for _, _, answer, hold in operations:
            if not answer.done():
                answer.set_result(Settlement("gone", found, 0, 0, False) if hold is None else Refusal("unknown", 0, 0, None, None))
        return
    now, clock, gone = found[:3]
    for (_, _, answer, hold), said in zip(operations, found[3:], strict=True):
        if answer.done():
            continue
        if hold is not None:
            answer.set_result(hold if said == 1 else _refusal(said, clock))
        elif said.__class__ is int:
            answer.set_result(Settlement("ok", now, said - gone, said, False))
        else:
            outcome, taken, over = said
            answer.set_result(Settlement(_OUTCOMES[outcome], now, taken - gone, taken, over == 1))


def _refusal(said: Any, clock: int) -> Refusal:
    reason, used, limit, instant = said
    if not instant:
        return Refusal(reason.decode(), used, limit, None, None)
    return Refusal(reason.decode(), used, limit, seconds(instant - clock), math.ceil(instant / 1e6))


def key(user: str) -> str:
    """The key of a user's hash; its braces are the hash tag that all keys of the user share."""
    return f"{{u:{user}}}"


def seconds(microseconds: int) -> int:
    """Whole seconds, rounded up; none where the instant has passed."""
    return max(0, math.ceil(microseconds / 1e6))
