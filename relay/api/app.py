"""The application: its routes, and every error in the shape of whoever owns the path.

Promises: under a dialect's paths an error has the dialect's shape, elsewhere the relay's own, for what no route serves too; no error
names a secret or a cause inside the relay.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from relay import __version__
from relay.accounts.directory import Unreadable
from relay.accounts.provisioning import BadValue, UnknownUser
from relay.api import health, native, policy, queue, reference, superoffice, tes, upstream, webitel
from relay.api.gate import Gate
from relay.api.rooms import Rooms
from relay.spool.fault import SpoolUnavailable
from relay.store.client import StoreUnavailable

UNAVAILABLE = "The service is temporarily unavailable"
UNREADABLE = "What is stored for this owner cannot be read"
RETRY = {"Retry-After": "5"}


class _Described(FastAPI):
    """FastAPI, without the 422 that it describes for calls that take anything: what does not validate is answered with 400 here."""

    def openapi(self) -> dict[str, Any]:
        """Describe the calls; made once."""
        is_new, document = self.openapi_schema is None, super().openapi()
        if is_new:
            for methods in document["paths"].values():
                for call in methods.values():
                    call["responses"].pop("422", None)
            for name in ("HTTPValidationError", "ValidationError"):
                document["components"]["schemas"].pop(name, None)
        return document


def create_app(rooms: Rooms) -> FastAPI:
    """Make the application; without a spool the queue is answered as unavailable."""
    app = _Described(
        title="relay",
        version=__version__,
        description="An SMTP relay that keeps per-user sending limits exactly: its owners' and users' accounts, and their queue.",
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    app.state.rooms = rooms
    tes.add_routes(app)
    app.include_router(native.router)
    app.include_router(upstream.router)
    app.include_router(policy.router)
    app.include_router(queue.router)
    app.include_router(health.router)
    superoffice.add_routes(app)
    webitel.add_routes(app)
    reference.add_routes(app)
    _add_errors(app, rooms)
    app.add_middleware(Gate, journal=rooms.journal, max_body=rooms.settings.max_body_bytes, answer=partial(_answer, rooms))
    return app


def _add_errors(app: FastAPI, rooms: Rooms) -> None:
    @app.exception_handler(HTTPException)
    async def on_status(request: Request, error: HTTPException) -> Response:
        return _answer(rooms, request.url.path, error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        # The place and what is wrong with it; never the value, it may be a secret.
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return _answer(rooms, request.url.path, 400, f"{place}: {first['msg']}")

    @app.exception_handler(BadValue)
    async def on_bad_value(request: Request, error: BadValue) -> Response:
        return _answer(rooms, request.url.path, 400, str(error))

    @app.exception_handler(UnknownUser)
    async def on_unknown(request: Request, error: UnknownUser) -> Response:
        return _answer(rooms, request.url.path, 404, "unknown user")

    @app.exception_handler(Unreadable)
    async def on_unreadable(request: Request, error: Unreadable) -> Response:
        return _answer(rooms, request.url.path, 500, UNREADABLE)

    @app.exception_handler(StoreUnavailable)
    async def on_store(request: Request, error: StoreUnavailable) -> Response:
        return _answer(rooms, request.url.path, 503, UNAVAILABLE, RETRY)

    @app.exception_handler(SpoolUnavailable)
    async def on_spool(request: Request, error: SpoolUnavailable) -> Response:
        return _answer(rooms, request.url.path, 503, UNAVAILABLE, RETRY)


def _answer(rooms: Rooms, path: str, status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Answer an error in the shape of whoever owns the path."""
    if superoffice.is_superoffice_path(path):
        return superoffice.answer_error(status, message, headers)
    if tes.is_tes_path(path):
        return tes.answer_error(rooms, status, message, headers)
    if webitel.is_webitel_path(path):
        return webitel.answer_error(rooms, path, status, message, headers)
    code = HTTPStatus(status).phrase.lower().replace(" ", "_")
    return JSONResponse({"error": {"code": code, "message": message}}, status, dict(headers) if headers else None)
