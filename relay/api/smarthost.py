"""Smarthosts as the relay's own calls write and show them, at the shell too.

Promises: what is shown can be written back as it is; a password and the key of a certificate are never shown, and what is not given
again stays; a value nobody could dial is refused here, with the place it stands at and never the value. Names and bounds are those of
nodemailer's options too: in whichever words a smarthost is shown, it is read back as the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from relay.accounts.provisioning import BadValue
from relay.accounts.setting import Setting
from relay.dialects.nodemailer import CONNECTIONS, MAX_NAME, MESSAGES, NAME, RATES, SERVER, TIMES, end_line, split_identity
from relay.upstream.guard import Forbidden
from relay.upstream.route import Choice, Security, Target, tls_context

DEFAULT = "_default"
"""Stands for the setting of every domain that has none of its own; no domain has an underscore."""
MAX_SMARTHOSTS = 20
MAX_PEM = 32_768

_PLAIN = r"^[^\x00-\x1f\x7f]*$"


def _check_rate(rate: float) -> float:
    if 0 < rate < RATES[0]:
        raise ValueError(f"0, or at least {RATES[0]}")
    return rate


_Rate = Annotated[float, Field(ge=0.0, le=RATES[1]), AfterValidator(_check_rate)]
_Wait = Annotated[float, Field(ge=TIMES[0], le=TIMES[1]), AfterValidator(lambda seconds: round(seconds, 3))]
"""To the millisecond, as it is told elsewhere."""

Check = Callable[[Target], None]
"""Refuses what may not be dialled; raises Forbidden."""


class Smarthost(BaseModel):
    """One smarthost of an upstream."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    host: str = Field(min_length=1, max_length=MAX_NAME, description="A public name or address.")
    port: int | None = Field(None, ge=1, le=65535, description="465 with tls and 25 else, where it is null.")
    security: Security = Field(
        "starttls", description="Of TLS: none; where it is offered; by STARTTLS or not at all; from the first octet."
    )
    verify: bool = Field(True, description="Whether its certificate must be its own, by an authority that is trusted.")
    ca: str = Field("", max_length=MAX_PEM, description="Authorities that are trusted too, as PEM.")
    identity: str | None = Field(
        None,
        max_length=MAX_PEM,
        description="A certificate of the owner's and its key, as PEM; null in answers, null keeps the stored one.",
    )
    has_identity: bool = Field(False, description="Whether one is stored; has no effect in a request.")
    server_name: str = Field(
        "", max_length=MAX_NAME, pattern=f"^(?:{SERVER})?$", description="The name its certificate must bear; host where it is empty."
    )
    username: str = Field("", max_length=255, pattern=_PLAIN)
    password: str | None = Field(
        None,
        max_length=1024,
        pattern=_PLAIN,
        description="Null in answers; null keeps the stored one of the same host and username.",
    )
    has_password: bool = Field(False, description="Whether one is stored; has no effect in a request.")
    mechanism: Literal["", "plain", "login"] = Field("", description="How to log in; the first that is offered where it is empty.")
    name: str = Field(
        "", max_length=MAX_NAME, pattern=f"^(?:{NAME})?$", description="What the relay calls itself there; its host name where it is empty."
    )
    priority: int = Field(0, ge=0, le=1000, description="The lowest comes first.")
    weight: int = Field(1, ge=1, le=1000, description="Its share among those of the same priority.")
    max_connections: int = Field(20, ge=CONNECTIONS[0], le=CONNECTIONS[1], description="Sessions at a time.")
    max_messages: int = Field(1000, ge=MESSAGES[0], le=MESSAGES[1], description="Messages on one session.")
    max_messages_per_second: _Rate = Field(0.0, description=f"0: as many as there are; else at least {RATES[0]}.")
    timeout_seconds: _Wait = Field(15.0, description="The longest wait for each reply.")
    connect_timeout_seconds: _Wait = 15.0
    greeting_timeout_seconds: _Wait = 15.0


def show(choice: Choice) -> Smarthost:
    """A smarthost without its secrets. What was written in another dialect may lie outside the bounds of this one."""
    target = choice.target
    return Smarthost.model_construct(
        host=target.host, port=target.port, security=target.security, verify=target.verify, ca=target.ca, identity=None,
        has_identity=bool(target.identity), server_name=target.server_name, username=target.username, password=None,
        has_password=bool(target.password), mechanism=target.mechanism, name=target.name, priority=choice.priority, weight=choice.weight,
        max_connections=target.max_connections, max_messages=target.max_messages, max_messages_per_second=target.max_rate,
        timeout_seconds=target.timeout, connect_timeout_seconds=target.connect_timeout,
        greeting_timeout_seconds=target.greeting_timeout,
    )  # fmt: skip


def choices_of(given: Sequence[Smarthost], stored: Setting | None, check: Check) -> tuple[Choice, ...]:
    """The choices that smarthosts stand for, with what is kept of the stored setting; raises BadValue."""
    kept = [choice.target for choice in stored.choices] if stored else []
    return tuple(_choice(one, kept, check, f"smarthosts.{number}") for number, one in enumerate(given))


def _choice(given: Smarthost, kept: Sequence[Target], check: Check, place: str) -> Choice:
    target = Target(
        host=given.host, port=given.port or (465 if given.security == "tls" else 25), security=given.security, verify=given.verify,
        ca=end_line(given.ca), server_name=given.server_name, username=given.username, mechanism=given.mechanism, name=given.name,
        timeout=given.timeout_seconds, connect_timeout=given.connect_timeout_seconds,
        greeting_timeout=given.greeting_timeout_seconds, max_connections=given.max_connections, max_messages=given.max_messages,
        max_rate=given.max_messages_per_second, is_guarded=True,
    )  # fmt: skip
    same = sorted((one for one in kept if one.host.lower() == given.host.lower()), key=lambda one: one.port != target.port)
    target = replace(target, password=_password(given, same, place), identity=_identity(given, same))
    try:
        check(target)
    except Forbidden as forbidden:
        raise BadValue(f"{place}.host: {forbidden}") from None
    _check_pem(target, place)
    return Choice(target, given.priority, given.weight)


def _password(given: Smarthost, same: Sequence[Target], place: str) -> str:
    if not given.username:
        if given.password:
            raise BadValue(f"{place}.username: missing beside a password")
        return ""
    if given.security == "none":
        raise BadValue(f'{place}.username: refused with security "none", the password would travel in clear')
    if given.password is not None:
        if not given.password:
            raise BadValue(f"{place}.password: empty beside a user name")
        return given.password
    found = next((one.password for one in same if one.username == given.username and one.password), None)
    if found is None:
        raise BadValue(f"{place}.password: missing, and none is stored for this host and username")
    return found


def _identity(given: Smarthost, same: Sequence[Target]) -> str:
    if given.identity is not None:
        certificates, key = split_identity(given.identity)
        return key + certificates
    return next((one.identity for one in same if one.identity), "")


def _check_pem(target: Target, place: str) -> None:
    probe = replace(target, security="tls", verify=False)
    if target.ca and not _is_usable(replace(probe, identity="")):
        raise BadValue(f"{place}.ca: not certificates as PEM")
    if target.identity and not _is_usable(replace(probe, ca="")):
        raise BadValue(f"{place}.identity: not a certificate with its key, as PEM")


def _is_usable(target: Target) -> bool:
    try:
        tls_context(target)
    except (OSError, ValueError):  # ssl.SSLError is one
        return False
    return True
