"""The post: what is asked of one user's book meanwhile travels together, as one call of one script.

Promises:
- Operations of one user are carried out in the order in which they were asked for; each hears its own answer, and none is sent twice.
- One call of a user is on its way at a time. What is asked when none is leaves at once; the rest leaves together, with the next answer.
  So the busier a user is, or the slower the store, the more its operations share a call, its reading and its writing of the book.
- A call that fails fails every operation in it. If the store cannot be had (StoreUnavailable), those that wait fail with it: none waits
  longer than one call may take.

What the operations mean is told in post.lua; a caller that gives up does not disturb the others, its operation is carried out.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from relay.quota.answer import Hold, Outcome, Refusal, Settlement
from relay.store.client import Argument, Script, Store, StoreUnavailable

MOST = 128
"""Operations in one call: a script is carried out whole, and the store does nothing else meanwhile."""
LINES = 10_000
"""Users that are remembered; those of whom nothing is on its way are forgotten when there are more."""

_OUTCOMES: dict[bytes, Outcome] = {b"ok": "ok", b"late": "late", b"done": "done"}


Asked = list[tuple[asyncio.Future[Any], Hold | None]]
"""Who waits for the answers of one call; with what a reserve is answered with, if it succeeds (None: it is a settle)."""


class _Line:
    """The operations of one user that wait for the answer of those that are on their way."""

    __slots__ = ("asked", "full", "is_out", "key", "words")

    def __init__(self, user: str) -> None:
        self.key = key(user).encode()
        self.is_out = False
        self.words: list[Argument] = []
        self.asked: Asked = []
        self.full: list[tuple[list[Argument], Asked]] = []

    def put(self, words: tuple[Argument, ...], answer: asyncio.Future[Any], hold: Hold | None) -> None:
        """Let one more wait."""
        if len(self.asked) == MOST:
            self.full.append((self.words, self.asked))
            self.words, self.asked = [], []
        self.words += words
        self.asked.append((answer, hold))

    def take(self) -> tuple[list[Argument], Asked]:
        """What the next call carries."""
        if self.full:
            return self.full.pop(0)
        taken = self.words, self.asked
        self.words, self.asked = [], []
        return taken


class Post:
    """Carries the operations of all users to the store."""

    def __init__(self, store: Store, script: Script) -> None:
        self._store = store
        self._script = script
        self._lines: dict[str, _Line] = {}

    def ask(self, user: str, words: tuple[Argument, ...], hold: Hold | None) -> asyncio.Future[Any]:
        """Have one operation carried out; the future hears `hold` or a Refusal where it is given, else a Settlement."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        line = self._lines.get(user)
        if line is None:
            line = self._new_line(user)
        if line.is_out:
            line.put(words, answer, hold)
        else:
            self._send(line, words, [(answer, hold)])
        return answer

    def _new_line(self, user: str) -> _Line:
        if len(self._lines) >= LINES:
            self._lines = {user: line for user, line in self._lines.items() if line.is_out}
        line = self._lines[user] = _Line(user)
        return line

    def _send(self, line: _Line, words: Sequence[Argument], asked: Asked) -> None:
        call = self._store.run(self._script, line.key, *words)
        line.is_out = True
        call.add_done_callback(partial(self._hear, line, asked))

    def _hear(self, line: _Line, asked: Asked, call: asyncio.Future[Any]) -> None:
        """Hand out the answers of a call, and send what waited for it."""
        error = StoreUnavailable("the call was ended") if call.cancelled() else call.exception()
        if error is None:
            _hand_out(asked, call.result())
        else:
            _fail(asked, error)
            while isinstance(error, StoreUnavailable) and line.asked:
                _fail(line.take()[1], error)
        if line.asked:
            self._send(line, *line.take())
        else:
            line.is_out = False


def _fail(asked: Asked, error: BaseException) -> None:
    for answer, _ in asked:
        if not answer.done():
            answer.set_exception(type(error)(*error.args))


def _hand_out(asked: Asked, found: Any) -> None:
    if isinstance(found, int):  # the clock alone
        for answer, hold in asked:
            if not answer.done():
                answer.set_result(Settlement("gone", found, 0, 0, False) if hold is None else Refusal("unknown", 0, 0, None, None))
        return
    now, clock = found[0], found[1]
    for (answer, hold), said in zip(asked, found[2:], strict=True):
        if answer.done():
            continue
        if hold is None:
            outcome, window, taken, over = said
            answer.set_result(Settlement(_OUTCOMES[outcome], now, window, taken, over == 1))
        else:
            answer.set_result(hold if said == 1 else _refusal(said, clock))


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
