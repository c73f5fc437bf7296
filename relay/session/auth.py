"""AUTH (RFC 4954) with PLAIN (RFC 4616) and LOGIN: the exchange, the look-up, the throttle.

Promises: a wrong password and an unknown user get the same reply, not sooner than a fixed time after the exchange; a disabled
account is told so only to who knows its password; what the store cannot answer is temporary and never a refusal of credentials.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from relay.accounts.user import User
from relay.mail.reply import Reply
from relay.store.client import StoreRefused, StoreUnavailable

if TYPE_CHECKING:
    from relay.session.house import House

MECHANISMS = ("PLAIN", "LOGIN")
MAX_LINE = 12_288
"""Octets of a line of the exchange (RFC 4954 section 4)."""

ACCEPTED = Reply(235, "7.0", "Authentication successful")
WRONG = Reply(535, "7.8", "Authentication credentials invalid")
DISABLED = Reply(525, "7.13", "User account disabled")
UNAVAILABLE = Reply(454, "7.0", "Temporary authentication failure, try again later")
CANCELLED = Reply(501, "7.0", "Authentication cancelled")
NOT_BASE64 = Reply(501, "5.2", "Not valid base64")
TOO_LONG = Reply(500, "5.6", "Authentication exchange line is too long")


class Client(Protocol):
    """What the exchange asks of the connection."""

    async def ask(self, challenge: bytes) -> bytes | None:
        """Send `334 challenge` and return the line that answers it, without CRLF, None if it was too long; raises Gone."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the client claims."""

    name: str
    password: str


async def exchange(client: Client, mechanism: str, initial: bytes | None) -> Credentials | Reply:
    """Carry out the exchange of a mechanism; `initial` is the initial response as sent, still in base64."""
    if mechanism == "PLAIN":
        response = await _response(client, b"", initial)
        return response if isinstance(response, Reply) else _parse_plain(response)
    name = await _response(client, b"VXNlcm5hbWU6", initial)
    if isinstance(name, Reply):
        return name
    password = await _response(client, b"UGFzc3dvcmQ6", None)
    if isinstance(password, Reply):
        return password
    return Credentials(name.decode("utf-8", "replace"), password.decode("utf-8", "replace"))


async def _response(client: Client, challenge: bytes, initial: bytes | None) -> bytes | Reply:
    line = initial
    if line is None:
        line = await client.ask(challenge)
        if line is None:
            return TOO_LONG
        if line == b"*":
            return CANCELLED
    elif line == b"=":  # an empty initial response
        return b""
    if len(line) > MAX_LINE:
        return TOO_LONG
    try:
        return base64.b64decode(line, validate=True)
    except binascii.Error:
        return NOT_BASE64


def _parse_plain(response: bytes) -> Credentials | Reply:
    parts = response.split(b"\0")
    if len(parts) != 3:
        return Reply(501, "5.2", "PLAIN takes authorization identity, name and password")
    identity, name, password = (part.decode("utf-8", "replace") for part in parts)
    if identity not in ("", name):
        return WRONG  # nobody may act for another
    return Credentials(name, password)


async def verify(house: House, id: str, address: str, mechanism: str, claim: Credentials) -> User | Reply:
    """Whether the claim is true, within the throttle; the user may send."""
    loop = asyncio.get_running_loop()
    floor = loop.time() + house.rules.failure_floor
    try:
        wait = await house.throttle.check(address, claim.name)
        user = None if wait else await house.registry.verify_user(claim.name, claim.password)
        if wait:
            reply = Reply(454, "7.0", f"Too many failed attempts; retry-after={wait}")
        elif user is None:
            await house.throttle.failed(address, claim.name)
            reply = WRONG
        elif not user.is_enabled:
            reply = DISABLED
        else:
            house.journal.authenticated(id, user.name, mechanism)
            return user
    except (StoreUnavailable, StoreRefused) as error:
        house.report_store(id, error)
        reply = UNAVAILABLE
    if reply is WRONG:
        await asyncio.sleep(floor - loop.time())
    house.journal.auth_refused(id, claim.name[:128], address, str(reply))
    return reply
