"""The routes of the Webitel dialect: `/api/v2/email/settings`, `/login` and `/logout`, with and without `/engine` before them.

Promises: everything under these paths is answered in the dialect's own shape, whatever goes wrong; a token that is bound to a domain
reaches that domain alone, whatever is asked for; guessing an owner's token is slowed down by address.

Its statuses are part of what its clients read, so `errors_always_200` does not concern it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from fastapi import APIRouter, FastAPI, Request, Security
from fastapi.security import APIKeyHeader
from starlette.responses import Response

from relay.accounts.directory import Unreadable
from relay.accounts.provisioning import UnknownOwner
from relay.accounts.setting import Setting, is_domain
from relay.accounts.token import LIFETIME, Caller, Denied
from relay.api import cookie
from relay.api.listing import NO_STORE
from relay.api.rooms import Rooms, address_of, rooms_of
from relay.api.trial import test_for
from relay.api.webitel_schema import Call, describe
from relay.dialects import webitel
from relay.dialects.webitel import Fault, Fields

JSON = "application/json; charset=utf-8"
HEADERS = {
    "X-Powered-By": "Webitel",
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET,PUT,POST,DELETE,OPTIONS",
    "Access-Control-Allow-Headers": "Content-type,Accept,X-Access-Token,X-Key",
    **NO_STORE,
}
"""Any page may ask: a token in a header is needed, and no cookie is looked at here."""

PREFIXES = ("", "/engine")
SETTINGS = "/api/v2/email/settings"
OWNER_DISABLED = "Owner is disabled"
UNREADABLE = "The settings cannot be read"
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]

Serve = Callable[[Request, Rooms, Fields, Caller], Awaitable[Response]]


def is_webitel_path(path: str) -> bool:
    """Whether the dialect answers for a path."""
    if path in ("/login", "/logout"):
        return True
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in ("/engine", "/api/v2"))


def answer_error(rooms: Rooms, path: str, status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Answer an error in the dialect's shape; what no route serves, it says, is not found."""
    if status in (404, 405):
        status, message, headers = 404, f"{path} not found.", None
    return _answer(webitel.write_error(message), status, headers)


def _answer(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, status, {**HEADERS, **(headers or {})}, JSON)


# -- who asks ----------------------------------------------------------------------------------------------------------------


async def _fields(request: Request) -> Fields:
    headers = request.headers
    return webitel.read_body(headers.get("Content-Type", ""), headers.get("Content-Encoding", ""), await request.body())


async def _serve(call: Serve, request: Request) -> Response:
    """Serve a call of whoever shows a token."""
    rooms = rooms_of(request)
    try:
        fields = await _fields(request)
        caller = await rooms.tokens.admit(*webitel.read_credentials(fields, request.query_params, request.headers))
        return await call(request, rooms, fields, caller)
    except Denied as denied:
        return _answer(webitel.write_error(str(denied)), 401)
    except UnknownOwner:  # removed meanwhile
        return _answer(webitel.write_error("Invalid User"), 401)
    except Unreadable:
        return _answer(webitel.write_error(UNREADABLE), 500)
    except Fault as fault:
        return _answer(webitel.write_error(str(fault), fault.code), fault.status)


async def _sign_in(request: Request) -> Response:
    rooms = rooms_of(request)
    try:
        name, password = webitel.read_login(await _fields(request))
        if not name:
            return _answer(webitel.write_nobody(), 401)
        with rooms.throttle.attempt(address_of(request), name) as attempt:
            owner = await rooms.registry.verify_owner(name, password, attempt)
            if wait := attempt.wait:
                text = f"Too many failed attempts, retry after {wait} seconds"
                return _answer(webitel.write_error(text), 429, {"Retry-After": str(wait)})
            if owner is None:
                await attempt.failed()
                raise Fault(401, "secret incorrect")
            attempt.succeeded()
        if not owner.is_enabled:
            raise Fault(401, OWNER_DISABLED)
    except Fault as fault:
        return _answer(webitel.write_error(str(fault)), fault.status)
    session = await rooms.tokens.open_session(owner, secret=password)
    response = _answer(webitel.write_signed_in(session.key, owner.owner_id, session.expires, session.token))
    cookie.sign_in(request, response, session, LIFETIME)
    return response


async def _sign_out(request: Request) -> Response:
    try:
        token, key = webitel.read_credentials(await _fields(request), request.query_params, request.headers)
    except Fault as fault:
        return _answer(webitel.write_error(str(fault)), fault.status)
    if not (token and key and await rooms_of(request).tokens.close_session(key, token)):
        return _answer(webitel.write_error("Invalid credentials."), 401)
    response = _answer(webitel.write_signed_out())
    cookie.sign_out(response)
    return response


# -- what is asked -----------------------------------------------------------------------------------------------------------


def _domain(request: Request, caller: Caller) -> str:
    # A token's own domain wins without a word: another one cannot be reached by it, nor asked about.
    return caller.domain or request.query_params.get("domain", "")


async def _find(rooms: Rooms, caller: Caller, domain: str) -> Setting | None:
    outfit = await rooms.directory.outfit(caller.owner.owner_id)
    # What is no domain is not folded: the work grows with the square of its length.
    return outfit.setting_of(domain) if is_domain(domain.lower()) else None


async def _show(request: Request, rooms: Rooms, fields: Fields, caller: Caller) -> Response:
    domain = _domain(request, caller)
    if not domain:
        raise Fault(400, webitel.DOMAIN_REQUIRED)
    setting = await _find(rooms, caller, domain)
    if setting is None:
        raise Fault(404, "Not found!")
    return _answer(webitel.write_setting(setting))


async def _put(request: Request, rooms: Rooms, fields: Fields, caller: Caller, *, must_exist: bool) -> Response:
    domain = _domain(request, caller)
    document = webitel.read_setting(fields, domain)
    choices = webitel.usable_choices(document)
    found = await rooms.arranging.put_setting(caller.owner.owner_id, domain, choices, document, must_exist=must_exist)
    if found is None or (must_exist and not found[1]):  # its database counts what an update modified
        raise Fault(404, "Not found.")
    return _answer(webitel.write_setting(found[0]))


async def _replace(request: Request, rooms: Rooms, fields: Fields, caller: Caller) -> Response:
    return await _put(request, rooms, fields, caller, must_exist=False)


async def _update(request: Request, rooms: Rooms, fields: Fields, caller: Caller) -> Response:
    return await _put(request, rooms, fields, caller, must_exist=True)


async def _remove(request: Request, rooms: Rooms, fields: Fields, caller: Caller) -> Response:
    domain = _domain(request, caller)
    if not domain:
        raise Fault(400, webitel.BAD_PARAMETERS)
    return _answer(webitel.write_removed(int(await rooms.arranging.remove_setting(caller.owner.owner_id, domain))))


async def _test(request: Request, rooms: Rooms, fields: Fields, caller: Caller) -> Response:
    domain = _domain(request, caller)
    if not domain:
        raise Fault(400, webitel.DOMAIN_REQUIRED)
    setting = await _find(rooms, caller, domain)
    if setting is None:
        raise Fault(404, f"Not settings EMail provider from domain {domain}")
    document = webitel.document_of(setting)
    choices = setting.choices or webitel.read_choices(document)
    target = min(choices, key=lambda choice: choice.priority).target
    sender = webitel.sender_of(document, setting.domain)
    recipient = webitel.recipient_of(rooms.settings.test_recipient)
    trial = await test_for(rooms, caller.owner.owner_id, target, sender, recipient, "webitel")
    if not trial.is_success:
        raise Fault(500, trial.text, trial.code)
    return _answer(webitel.write_tested(sender, recipient, trial.reply, trial.message_id))


# -- where it is asked -------------------------------------------------------------------------------------------------------


async def _lost(request: Request) -> Response:
    """What no route serves; and what a browser asks before it lets a page ask."""
    if request.method == "OPTIONS":
        return Response(None, 200, HEADERS)
    return answer_error(rooms_of(request), request.url.path, 404, "")


_ROUTES: tuple[tuple[Call, str, str, Serve], ...] = (
    ("show", "GET", SETTINGS, _show),
    ("replace", "POST", SETTINGS, _replace),
    ("update", "PUT", SETTINGS, _update),
    ("remove", "DELETE", SETTINGS, _remove),
    ("test", "POST", f"{SETTINGS}/test", _test),
    ("test_to", "POST", f"{SETTINGS}/test/{{to}}", _test),
)
_HEADERS = [
    Security(APIKeyHeader(name=name, scheme_name=scheme, auto_error=False))
    for name, scheme in (("X-Access-Token", "WebitelToken"), ("X-Key", "WebitelKey"))
]


def add_routes(app: FastAPI) -> None:
    """Add every call under both prefixes, and what answers for the rest; the calls without a prefix are shown in the description."""
    router = APIRouter(tags=["Webitel"])
    for prefix in PREFIXES:
        is_shown = not prefix
        for call, method, path, serve in _ROUTES:
            _add(router, call, method, f"{prefix}{path}", _endpoint(serve), is_shown)
        _add(router, "login", "POST", f"{prefix}/login", _sign_in, is_shown)
        _add(router, "logout", "POST", f"{prefix}/logout", _sign_out, is_shown)
        router.add_api_route(f"{prefix}{SETTINGS}", _endpoint(_show), methods=["HEAD"], include_in_schema=False)
    for path in ("/api/v2", "/api/v2/{rest:path}", "/engine", "/engine/{rest:path}", "/login", "/logout"):
        router.add_api_route(path, _lost, methods=METHODS, include_in_schema=False)
    app.include_router(router)


def _add(router: APIRouter, call: Call, method: str, path: str, endpoint: Callable[[Request], Awaitable[Response]], is_shown: bool) -> None:
    router.add_api_route(
        path, endpoint, methods=[method], response_model=None, include_in_schema=is_shown, openapi_extra=describe(call),
        summary=call, operation_id=f"webitel_{call}", dependencies=[] if call == "login" else _HEADERS,
    )  # fmt: skip


def _endpoint(serve: Serve) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await _serve(serve, request)

    return endpoint
