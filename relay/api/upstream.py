"""Upstreams on the native API, `/api/v1/upstreams`: where an owner's mail goes, by the domain it is sent from.

Promises: when a change has answered, it holds for every message that comes later; another owner's upstreams are never read, changed or
named; passwords and keys are never shown. `_default` in place of a domain is the setting of every domain that has none of its own.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import Field

from relay.accounts.directory import Unreadable
from relay.accounts.setting import Setting
from relay.api.fault import FAULTS, FaultBody
from relay.api.listing import NO_STORE
from relay.api.native import Body, ByOwner
from relay.api.rooms import rooms_of
from relay.api.smarthost import DEFAULT, MAX_SMARTHOSTS, Smarthost, choices_of, show
from relay.api.trial import test_for
from relay.mail.address import is_mailbox
from relay.upstream.route import Choice
from relay.upstream.trial import Trial

UNKNOWN = "no such upstream"
NO_RECIPIENT = "no test address is configured on this relay (api.test_recipient)"


class Upstream(Body):
    """Where the mail of one domain goes."""

    smarthosts: Annotated[list[Smarthost], Field(min_length=1, max_length=MAX_SMARTHOSTS)]


class UpstreamState(Upstream):
    """The same, as it is stored."""

    domain: str = Field(description="`_default` for every domain that has none of its own.")
    id: str


class UpstreamList(Body):
    """All of an owner's."""

    upstreams: list[UpstreamState]


class TestRequest(Body):
    """Whose test it is."""

    __test__ = False

    sender: str = Field("", description="The address it is sent from; postmaster of the domain where it is empty.")


class TestResult(Body):
    """What came of the test of one smarthost."""

    __test__ = False

    host: str
    port: int
    success: bool
    stage: str = Field(description="How far it came: dns, guard, connect, greeting, tls, login, sender, recipient, content, time or done.")
    message: str
    reply: str = Field(description="What the smarthost said last.")


class TestResults(Body):
    """What came of the test of each."""

    __test__ = False

    results: list[TestResult]


TEST_FAULTS: dict[int | str, dict[str, Any]] = {
    409: {"model": FaultBody, "description": "No test address is configured"},
    429: {"model": FaultBody, "description": "Too many failed attempts, or too many tests under way; Retry-After says when"},
}
router = APIRouter(prefix="/api/v1/upstreams", tags=["upstreams"], responses=FAULTS)


@router.get("")
async def list_upstreams(request: Request, response: Response, owner: ByOwner) -> UpstreamList:
    """List where an owner's mail goes."""
    response.headers.update(NO_STORE)
    outfit = await rooms_of(request).directory.outfit(owner.owner_id)
    return UpstreamList.model_construct(upstreams=[state_of(setting) for _, setting in sorted(outfit.settings.items())])


@router.get("/{domain}")
async def show_upstream(request: Request, response: Response, owner: ByOwner, domain: str) -> UpstreamState:
    """Show where the mail of a domain goes."""
    response.headers.update(NO_STORE)
    return state_of(await _find(request, owner.owner_id, domain))


@router.put("/{domain}", responses={201: {"model": UpstreamState, "description": "It was made"}})
async def put_upstream(request: Request, response: Response, owner: ByOwner, domain: str, body: Upstream) -> UpstreamState:
    """Make or replace it; the next message goes by it."""
    rooms, domain = rooms_of(request), domain_of(domain)
    try:
        stored = (await rooms.directory.outfit(owner.owner_id)).setting_of(domain)
    except Unreadable:  # what cannot be read can be replaced; nothing of it is kept
        stored = None
    choices = choices_of(body.smarthosts, stored, rooms.guard.check)
    put = await rooms.arranging.put_setting(owner.owner_id, domain, choices)
    assert put is not None  # it need not have existed
    response.status_code = 200 if stored else 201
    response.headers.update(NO_STORE)
    return state_of(put[0])


@router.delete("/{domain}", status_code=204, response_class=Response)
async def delete_upstream(request: Request, owner: ByOwner, domain: str) -> None:
    """Remove it; mail that was taken under it is held until there is one again."""
    if not await rooms_of(request).arranging.remove_setting(owner.owner_id, domain_of(domain)):
        raise HTTPException(404, UNKNOWN)


@router.post("/{domain}/test", responses=TEST_FAULTS)
async def test_upstream(request: Request, response: Response, owner: ByOwner, domain: str, body: TestRequest) -> TestResults:
    """Send a message to the relay's test address by each of its smarthosts."""
    rooms, setting = rooms_of(request), await _find(request, owner.owner_id, domain)
    sender = _sender(body, setting)
    # To nobody else: tests cost no quota, and whose a domain is was never proved.
    if not (recipient := rooms.settings.test_recipient):
        raise HTTPException(409, NO_RECIPIENT)

    results = []
    for choice in setting.choices:  # one after the other: what an owner may have under way is bounded
        results.append(result_of(choice, await test_for(rooms, owner.owner_id, choice.target, sender, recipient, "native")))
    response.headers.update(NO_STORE)
    return TestResults(results=results)


def _sender(asked: TestRequest, setting: Setting) -> str:
    """Who sends the test; raises HTTPException."""
    sender = asked.sender or (f"postmaster@{setting.domain}" if setting.domain else "")
    if not is_mailbox(sender, is_utf8=True):
        raise HTTPException(400, "sender: not an address" if sender else "sender: an address is needed")
    return sender


async def _find(request: Request, owner_id: str, domain: str) -> Setting:
    outfit = await rooms_of(request).directory.outfit(owner_id)
    setting = outfit.setting_of(domain_of(domain))
    if setting is None:
        raise HTTPException(404, UNKNOWN)
    return setting


def domain_of(text: str) -> str:
    """The domain that a path or an argument names; "" for the default."""
    return "" if text == DEFAULT else text or "-"  # what is no domain is refused, or found nowhere


def state_of(setting: Setting) -> UpstreamState:
    """A setting as it is shown."""
    smarthosts = [show(choice) for choice in setting.choices]
    return UpstreamState.model_construct(domain=setting.domain or DEFAULT, id=setting.id, smarthosts=smarthosts)


def result_of(choice: Choice, trial: Trial) -> TestResult:
    """The result of a trial as it is shown."""
    return TestResult(
        host=choice.target.host, port=choice.target.port, success=trial.is_success, stage=trial.stage, message=trial.text, reply=trial.reply
    )
