"""The queue on the native API, `/api/v1/queue`: an owner sees and touches its own users' mail, an SMTP user sees its own.

Promises: another owner's message is answered like one that never was; what a person or the relay itself holds for a reason that is not
the owner's to judge stays held; a message that is being sent is not removed; what is removed is in the journal, recipient by recipient.

The content of a message is not shown here: an owner's token is no key to its users' mail.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.security import HTTPBasicCredentials

from relay.accounts.owner import Owner
from relay.accounts.user import User
from relay.api.fault import FaultBody
from relay.api.listing import NO_STORE, answer_pages
from relay.api.native import _owner_scheme, _user_scheme, admit
from relay.api.queue_view import Flushed, QueueCounts, QueueDetail, QueueList, in_full, in_short, owed
from relay.api.rooms import address_of, rooms_of
from relay.spool.entry import Entry
from relay.spool.fault import SpoolUnavailable
from relay.spool.spool import Spool

OWNERS_TO_LIFT = frozenset({"owner", "undeliverable"})
"""Holds that an owner may end, by a release or a removal: its own, and that of a report nobody took. The others stand for something
that is not in order, or that the relay's operator wants to see."""
SETTLING = 10.0
"""Seconds in which the transaction that put an entry has settled it, or withdrawn it again."""


_FAULTS: dict[int | str, dict[str, Any]] = {
    400: {"model": FaultBody, "description": "A parameter that cannot be used"},
    401: {"model": FaultBody, "description": "Wrong credentials"},
    403: {"model": FaultBody, "description": "The owner is disabled, or the SMTP user may not do this"},
    429: {"model": FaultBody, "description": "Too many failed attempts"},
    503: {"model": FaultBody, "description": "The store or the spool cannot be used now"},
}
_UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"model": FaultBody, "description": "No such message of this owner"}}
_CONFLICT: dict[int | str, dict[str, Any]] = _UNKNOWN | {409: {"model": FaultBody, "description": "The message is held, or being sent"}}


@dataclass(frozen=True, slots=True)
class Reach:
    """Whose mail a caller may see: an owner's, or that of one of its users only."""

    owner_id: str
    user: str | None = None

    def covers(self, entry: Entry) -> bool:
        """Whether an entry is the caller's to see."""
        return entry.owner == self.owner_id and self.user in (None, entry.user)


async def _reader(
    request: Request,
    given: Annotated[HTTPBasicCredentials, Depends(_owner_scheme)],
    _: Annotated[HTTPBasicCredentials, Depends(_user_scheme)],
) -> Reach:
    return await _identify(request, given)


async def _changer(request: Request, given: Annotated[HTTPBasicCredentials, Depends(_owner_scheme)]) -> Reach:
    reach = await _identify(request, given)
    if reach.user is not None:  # no wrong credentials, and not counted as such
        raise HTTPException(403, "Only the owner may do this")
    return reach


async def _identify(request: Request, given: HTTPBasicCredentials) -> Reach:
    rooms, name = rooms_of(request), given.username
    with rooms.throttle.attempt(address_of(request), name) as attempt:
        found: Owner | User | None = await rooms.registry.verify_owner(name, given.password, attempt)
        if found is None and not attempt.wait:
            found = await rooms.registry.verify_user(name, given.password)
        found = await admit(attempt, found)
    if isinstance(found, User):
        return Reach(found.owner_id, found.name)
    if not found.is_enabled:
        raise HTTPException(403, "The owner is disabled")
    return Reach(found.owner_id)


ByReader = Annotated[Reach, Depends(_reader)]
ByOwner = Annotated[Reach, Depends(_changer)]

router = APIRouter(prefix="/api/v1/queue", tags=["queue"], responses=_FAULTS)


@router.get("", response_model=QueueList)
async def list_queue(
    request: Request,
    reach: ByReader,
    state: Annotated[Literal["all", "waiting", "held"], Query(description="Only what waits, or only what is held.")] = "all",
    user: Annotated[str | None, Query(description="Only this SMTP user's.")] = None,
) -> Response:
    """List the messages that wait for the smarthost, oldest first; an SMTP user sees its own."""
    spool = spool_of(request)
    if reach.user is not None and user not in (None, reach.user):
        return Response(b'{"entries":[]}', media_type="application/json", headers=NO_STORE)
    now = spool.now()

    def write(entries: Iterable[Any]) -> bytes:
        return b",".join(in_short(entry, now).model_dump_json().encode() for entry in entries)

    pages: Any = spool.pages(owner=reach.owner_id, user=reach.user or user, which=state)
    return await answer_pages(pages, b'{"entries":[', b"]}", write)


@router.get("/counts")
async def count_queue(request: Request, response: Response, owner: ByOwner) -> QueueCounts:
    """Show an owner its users' queue in figures."""
    counts = await spool_of(request).counts(owner.owner_id)
    response.headers.update(NO_STORE)
    return QueueCounts(
        waiting=counts.waiting,
        held=counts.held,
        sending=counts.claimed,
        in_doubt=counts.in_doubt,
        reports=counts.reports,
        octets=counts.octets,
        oldest=None if counts.oldest is None else int(counts.oldest),
    )


@router.post("/flush")
async def flush_queue(request: Request, owner: ByOwner) -> Flushed:
    """Have everything of an owner that is not held tried now."""
    return Flushed(flushed=await spool_of(request).flush(owner.owner_id))


@router.get("/{id}", responses=_UNKNOWN)
async def show_message(request: Request, response: Response, reach: ByReader, id: str) -> QueueDetail:
    """Show one message and where each of its recipients stands."""
    response.headers.update(NO_STORE)
    return await _shown(request, reach, id)


@router.post("/{id}/retry", responses=_CONFLICT)
async def retry_message(request: Request, owner: ByOwner, id: str) -> QueueDetail:
    """Have a message tried now."""
    if not await spool_of(request).retry(id, owner.owner_id):
        entry = await _find(request, owner, id)
        if entry.held:
            raise HTTPException(409, f"The message is held ({entry.held}); release it first")
    return await _shown(request, owner, id)


@router.post("/{id}/hold", responses=_CONFLICT)
async def hold_message(request: Request, owner: ByOwner, id: str) -> QueueDetail:
    """Hold a message until it is released."""
    entry = await _find(request, owner, id)
    # A hold that stands is not exchanged for one that the owner may end.
    if entry.held and entry.held != "owner":
        raise HTTPException(409, f"The message is held already ({entry.held})")
    if not entry.held and await spool_of(request).hold(id, "owner", owner.owner_id):
        rooms_of(request).journal.held(id, "owner")
    return await _shown(request, owner, id)


@router.post("/{id}/release", responses=_CONFLICT)
async def release_message(request: Request, owner: ByOwner, id: str) -> QueueDetail:
    """End a hold; the message is tried now."""
    entry = await _liftable(request, owner, id)
    if entry.held and await spool_of(request).unhold(id, owner.owner_id):
        rooms_of(request).journal.unheld(id, entry.held)
    return await _shown(request, owner, id)


@router.delete("/{id}", status_code=204, response_class=Response, responses=_CONFLICT)
async def remove_message(request: Request, owner: ByOwner, id: str) -> None:
    """Remove a message for good; recipients that it was still owed to get neither it nor a report."""
    await _liftable(request, owner, id)
    removed = await remove_entry(spool_of(request), id, owner.owner_id)
    match removed:
        case Entry():
            rooms_of(request).journal.discarded(id, owed(removed), "owner")
        case None:
            raise _unknown()
        case "claimed":
            raise HTTPException(409, "The message is being sent right now; hold it, or try again later")
        case "new":
            raise HTTPException(409, f"The message is being taken right now; try again in {SETTLING:g} seconds")


async def remove_entry(spool: Spool, id: str, owner: str | None = None) -> Entry | Literal["claimed", "new"] | None:
    """Remove an entry for a person and return it; "claimed": it is being sent, "new": being taken; None: there is none (of that owner).

    Whoever was told that his message is taken is charged for it, and nothing leaves the spool unsettled: a charge that the ledger may
    not have been told of is kept in the spool first. Settling it once more has no effect.
    """
    entry = await spool.find(id)
    if entry is None or owner not in (None, entry.owner):
        return None
    is_loose = not entry.is_settled and entry.units > 0
    if is_loose and not entry.claimed_by and spool.now() - entry.arrived < SETTLING:
        return "new"
    if is_loose:
        await spool.keep_charge(entry.user, id, entry.units, entry.accepted, 0)
    removed = await spool.remove(id, owner)
    if is_loose and not isinstance(removed, Entry):  # one that is being sent may yet be refused and withdrawn
        await spool.forget_charges([id])
    return removed


def spool_of(request: Request) -> Spool:
    """The spool of this node; raises SpoolUnavailable where there is none."""
    spool = rooms_of(request).spool
    if spool is None:
        raise SpoolUnavailable("no spool")
    return spool


async def _find(request: Request, reach: Reach, id: str) -> Entry:
    entry = await spool_of(request).find(id)
    if entry is None or not reach.covers(entry):
        raise _unknown()
    return entry


async def _liftable(request: Request, owner: Reach, id: str) -> Entry:
    entry = await _find(request, owner, id)
    if entry.held == "route":
        raise HTTPException(409, "The message is held for want of a route; it goes on when there is an upstream for its sender's domain")
    if entry.held and entry.held not in OWNERS_TO_LIFT:
        raise HTTPException(409, f"The message is held for a reason that only the relay's operator can lift ({entry.held})")
    return entry


async def _shown(request: Request, reach: Reach, id: str) -> QueueDetail:
    return in_full(await _find(request, reach, id), spool_of(request).now())


def _unknown() -> HTTPException:
    return HTTPException(404, "unknown message")
