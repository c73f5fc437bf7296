"""Whom an owner's users may send as, and what its mail is signed with: `/api/v1/policy` and `/api/v1/signers`.

Promises: when a change has answered, it holds for every message that comes later; a private key is taken, or made here, and never shown.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import Field

from relay.accounts.provisioning import BadValue
from relay.accounts.setting import Policy, Senders, Signer
from relay.accounts.signing import Kind, dns_record, new_key
from relay.api.fault import FAULTS
from relay.api.listing import NO_STORE
from relay.api.native import Body, ByOwner
from relay.api.rooms import rooms_of

KINDS: dict[str, Kind] = {"generate rsa": "rsa", "generate ed25519": "ed25519"}
MAX_ALLOWED = 5_000


class PolicyBody(Body):
    """Whom an owner's users may send as."""

    senders: Senders = Field(
        description="any; domains: those with an upstream of their own, and the allowed ones; addresses: the allowed ones."
    )
    allowed: Annotated[list[str], Field(max_length=MAX_ALLOWED)] = []
    check_from: bool = Field(False, description="Whether the From field of a message is held to the same.")


class NewSigner(Body):
    """What to sign a domain's mail with."""

    selector: str
    key: str = Field(description="`generate rsa`, `generate ed25519`, or a private key as PEM.")


class SignerState(Body):
    """What a domain's mail is signed with, and the record its DNS must have."""

    domain: str
    selector: str
    dns_name: str
    dns_value: str = Field(description="Of a TXT record.")


class SignerList(Body):
    """All of an owner's."""

    signers: list[SignerState]


router = APIRouter(prefix="/api/v1", tags=["policy"], responses=FAULTS)


@router.get("/policy")
async def show_policy(request: Request, response: Response, owner: ByOwner) -> PolicyBody:
    """Show whom an owner's users may send as."""
    response.headers.update(NO_STORE)
    return policy_state((await rooms_of(request).directory.outfit(owner.owner_id)).policy)


@router.put("/policy")
async def put_policy(request: Request, response: Response, owner: ByOwner, body: PolicyBody) -> PolicyBody:
    """Say whom an owner's users may send as; the next message goes by it."""
    policy = Policy(body.senders, tuple(body.allowed), body.check_from)
    response.headers.update(NO_STORE)
    return policy_state(await rooms_of(request).arranging.set_policy(owner.owner_id, policy))


@router.get("/signers")
async def list_signers(request: Request, response: Response, owner: ByOwner) -> SignerList:
    """List what an owner's mail is signed with."""
    response.headers.update(NO_STORE)
    signers = (await rooms_of(request).directory.outfit(owner.owner_id)).signers
    return SignerList(signers=[signer_state(signer) for _, signer in sorted(signers.items())])


@router.put("/signers/{domain}")
async def put_signer(request: Request, response: Response, owner: ByOwner, domain: str, body: NewSigner) -> SignerState:
    """Sign the mail of a domain; publish the record first, or receivers find none."""
    signer = await signer_of(domain, body.selector, body.key)
    response.headers.update(NO_STORE)
    return signer_state(await rooms_of(request).arranging.set_signer(owner.owner_id, signer))


@router.delete("/signers/{domain}", status_code=204, response_class=Response)
async def delete_signer(request: Request, owner: ByOwner, domain: str) -> None:
    """Sign the mail of a domain no more."""
    if not await rooms_of(request).arranging.remove_signer(owner.owner_id, domain):
        raise HTTPException(404, "no such signer")


async def signer_of(domain: str, selector: str, key: str) -> Signer:
    """A signer with the key that was given, or a new one; raises BadValue."""
    if kind := KINDS.get(key.strip().lower()):
        key = await asyncio.to_thread(new_key, kind)  # which takes its time for RSA
    elif "-----BEGIN" not in key:
        raise BadValue("key: 'generate rsa', 'generate ed25519' or a private key as PEM is expected")
    return Signer(domain, selector, key)


def policy_state(policy: Policy) -> PolicyBody:
    """A policy as it is shown."""
    return PolicyBody(senders=policy.senders, allowed=list(policy.allowed), check_from=policy.checks_from)


def signer_state(signer: Signer) -> SignerState:
    """A signer as it is shown."""
    name = f"{signer.selector}._domainkey.{signer.domain}"
    return SignerState(domain=signer.domain, selector=signer.selector, dns_name=name, dns_value=dns_record(signer))
