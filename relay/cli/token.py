"""relay token: access tokens of owners, for clients that are not to know the owner's own.

A token is printed where it is issued, and nowhere else.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from relay.accounts.provisioning import NotDone
from relay.accounts.token import Issued
from relay.cli.accounts import Json, OwnerId, _show
from relay.cli.door import Config, opened, run
from relay.cli.upstream import check_owner

DAY = 86400.0

token = typer.Typer(help="Access tokens of owners.", no_args_is_help=True, rich_markup_mode=None)


@token.command("issue")
def issue_token(
    owner_id: OwnerId,
    domain: Annotated[str, typer.Option(metavar="DOMAIN", help="The only domain it speaks for; all of the owner's without.")] = "",
    days: Annotated[
        float | None, typer.Option(metavar="N", help="How long it holds; until it is revoked without.", show_default=False)
    ] = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Issue an access token; it is shown this once."""

    async def do() -> dict[str, Any]:
        async with opened(config) as door:
            id, made = await door.tokens.issue(owner_id, domain, None if days is None else days * DAY)
            issued = next(each for each in await door.tokens.tokens(owner_id) if each.id == id)
            return {"owner_id": owner_id, **_row(issued), "token": made}

    _show(run(do(), owner_id), as_json)


@token.command("list")
def list_tokens(owner_id: OwnerId, as_json: Json = False, config: Config = None) -> None:
    """List an owner's access tokens, without the tokens themselves."""

    async def do() -> list[dict[str, Any]]:
        async with opened(config) as door:
            await check_owner(door, owner_id)
            return [_row(issued) for issued in await door.tokens.tokens(owner_id)]

    _show(run(do(), owner_id), as_json)


@token.command("revoke")
def revoke_token(
    owner_id: OwnerId,
    id: Annotated[str, typer.Argument(metavar="TOKEN_ID", help="The token's id, as `list` has it.")],
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Make an access token void, at once."""

    async def do() -> dict[str, Any]:
        async with opened(config) as door:
            await check_owner(door, owner_id)
            if not await door.tokens.revoke(owner_id, id):
                raise NotDone(f"unknown token {id!r}")
            return {"id": id, "status": "revoked"}

    _show(run(do(), owner_id), as_json)


def _row(issued: Issued) -> dict[str, Any]:
    expires = _moment(issued.expires / 1000) if issued.expires else None
    return {"id": issued.id, "domain": issued.domain or None, "created": _moment(issued.created), "expires": expires}


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
