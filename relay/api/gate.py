"""The gate every request passes: bounds its body, counts its answer, catches what nobody else did.

Promises: a body is bounded in size and time by what really arrives, whatever its headers say; a request whose end two parties could see at
different places is refused, and nothing behind it is heard; an error that nothing expected is journaled with its traceback and answered
with a constant text, a client that leaves is none; an answer that cannot be finished is cut off, never ended as if it were whole.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from typing import Protocol

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relay.journal import API_CALLS, Journal
from relay.spool.fault import SpoolUnavailable
from relay.store.client import StoreUnavailable

BODY_SECONDS = 30.0
MAX_DROPPED = 64 << 20
"""Octets of a body that is too large that are read to no purpose."""

FAILED = "An unexpected error occurred"
_CLOSE = {"Connection": "close"}


class Answer(Protocol):
    """Makes the answer that says an error, in the shape of whoever owns the path."""

    def __call__(self, path: str, status: int, message: str, headers: Mapping[str, str] | None = None, /) -> Response: ...


class Gate:
    """ASGI middleware, the outermost of the application's own."""

    def __init__(self, app: ASGIApp, journal: Journal, max_body: int, answer: Answer) -> None:
        """`max_body` is in octets."""
        self._app = app
        self._journal = journal
        self._max_body = max_body
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            try:
                await send(message)
            except Exception:
                # Perhaps the server has closed the connection, for its chunks are none, and says so only after this turn of the loop.
                await asyncio.sleep(0)
                await send(message)

        try:
            if _is_ambiguous(scope):
                await self._answer(scope["path"], 400, "Content-Length beside Transfer-Encoding", _CLOSE)(scope, receive, note)
            else:
                await self._app(scope, _bounded(scope, receive, self._max_body), note)
        except ClientDisconnect:
            pass  # amid its body, or its chunks are none: nobody is there to be answered
        except Exception as error:
            if isinstance(error.__cause__, StoreUnavailable | SpoolUnavailable):
                self._journal.event("api_answer_cut", path=scope["path"])
            else:
                self._journal.bug(f"api-{uuid.uuid4().hex[:12]}", error)
            if not status:
                await self._answer(scope["path"], 500, FAILED)(scope, receive, note)
        finally:
            API_CALLS.labels(getattr(scope.get("route"), "path", "other"), status).inc()


def _is_ambiguous(scope: Scope) -> bool:
    """Whether a proxy may have seen the request end elsewhere (RFC 9112 section 6.1)."""
    names = {name for name, _ in scope["headers"]}
    return b"content-length" in names and b"transfer-encoding" in names


def _bounded(scope: Scope, receive: Receive, limit: int) -> Receive:
    """A `receive` that raises HTTPException once the body is too large or too slow."""
    headers = dict(scope["headers"])
    declared = headers.get(b"content-length", b"0")[:20]
    is_refusable = b"expect" in headers and declared.isdigit() and int(declared) > limit
    deadline = asyncio.get_running_loop().time() + BODY_SECONDS
    size = 0
    is_whole = False

    async def bounded() -> Message:
        nonlocal size, is_whole
        if is_whole:
            return await receive()
        if is_refusable:  # the client waits to hear whether it may send (RFC 9110 section 10.1.1)
            raise _too_large(limit)
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "The request body did not arrive in time", _CLOSE) from None
            size += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if size <= limit:
                return message
            # What is still on its way is dropped first: a connection closed on unread octets is reset, and the answer with it.
            if is_whole or size > limit + MAX_DROPPED:
                raise _too_large(limit)

    return bounded


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"The request body is larger than {limit} octets", _CLOSE)
