"""relay upstream policy, sign, signers, unsign: whom an owner's users may send as, and what its mail is signed with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from relay.accounts.provisioning import NotDone, UnknownOwner
from relay.accounts.setting import Policy
from relay.api.policy import policy_state, signer_of, signer_state
from relay.cli.accounts import Json, OwnerId, _show
from relay.cli.door import Config, Door, WrongArgument, opened, run

Domain = Annotated[str, typer.Argument(metavar="DOMAIN", help="The domain that is signed for.")]
Allowed = Annotated[
    list[str] | None, typer.Option("--allow", metavar="NAME", help="A domain or an address; repeat it. Replaces those there are.")
]
Senders = Annotated[str | None, typer.Option(metavar="WORD", help="any, domains or addresses.", show_default=False)]
ChecksFrom = Annotated[
    bool | None, typer.Option("--check-from/--no-check-from", help="Hold the From field to the same.", show_default=False)
]
Generate = Annotated[str | None, typer.Option(metavar="KIND", help="Make a new key: rsa or ed25519.", show_default=False)]
KeyFile = Annotated[Path | None, typer.Option("--key-file", metavar="FILE", help="A private key (PEM); copied.")]


def add_commands(upstream: typer.Typer) -> None:
    """Add the commands to those about upstreams."""
    upstream.command("policy")(set_policy)
    upstream.command("sign")(set_signer)
    upstream.command("signers")(list_signers)
    upstream.command("unsign")(remove_signer)


async def _check_owner(door: Door, owner_id: str) -> None:
    if await door.registry.find_owner(owner_id) is None:
        raise UnknownOwner("unknown owner")


def set_policy(
    owner_id: OwnerId,
    senders: Senders = None,
    allowed: Allowed = None,
    checks_from: ChecksFrom = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Show, or change, whom an owner's users may send as; what is not given stays, but names of the other kind."""

    async def do() -> dict[str, Any]:
        if senders not in (None, "any", "domains", "addresses"):
            raise WrongArgument(f"--senders: {senders!r} is none of any, domains, addresses")
        async with opened(config) as door:
            await _check_owner(door, owner_id)
            # What is given whole needs nothing read: so what cannot be read is replaced.
            is_whole = senders is not None and bool(allowed) and checks_from is not None
            policy = Policy() if is_whole else (await door.directory.outfit(owner_id)).policy
            if senders is not None or allowed or checks_from is not None:
                policy = await door.arranging.set_policy(owner_id, _changed(policy, senders, allowed, checks_from))
            return policy_state(policy).model_dump()

    shown = run(do(), owner_id)
    _show(shown if as_json else {**shown, "allowed": ", ".join(shown["allowed"])}, as_json)


def _changed(policy: Policy, senders: str | None, allowed: list[str] | None, checks_from: bool | None) -> Policy:
    """A policy with what is given in place of what there was; the names are all addresses, or all domains."""
    changed = replace(policy, senders=senders or policy.senders)  # type: ignore[arg-type]
    if allowed:
        changed = replace(changed, allowed=tuple(filter(None, allowed)))
    elif (changed.senders == "addresses") != (policy.senders == "addresses"):
        changed = replace(changed, allowed=())
    return changed if checks_from is None else replace(changed, checks_from=checks_from)


def set_signer(
    owner_id: OwnerId,
    domain: Domain,
    selector: Annotated[str, typer.Option(metavar="NAME", help="The key's name in the domain's DNS.")],
    generate: Generate = None,
    key_file: KeyFile = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Sign the mail of a domain; prints the DNS record that it needs."""

    async def do() -> dict[str, Any]:
        if (generate is None) == (key_file is None):
            raise WrongArgument("give either --generate or --key-file")
        if generate not in (None, "rsa", "ed25519"):
            raise WrongArgument(f"--generate: {generate!r} is neither rsa nor ed25519")
        key = f"generate {generate}" if key_file is None else _read(key_file)
        async with opened(config) as door:
            await _check_owner(door, owner_id)
            return signer_state(await door.arranging.set_signer(owner_id, await signer_of(domain, selector, key))).model_dump()

    _show(run(do(), owner_id), as_json)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError as error:
        raise WrongArgument(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise WrongArgument(f"{file}: not text") from None


def list_signers(owner_id: OwnerId, as_json: Json = False, config: Config = None) -> None:
    """List what an owner's mail is signed with, and the DNS records."""

    async def do() -> list[dict[str, Any]]:
        async with opened(config) as door:
            await _check_owner(door, owner_id)
            signers = (await door.directory.outfit(owner_id)).signers
            return [signer_state(signer).model_dump() for _, signer in sorted(signers.items())]

    _show(run(do(), owner_id), as_json)


def remove_signer(owner_id: OwnerId, domain: Domain, as_json: Json = False, config: Config = None) -> None:
    """Sign the mail of a domain no more."""

    async def do() -> dict[str, Any]:
        async with opened(config) as door:
            await _check_owner(door, owner_id)
            if not await door.arranging.remove_signer(owner_id, domain):
                raise NotDone(f"no signer for {domain!r}")
            return {"domain": domain, "status": "deleted"}

    _show(run(do(), owner_id), as_json)
