"""The routes of the TES dialect: `/v1.0/settings/...`, with and without the version.

Promises: everything under these paths is answered in the dialect's own shape, whatever goes wrong; another owner's user is answered
like one that never was, after the same work; guessing tokens is slowed down by address.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import Response

from relay.accounts.owner import Owner
from relay.accounts.provisioning import KEEP, UnknownUser
from relay.api.listing import JSON, NO_STORE, answer_pages
from relay.api.rooms import Rooms, address_of, rooms_of
from relay.api.tes_schema import describe
from relay.dialects import tes
from relay.dialects.tes import Call, ErrorName, Fault, Fields

PREFIXES = ("/v1.0", "/settings")
OWNER_DISABLED = "Owner is disabled"

Serve = Callable[[Rooms, Owner, Fields], Awaitable[Response]]


def is_tes_path(path: str) -> bool:
    """Whether the dialect answers for a path."""
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in PREFIXES)


def answer_error(
    rooms: Rooms, status: int, message: str, headers: Mapping[str, str] | None = None, *, profile: str = "", name: ErrorName | None = None
) -> Response:
    """Answer an error in the dialect's shape; its name follows from the status unless it is given."""
    if name is None:
        name = "AuthenticationError" if status in (401, 429) else "GeneralError" if status >= 500 else "ValidationError"
    shown = 200 if rooms.settings.errors_always_200 else status
    return Response(tes.write_error(name, message, profile), shown, headers, JSON)


# -- who asks ----------------------------------------------------------------------------------------------------------------


async def _serve(call: Call, request: Request) -> Response:
    rooms = rooms_of(request)
    profile = ""
    try:
        fields = tes.read_body(await request.body())
        owner_id, token = tes.read_credentials(fields)
        with rooms.throttle.attempt(address_of(request), owner_id) as attempt:
            owner = await rooms.registry.verify_owner(owner_id, token, attempt)
            if wait := attempt.wait:
                return answer_error(rooms, 429, f"Too many failed attempts, retry after {wait} seconds", {"Retry-After": str(wait)})
            if owner is None:
                await attempt.failed()
                # The profile's own shape even here: its document shows it for this very error. What it tells a guesser is that an
                # owner id exists, which is no secret.
                claimed = await rooms.registry.find_owner(owner_id)
                profile = claimed.profile if claimed else ""
                raise Fault("AuthenticationError", tes.MISMATCH)
            attempt.succeeded()
        profile = owner.profile
        if not owner.is_enabled:
            raise Fault("AuthenticationError", OWNER_DISABLED)
        return await _SERVE[call](rooms, owner, fields)
    except UnknownUser:
        return answer_error(rooms, 400, tes.UNKNOWN_USER, profile=profile)
    except Fault as fault:
        return answer_error(rooms, tes.STATUSES[fault.name], str(fault), profile=profile, name=fault.name)


# -- what is asked -----------------------------------------------------------------------------------------------------------


async def _add(rooms: Rooms, owner: Owner, fields: Fields) -> Response:
    asked = tes.read_addition(fields)
    user, password = await rooms.provisioning.add_user(owner.owner_id, asked.hourly, asked.total)
    return _answer(tes.write_created(user.name, password))


async def _edit(rooms: Rooms, owner: Owner, fields: Fields) -> Response:
    asked = tes.read_edit(fields, owner.profile)
    await rooms.provisioning.edit_user(
        asked.name,
        owner_id=owner.owner_id,
        hourly=KEEP if asked.hourly is None else asked.hourly,
        total=KEEP if asked.total is None else asked.total,
        is_enabled=asked.is_enabled,
    )
    return _answer(tes.write_updated())


async def _reset(rooms: Rooms, owner: Owner, fields: Fields) -> Response:
    name = tes.read_user_name(fields)
    password = await rooms.provisioning.reset_password(name, owner_id=owner.owner_id)
    return _answer(tes.write_reset(name, password))


async def _list(rooms: Rooms, owner: Owner, fields: Fields) -> Response:
    pages = rooms.registry.user_pages(owner.owner_id)
    return await answer_pages(pages, tes.LIST_BEGINS, tes.LIST_ENDS, lambda page: tes.write_entries(page, owner.profile))


_SERVE: Mapping[Call, Serve] = {"addSmtp": _add, "editSmtp": _edit, "resetSmtpPassword": _reset, "listSmtp": _list}


def _answer(body: bytes) -> Response:
    return Response(body, media_type=JSON, headers=NO_STORE)


# -- where it is asked -------------------------------------------------------------------------------------------------------


def add_routes(app: FastAPI) -> None:
    """Add every call under every path that clients use; the documented one is shown in the description of the API."""
    router = APIRouter(tags=["TES"])
    for name, call in tes.CALLS.items():
        for prefix in ("/v1.0/settings", "/settings"):
            router.add_api_route(
                f"{prefix}/{name}",
                _endpoint(call),
                methods=["POST"],
                response_model=None,
                summary=call,
                include_in_schema=prefix == "/v1.0/settings" and name == call,
                openapi_extra=describe(call),
            )
    app.include_router(router)


def _endpoint(call: Call) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await _serve(call, request)

    return endpoint
