"""AUTH (RFC 4954) with PLAIN (RFC 4616) and LOGIN: the exchange, the look-up, the throttle.

Promises: a wrong password and an unknown user get the same reply, not sooner than a time after the exchange that is fixed and doubles
with each failure of the connection; a disabled account, and one with too many connections, is told so only to who knows its password;
what the store cannot answer is temporary and never a refusal of credentials.

Names and passwords are compared octet by octet. SASLprep (RFC 4616 section 2 asks for it, RFC 4013) is not applied: to what the relay
generates it does nothing, and what a person brought is to be sent as it was set. It would make several texts one password, by tables
of Unicode 3.2.
"""

from __future__ import annotations

import asyncio
import binascii
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from relay.accounts.directory import Unreadable
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
CROWDED = Reply(421, "7.0", "Too many connections for this account")
CANCELLED = Reply(501, "7.0", "Authentication cancelled")
NOT_BASE64 = Reply(501, "5.2", "Not valid base64")
TOO_LONG = Reply(500, "5.6", "Authentication exchange line is too long")

SLOWEST = 5.0
"""Seconds a refusal of credentials may take at most."""
SHOWN_NAME = 128
"""Characters of a name that goes on record, as long as the longest there can be."""


class Client(Protocol):
    """What the exchange asks of the connection."""

    async def ask(self, challenge: bytes) -> bytes | None:
        """Send `334 challenge` and return the line that answers it, without CRLF, None if it was too long; raises Gone."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the client claims."""

    name: str
    password: str
    is_possible: bool = True
    """Whether anybody can have them at all; they are looked up in any case, so that this takes as long as if they were only wrong."""

    @classmethod
    def of(cls, name: bytes, password: bytes, identity: bytes = b"") -> Credentials:
        """Read them as they were sent; nobody has any that are not UTF-8 or hold NUL (RFC 4616 section 2), or may act for another."""
        is_possible = identity in (b"", name) and b"\0" not in name + password
        try:
            return cls(name.decode(), password.decode(), is_possible)
        except UnicodeDecodeError:
            return cls(name.decode("utf-8", "surrogateescape"), password.decode("utf-8", "surrogateescape"), is_possible=False)

    @property
    def shown(self) -> str:
        """The name as it goes on record."""
        return self.name[:SHOWN_NAME].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


async def exchange(client: Client, mechanism: str, initial: bytes | None) -> Credentials | Reply:
    """Carry out the exchange of a mechanism; `initial` is the initial response as sent, still in base64."""
    if mechanism == "PLAIN":
        response = await _ask(client, b"") if initial is None else _decode_initial(initial)
        return response if isinstance(response, Reply) else _parse_plain(response)
    name = await _ask(client, b"VXNlcm5hbWU6") if initial is None else _decode_initial(initial)
    if isinstance(name, Reply):
        return name
    password = await _ask(client, b"UGFzc3dvcmQ6")
    if isinstance(password, Reply):
        return password
    return Credentials.of(name, password)


async def _ask(client: Client, challenge: bytes) -> bytes | Reply:
    line = await client.ask(challenge)
    if line is None:
        return TOO_LONG
    return CANCELLED if line == b"*" else _decode(line)


def _decode_initial(line: bytes) -> bytes | Reply:
    return b"" if line == b"=" else _decode(line)  # an empty one is written so


def _decode(line: bytes) -> bytes | Reply:
    if len(line) > MAX_LINE:
        return TOO_LONG
    try:
        return binascii.a2b_base64(line, strict_mode=True)
    except binascii.Error:
        return NOT_BASE64


def _parse_plain(response: bytes) -> Credentials | Reply:
    parts = response.split(b"\0")
    if len(parts) != 3:
        return Reply(501, "5.2", "PLAIN takes authorization identity, name and password")
    identity, name, password = parts
    return Credentials.of(name, password, identity)


async def verify(house: House, id: str, address: str, mechanism: str, claim: Credentials, failures: int = 0) -> User | Reply:
    """Whether the claim is true, within the throttle, and the user may have one more connection; `failures` are the connection's so far.

    The user of a connection that is let in is present until the connection says that he leaves.
    """
    loop = asyncio.get_running_loop()
    answered = loop.time() + min(house.rules.failure_floor * 2**failures, SLOWEST)
    try:
        answer = await _identify(house, address, claim)
        if isinstance(answer, User) and not await _enter(house, answer):
            answer = CROWDED
    except (StoreUnavailable, StoreRefused) as error:
        house.report_store(id, error)
        answer = UNAVAILABLE
    if isinstance(answer, User):
        house.journal.authenticated(id, answer.name, mechanism)
        return answer
    if answer is not UNAVAILABLE:
        await asyncio.sleep(answered - loop.time())
    house.journal.auth_refused(id, claim.shown, address, str(answer))
    return answer


async def _enter(house: House, user: User) -> bool:
    """Whether the user may have one more connection; what is not known yet of its owner is asked, so that MAIL can be judged."""
    if house.directory.known(user.owner_id) is None:
        with suppress(StoreUnavailable, StoreRefused, Unreadable):  # what this cannot tell, DATA will
            await house.directory.outfit(user.owner_id)
    return house.presence is None or await house.presence.enter(user.name)


async def _identify(house: House, address: str, claim: Credentials) -> User | Reply:
    """Who it is; costs one round trip, and another for a failure."""
    # What nobody can have is looked up with a NUL behind it, which no password has: it is as wrong as any other, and counts like it.
    password = claim.password if claim.is_possible else claim.password + "\0"
    with house.throttle.attempt(address, claim.name) as attempt:
        user = await house.registry.verify_user(claim.name, password, attempt)
        if attempt.wait:
            return Reply(454, "7.0", f"Too many failed attempts; retry-after={attempt.wait}")
        if user is None or not claim.is_possible:
            await attempt.failed()
            return WRONG
        attempt.succeeded()
        return user if user.is_enabled else DISABLED
