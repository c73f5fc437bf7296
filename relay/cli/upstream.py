"""relay upstream: where owners' mail goes, whom they may send as, what their mail is signed with.

Secrets come from a file or from standard input, never from the command line, and are shown on request alone. With --json each command
prints one document, the same as the API answers.
"""

from __future__ import annotations

import asyncio
import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from relay.accounts.directory import Unreadable
from relay.accounts.provisioning import NotDone, UnknownOwner
from relay.accounts.setting import Setting
from relay.api.smarthost import DEFAULT, Smarthost, choices_of, show
from relay.api.upstream import TestResult, Upstream, domain_of, result_of, state_of
from relay.cli.accounts import Json, OwnerId, _show
from relay.cli.door import Config, Door, WrongArgument, opened, run
from relay.cli.signing import add_commands
from relay.mail.address import is_mailbox
from relay.outlet import open_guard
from relay.upstream.guard import PORT, Forbidden, Guard
from relay.upstream.route import MIN_RATE, Choice, Target
from relay.upstream.trial import try_out

upstream = typer.Typer(help="Owners' upstreams: where their mail goes.", no_args_is_help=True, rich_markup_mode=None)

Domain = Annotated[str, typer.Argument(metavar="DOMAIN", help=f"The domain it is sent from; {DEFAULT}: every one without its own.")]
ShowPassword = Annotated[bool, typer.Option("--show-password", help="Show passwords and the keys of certificates.")]
Port = Annotated[int | None, typer.Option(metavar="N", help="465 with --security tls, else 25.", show_default=False)]
Security = Annotated[str, typer.Option(metavar="WORD", help="none, opportunistic, starttls or tls.")]
PasswordFile = Annotated[Path | None, typer.Option("--password-file", metavar="FILE", help="A file whose first line is the password.")]
CaFile = Annotated[Path | None, typer.Option("--ca-file", metavar="FILE", help="Authorities to trust too (PEM); copied.")]
IdentityFile = Annotated[Path | None, typer.Option("--identity-file", metavar="FILE", help="A certificate and its key (PEM); copied.")]


@upstream.command("list")
def list_upstreams(owner_id: OwnerId, as_json: Json = False, config: Config = None) -> None:
    """List where an owner's mail goes."""

    async def do() -> list[Setting]:
        async with opened(config) as door:
            await check_owner(door, owner_id)
            return [setting for _, setting in sorted((await door.directory.outfit(owner_id)).settings.items())]

    found = run(do(), owner_id)
    if as_json:
        _show([state_of(setting).model_dump() for setting in found], True)
    else:
        _show([{"domain": each.domain or DEFAULT, "id": each.id, "smarthosts": str(each.route) or "none"} for each in found], False)


@upstream.command("show")
def show_upstream(
    owner_id: OwnerId, domain: Domain, show_password: ShowPassword = False, as_json: Json = False, config: Config = None
) -> None:
    """Show where the mail of a domain goes."""

    async def do() -> Setting:
        async with opened(config) as door:
            return await find(door, owner_id, domain)

    _tell(run(do(), owner_id), as_json, show_password)


@upstream.command("set")
def set_upstream(
    owner_id: OwnerId,
    domain: Domain,
    host: Annotated[str | None, typer.Option(help="The smarthost's public name or address.", show_default=False)] = None,
    port: Port = None,
    security: Security = "starttls",
    user: Annotated[str, typer.Option(help="The name to log in with.")] = "",
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")] = False,
    password_file: PasswordFile = None,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Whether its certificate must be its own.")] = True,
    ca_file: CaFile = None,
    identity_file: IdentityFile = None,
    server_name: Annotated[str, typer.Option(help="The name its certificate must bear, if not the host's.")] = "",
    mechanism: Annotated[str, typer.Option(help="How to log in: plain or login; the first that is offered without.")] = "",
    name: Annotated[str, typer.Option(help="What the relay calls itself there.")] = "",
    priority: Annotated[int, typer.Option(help="The lowest comes first.")] = 0,
    weight: Annotated[int, typer.Option(help="Its share among those of the same priority.")] = 1,
    max_connections: Annotated[int, typer.Option(help="Sessions at a time.")] = 20,
    max_rate: Annotated[float, typer.Option(help=f"Messages a second, {MIN_RATE:g} or more; 0: as many as there are.")] = 0.0,
    add: Annotated[bool, typer.Option("--add", help="Keep the smarthosts there are, and add this one.")] = False,
    json_in: Annotated[bool, typer.Option("--json-in", help='Read {"smarthosts": [...]} from standard input instead.')] = False,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Make or replace where the mail of a domain goes; a password that is not given stays with its host and user."""
    fields = {
        "host": host, "port": port, "security": security, "username": user, "verify": verify, "server_name": server_name,
        "mechanism": mechanism, "name": name, "priority": priority, "weight": weight, "max_connections": max_connections,
        "max_messages_per_second": max_rate,
    }  # fmt: skip

    async def do() -> Setting:
        if json_in == (host is not None):
            raise WrongArgument("give either --host or --json-in")
        if not (max_rate == 0 or max_rate >= MIN_RATE):
            raise WrongArgument(f"--max-rate: 0, or at least {MIN_RATE:g}")
        if [json_in, password_stdin, password_file is not None].count(True) > 1:
            raise WrongArgument("give the password once: by --password-stdin, --password-file or --json-in")
        if json_in:
            given = _read_upstream(sys.stdin.read())
        else:
            secrets = {"password": _read_password(password_stdin, password_file), "identity": _read_pem(identity_file)}
            given = [_smarthost({**fields, **secrets, "ca": _read_pem(ca_file) or ""})]
        async with opened(config) as door:
            return await _put(door, owner_id, domain, given, add)

    _tell(run(do(), owner_id), as_json, False)


async def _put(door: Door, owner_id: str, domain: str, given: list[Smarthost], is_adding: bool) -> Setting:
    await check_owner(door, owner_id)
    try:
        stored = (await door.directory.outfit(owner_id)).setting_of(domain_of(domain))
    except Unreadable:
        if is_adding:
            raise
        stored = None  # what cannot be read can be replaced
    kept = stored.choices if stored and is_adding else ()
    choices = (*kept, *choices_of(given, stored, partial(_check, open_guard(door.settings))))
    put = await door.arranging.put_setting(owner_id, domain_of(domain), choices)
    assert put is not None  # it need not have existed
    return put[0]


def _check(guard: Guard, target: Target) -> None:
    """As the guard; but here it is the operator himself who hears of it."""
    try:
        guard.check(target)
    except Forbidden as error:
        if str(error) == PORT:
            raise Forbidden(f"port {target.port} is none that owners' smarthosts may have: guard.allow_ports adds it") from None
        raise Forbidden("an address that is not public: guard.allow_networks names the networks that owners may use") from None


@upstream.command("delete")
def delete_upstream(owner_id: OwnerId, domain: Domain, as_json: Json = False, config: Config = None) -> None:
    """Remove it; mail that was taken under it is held until there is one again."""

    async def do() -> dict[str, Any]:
        async with opened(config) as door:
            await check_owner(door, owner_id)
            if not await door.arranging.remove_setting(owner_id, domain_of(domain)):
                raise NotDone(f"no upstream for {domain!r}")
            return {"domain": domain, "status": "deleted"}

    _show(run(do(), owner_id), as_json)


@upstream.command("test")
def test_upstream(
    owner_id: OwnerId,
    domain: Domain,
    to: Annotated[str, typer.Option(metavar="ADDRESS", help="Who gets the message; api.test_recipient without.")] = "",
    sender: Annotated[str, typer.Option("--from", metavar="ADDRESS", help="Who sends it; postmaster of the domain without.")] = "",
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Send a test message by each smarthost; exit status 1 if any fails."""

    async def do() -> list[TestResult]:
        async with opened(config) as door:
            setting = await find(door, owner_id, domain)
            by = sender or (f"postmaster@{setting.domain}" if setting.domain else "")
            recipient = to or door.settings.api.test_recipient
            for option, address in (("--from", by), ("--to", recipient)):
                if not is_mailbox(address, is_utf8=True):
                    raise WrongArgument(f"{option}: {address!r} is no address" if address else f"give {option}")
            guard = open_guard(door.settings)
            return await asyncio.gather(*(_test(door, guard, owner_id, choice, by, recipient) for choice in setting.choices))

    results = run(do(), owner_id)
    _show([result.model_dump() for result in results], as_json)
    if not all(result.success for result in results):
        raise typer.Exit(1)


async def _test(door: Door, guard: Guard, owner_id: str, choice: Choice, sender: str, recipient: str) -> TestResult:
    settings = door.settings
    trial = await try_out(choice.target, guard, settings.smtp.hostname, sender, recipient, settings.api.test_budget_seconds)
    door.journal.event("smarthost_tested", owner=owner_id, host=str(choice.target), stage=trial.stage, by="shell")
    return result_of(choice, trial)


add_commands(upstream)


# -- reading and showing -----------------------------------------------------------------------------------------------------


async def check_owner(door: Door, owner_id: str) -> None:
    """See that there is such an owner; raises UnknownOwner."""
    if await door.registry.find_owner(owner_id) is None:
        raise UnknownOwner("unknown owner")


async def find(door: Door, owner_id: str, domain: str) -> Setting:
    """The setting of a domain; raises UnknownOwner or NotDone."""
    await check_owner(door, owner_id)
    setting = (await door.directory.outfit(owner_id)).setting_of(domain_of(domain))
    if setting is None:
        raise NotDone(f"no upstream for {domain!r}")
    return setting


def _read_password(is_stdin: bool, file: Path | None) -> str | None:
    """The first line of what is given; None where nothing is."""
    if file is not None:
        return (_read_pem(file) or "").split("\n", 1)[0].removesuffix("\r")
    return sys.stdin.readline().rstrip("\r\n") if is_stdin else None


def _read_pem(file: Path | None) -> str | None:
    try:
        return None if file is None else file.read_text(encoding="utf-8")
    except OSError as error:
        raise WrongArgument(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise WrongArgument(f"{file}: not text") from None


def _smarthost(fields: dict[str, Any]) -> Smarthost:
    try:
        return Smarthost.model_validate(fields)
    except ValidationError as error:
        raise WrongArgument(_first(error)) from None


def _read_upstream(text: str) -> list[Smarthost]:
    try:
        found = json.loads(text)
        return Upstream.model_validate({"smarthosts": found} if isinstance(found, list) else found).smarthosts
    except ValidationError as error:
        raise WrongArgument(f"standard input: {_first(error)}") from None
    except (ValueError, RecursionError):
        raise WrongArgument("standard input: not JSON") from None


def _first(error: ValidationError) -> str:
    """The place and what is wrong with it; never the value, it may be a secret."""
    first: Any = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def _tell(setting: Setting, as_json: bool, has_secrets: bool) -> None:
    shown = [show(choice).model_dump() for choice in setting.choices]
    if has_secrets:
        for row, choice in zip(shown, setting.choices, strict=True):
            row |= {"password": choice.target.password or None, "identity": choice.target.identity or None}
    if as_json:
        _show({"domain": setting.domain or DEFAULT, "id": setting.id, "smarthosts": shown}, True)
        return
    left_out = {"ca", "identity", "password"} - ({"password", "identity"} if has_secrets else set())
    for row in shown:
        _show({"domain": setting.domain or DEFAULT} | {key: value for key, value in row.items() if key not in left_out}, False)
    if not shown:
        typer.echo("none")
