"""The SuperOffice call: POST .../v1/Agents/CustomerService/TestSmtpServer, under any prefix.

Promises: only POST runs it, and what it runs ends within the budget; a test that fails is an answer (200, Success false) with a sentence
an admin can act on, and says no secret; errors of the request have their own shape, in the form that was asked for; an owner reaches
its own stored passwords only. Guessing is slowed down by address.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping

from fastapi import APIRouter, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from relay.accounts.directory import Unreadable
from relay.accounts.setting import Setting, fold
from relay.accounts.throttle import Attempt
from relay.accounts.token import Caller, Denied
from relay.api.cookie import signed_in
from relay.api.rooms import Rooms, address_of, rooms_of
from relay.api.superoffice_schema import DESCRIBED, TESTED
from relay.api.trial import test_for
from relay.dialects import superoffice
from relay.dialects import superoffice_answer as answer
from relay.dialects.superoffice import Asked, Malformed, Untestable
from relay.store.client import StoreUnavailable
from relay.upstream.route import Target

PATH = "/api/v1/Agents/CustomerService/TestSmtpServer"
"""As the document has it; clients put a prefix before it, and some leave `api` out."""
NO_RECIPIENT = "No test address is configured on this relay, so no test message can be sent; ask its operator to set api.test_recipient."
METHODS = "GET, POST"
UNREADABLE = "What is stored for this owner cannot be read; ask the relay's operator."

_ANY_PREFIX = re.compile(r"^.*/v1/Agents/CustomerService/TestSmtpServer/?$", re.IGNORECASE)
_OWN = re.compile(r"^.*/v1/Agents(?:/.*)?$", re.IGNORECASE)
_CHARSET = "; charset=utf-8"

router = APIRouter(tags=["SuperOffice"])


def is_superoffice_path(path: str) -> bool:
    """Whether the dialect answers for a path."""
    return _OWN.match(path) is not None


def answer_error(status: int, message: str, headers: Mapping[str, str] | None = None, *, media: str = answer.JSON) -> Response:
    """Answer an error in the dialect's shape: `message` is the detail of a request that cannot be read."""
    if status == 401:
        return Response(answer.UNAUTHORISED, 401, {"WWW-Authenticate": answer.REALM, **(headers or {})}, "text/html")
    if status == 405:
        headers = {**(headers or {}), "Allow": METHODS}  # the router knows of one route at a time
    detail = message if status == 400 else ""
    return Response(answer.write_error(superoffice.INVALID if detail else message, detail, media), status, headers, media + _CHARSET)


# -- who asks ----------------------------------------------------------------------------------------------------------------


async def _caller(request: Request) -> Caller:
    """Whose request it is; raises HTTPException."""
    scheme, _, given = request.headers.get("Authorization", "").strip().partition(" ")
    given = given.strip()
    match scheme.lower():
        case "basic":
            owner_id, _, token = _decode(given).partition(":")
            return await _by_owner(request, owner_id, token)
        case "soticket" | "bearer" if ":" in given:
            owner_id, _, token = given.partition(":")
            return await _by_owner(request, owner_id, token)
        case "soticket" | "bearer":
            return await _by_token(request, given, request.headers.get("X-Key", ""))
        case "":
            if found := signed_in(request):
                return await _by_token(request, *found)
    raise HTTPException(401)


def _decode(given: str) -> str:
    try:
        return base64.b64decode(given).decode()
    except ValueError:
        return ""


async def _by_owner(request: Request, owner_id: str, token: str) -> Caller:
    rooms = rooms_of(request)
    with rooms.throttle.attempt(address_of(request), owner_id) as attempt:
        owner = await rooms.registry.verify_owner(owner_id, token, attempt)
        _check_wait(attempt)
        if owner is None:
            await attempt.failed()
            raise HTTPException(401)
        attempt.succeeded()
    if not owner.is_enabled:
        raise HTTPException(403, "The owner is disabled.")
    return Caller(owner, "", "")


async def _by_token(request: Request, token: str, key: str) -> Caller:
    rooms = rooms_of(request)
    with rooms.throttle.attempt(address_of(request), token) as attempt:
        await attempt.admitted()
        _check_wait(attempt)
        try:
            caller = await rooms.tokens.admit(token, key)
        except Denied:
            await attempt.failed()
            raise HTTPException(401) from None
        attempt.succeeded()
    return caller


def _check_wait(attempt: Attempt) -> None:
    if wait := attempt.wait:
        raise HTTPException(429, f"Too many failed attempts, retry after {wait} seconds.", {"Retry-After": str(wait)})


# -- what is asked -----------------------------------------------------------------------------------------------------------


@router.post(PATH, summary="TestSmtpServer", response_model=None, openapi_extra=TESTED)
async def test_server(request: Request) -> Response:
    """Test an SMTP account by sending a message to the configured test address."""
    media = _media(request)
    try:
        body = await request.body()
        caller = await _caller(request)
        asked = superoffice.read_request(body, request.headers.get("Content-Type", ""))
        message = await _test(rooms_of(request), caller, asked)
    except Malformed as malformed:
        return answer_error(malformed.status, str(malformed), media=media)
    except HTTPException as error:
        return answer_error(error.status_code, str(error.detail), error.headers, media=media)
    except StoreUnavailable:
        return answer_error(503, "The service is temporarily unavailable.", {"Retry-After": "5"}, media=media)
    selection = answer.read_selection(_selected(request))
    return _answer(answer.write_result(not message, message, selection, media), media)


@router.get(PATH, summary="Describe TestSmtpServer", response_model=None, openapi_extra=DESCRIBED)
async def describe_call(request: Request) -> Response:
    """Say what the call is; nothing is run."""
    media = _media(request)
    return _answer(answer.write_description(media), media)


def _answer(body: bytes, media: str) -> Response:
    return Response(body, media_type=media + _CHARSET, headers={"Cache-Control": "no-store"})


def _media(request: Request) -> str:
    return answer.negotiate(",".join(request.headers.getlist("Accept")), request.headers.get("Content-Type", ""))


def _selected(request: Request) -> str:
    # The key's case does not count where this call comes from.
    return next((value for key, value in request.query_params.items() if key.lower() == "$select"), "")


async def _test(rooms: Rooms, caller: Caller, asked: Asked) -> str:
    """Run the test; returns what went wrong, "" where nothing did."""
    try:
        sender = superoffice.read_sender(asked.sender)
        if caller.domain and fold(sender.rpartition("@")[2]) != fold(caller.domain):
            raise Untestable(f"This access token is for the domain {caller.domain} alone, and From is of another.")
        target = await _target(rooms, caller, asked)
        if not rooms.settings.test_recipient:
            raise Untestable(NO_RECIPIENT)
    except Untestable as untestable:
        return str(untestable)
    trial = await test_for(rooms, caller.owner.owner_id, target, sender, rooms.settings.test_recipient, "superoffice")
    return "" if trial.is_success else trial.text or "The test failed."


async def _target(rooms: Rooms, caller: Caller, asked: Asked) -> Target:
    target = superoffice.read_target(asked.uri)
    if asked.uses_stored:
        return superoffice.with_stored_password(target, await _settings(rooms, caller))
    if target.username and not target.password:
        raise Untestable("SmtpUri names a user but no password; give one, or use the stored password.")
    return target


async def _settings(rooms: Rooms, caller: Caller) -> list[Setting]:
    """The settings a caller may use: the owner's, or those of the token's domain."""
    try:
        outfit = await rooms.directory.outfit(caller.owner.owner_id)
    except Unreadable:
        raise Untestable(UNREADABLE) from None
    return [setting for domain, setting in outfit.settings.items() if fold(caller.domain) in ("", domain)]


# -- where it is asked -------------------------------------------------------------------------------------------------------


class _AnyPrefix:
    """ASGI middleware that leads every spelling of the call's path to the documented one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _ANY_PREFIX.match(scope["path"]):
            scope["path"] = PATH  # in place: who counts the calls looks at this very scope
        await self._app(scope, receive, send)


def add_routes(app: FastAPI) -> None:
    """Add the call under every path that clients use; the documented one is shown in the description of the API."""
    app.include_router(router)
    app.add_middleware(_AnyPrefix)
