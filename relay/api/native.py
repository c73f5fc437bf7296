"""The relay's own routes, `/api/v1`: users for their owner, usage for the user and the owner.

Promises: HTTP Basic with owner id and token, or with an SMTP user's name and password; null is unlimited; an error is
`{"error": {"code", "message"}}`; another owner's user is answered like one that never was.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from relay.accounts.owner import Owner
from relay.accounts.provisioning import KEEP, UnknownUser
from relay.accounts.throttle import Attempt
from relay.accounts.user import MAX_LIMIT, Entry, User
from relay.api.fault import FAULTS
from relay.api.listing import NO_STORE, answer_pages
from relay.api.rooms import address_of, rooms_of

Limit = Annotated[int, Field(strict=True, ge=1, le=MAX_LIMIT)] | None
Status = Literal["Enable", "Disable"]
Found = TypeVar("Found", bound=Owner | User)


class Body(BaseModel):
    """What is sent and answered."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NewUser(Body):
    """A user to be made; null is unlimited."""

    hourly_limit: Limit
    total_limit: Limit


def _without_defaults(schema: dict[str, Any]) -> None:
    """What stands for a field that is absent is never what it is then set to."""
    for field in schema["properties"].values():
        field.pop("default")


class UserChange(Body):
    """What to change; what is absent stays, null is unlimited."""

    model_config = ConfigDict(json_schema_extra=_without_defaults)

    hourly_limit: Limit = None
    total_limit: Limit = None
    status: Status = "Enable"


class UserState(Body):
    """A user."""

    smtp_user_name: str
    status: Status
    hourly_limit: int | None
    total_limit: int | None


class UserSecret(UserState):
    """A user with its password, shown where it is made."""

    smtp_password: str


class UserUsage(UserState):
    """What a user has sent, in the unit the relay counts, and when one more unit fits (seconds; 0 now, null never)."""

    sent_in_window: int
    in_flight: int
    sent_total: int
    rejected_in_window: int
    retry_after: int | None


class UserList(Body):
    """An owner's users."""

    users: list[UserState]


class _Basic(HTTPBasic):
    """HTTP Basic (RFC 7617) in UTF-8, the absence of credentials being wrong credentials."""

    async def __call__(self, request: Request) -> HTTPBasicCredentials:  # type: ignore[override]
        scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
        try:
            name, _, password = base64.b64decode(encoded.strip() if scheme.lower() == "basic" else "").decode().partition(":")
        except ValueError:
            name, password = "", ""
        return HTTPBasicCredentials(username=name, password=password)


_owner_scheme = _Basic(scheme_name="Owner", description="owner_id and token", auto_error=False)
_user_scheme = _Basic(scheme_name="SmtpUser", description="smtp_user_name and its password", auto_error=False)


async def _owner(request: Request, given: Annotated[HTTPBasicCredentials, Depends(_owner_scheme)]) -> Owner:
    rooms, name = rooms_of(request), given.username
    with rooms.throttle.attempt(address_of(request), name) as attempt:
        owner = await admit(attempt, await rooms.registry.verify_owner(name, given.password, attempt))
    if not owner.is_enabled:
        raise HTTPException(403, "The owner is disabled")
    return owner


async def _user(request: Request, given: Annotated[HTTPBasicCredentials, Depends(_user_scheme)]) -> User:
    rooms, name = rooms_of(request), given.username
    with rooms.throttle.attempt(address_of(request), name) as attempt:
        return await admit(attempt, await rooms.registry.verify_user(name, given.password, attempt))


async def admit(attempt: Attempt, found: Found | None) -> Found:
    """End an attempt by what was found: who it is, or the error that answers it."""
    if wait := attempt.wait:
        raise HTTPException(429, f"Too many failed attempts, retry after {wait} seconds", {"Retry-After": str(wait)})
    if found is None:
        await attempt.failed()
        raise HTTPException(401, "Wrong credentials", {"WWW-Authenticate": 'Basic realm="relay", charset="UTF-8"'})
    attempt.succeeded()
    return found


ByOwner = Annotated[Owner, Depends(_owner)]
ByUser = Annotated[User, Depends(_user)]

router = APIRouter(prefix="/api/v1", tags=["native"], responses=FAULTS)


@router.get("/usage")
async def show_own_usage(request: Request, response: Response, user: ByUser) -> UserUsage:
    """Show an SMTP user its own usage."""
    return await _usage(request, response, user.name, user.owner_id)


@router.get("/users", response_model=UserList)
async def list_users(request: Request, owner: ByOwner) -> Response:
    """List an owner's users, without their passwords."""
    pages = rooms_of(request).registry.user_pages(owner.owner_id)
    return await answer_pages(pages, b'{"users":[', b"]}", _write_entries)


@router.post("/users", status_code=201)
async def add_user(request: Request, response: Response, owner: ByOwner, body: NewUser) -> UserSecret:
    """Make a user with a generated name and password."""
    user, password = await rooms_of(request).provisioning.add_user(owner.owner_id, body.hourly_limit, body.total_limit)
    response.headers.update(NO_STORE)
    return UserSecret(**_state(user, is_on=True), smtp_password=password)


@router.get("/users/{name}")
async def show_user(request: Request, owner: ByOwner, name: str) -> UserState:
    """Show a user."""
    return UserState(**_entry_state(await _find(request, owner.owner_id, name)))


@router.patch("/users/{name}")
async def change_user(request: Request, owner: ByOwner, name: str, body: UserChange) -> UserState:
    """Change a user; when this answers, nothing let in before can exceed what it restricts."""
    given = body.model_fields_set
    await rooms_of(request).provisioning.edit_user(
        name,
        owner_id=owner.owner_id,
        hourly=body.hourly_limit if "hourly_limit" in given else KEEP,
        total=body.total_limit if "total_limit" in given else KEEP,
        is_enabled=body.status == "Enable" if "status" in given else None,
    )
    return UserState(**_entry_state(await _find(request, owner.owner_id, name)))


@router.post("/users/{name}/password")
async def reset_password(request: Request, response: Response, owner: ByOwner, name: str) -> UserSecret:
    """Give a user a new password; the old one is void at once."""
    password = await rooms_of(request).provisioning.reset_password(name, owner_id=owner.owner_id)
    response.headers.update(NO_STORE)
    return UserSecret(**_entry_state(await _find(request, owner.owner_id, name)), smtp_password=password)


@router.delete("/users/{name}", status_code=204, response_class=Response)
async def delete_user(request: Request, owner: ByOwner, name: str) -> None:
    """Remove a user and its counters."""
    await rooms_of(request).provisioning.delete_user(name, owner_id=owner.owner_id)


@router.get("/users/{name}/usage")
async def show_usage(request: Request, response: Response, owner: ByOwner, name: str) -> UserUsage:
    """Show a user's usage."""
    return await _usage(request, response, name, owner.owner_id)


async def _find(request: Request, owner_id: str, name: str) -> Entry:
    entry = await rooms_of(request).registry.find_entry(name, owner_id)
    if entry is None:
        raise UnknownUser("unknown user")
    return entry


async def _usage(request: Request, response: Response, name: str, owner_id: str) -> UserUsage:
    entry = await _find(request, owner_id, name)
    usage = await rooms_of(request).ledger.usage(name)
    if usage is None:
        raise UnknownUser("unknown user")
    response.headers.update(NO_STORE)
    return UserUsage(
        **_entry_state(entry),
        sent_in_window=usage.window,
        in_flight=usage.in_flight,
        sent_total=usage.taken,
        rejected_in_window=usage.rejected,
        retry_after=usage.retry_after,
    )


def _entry_state(entry: Entry) -> dict[str, Any]:
    return _state(entry.user, is_on=entry.is_switched_on)


def _state(user: User, *, is_on: bool) -> dict[str, Any]:
    status = "Enable" if is_on else "Disable"
    return {"smtp_user_name": user.name, "status": status, "hourly_limit": user.hourly, "total_limit": user.total}


def _write_entries(entries: Iterable[Entry]) -> bytes:
    return b",".join(json.dumps(_entry_state(entry), separators=(",", ":")).encode() for entry in entries)
