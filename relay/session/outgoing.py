"""What its owner has set, applied to one message: who it may be from, where it goes, what it is signed with.

Promises:
- What is asked at DATA holds for the message: a setting that was changed before is seen, one that is changed later is not.
- A sender is refused only by what was asked about it, never by what is remembered.
- A header section that would take too long to sign is refused: nobody's mail waits for it, and for its size nothing goes out unsigned.
- What else cannot be read or signed is the relay's fault and temporary: nothing goes by a route that was not meant for it, nor unsigned,
  which a domain's own policy (DMARC) would have refused elsewhere, for good.

A signature is computed on the loop while that takes some milliseconds, and in a thread above.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from relay.accounts.directory import Look, Unreadable
from relay.accounts.setting import Outfit, Signer, fold
from relay.accounts.user import User
from relay.mail.reply import Reply
from relay.mail.signature import TooLarge, Unsignable, is_too_long, read_key, sign
from relay.mail.trace import Header
from relay.mail.verdict import Deferred
from relay.session.sender import NOT_ALLOWED, authors_of, judge
from relay.store.client import StoreRefused, StoreUnavailable
from relay.upstream.route import Route
from relay.upstream.smarthost import Message

if TYPE_CHECKING:
    from relay.session.house import House

STORE_DOWN = Reply(451, "3.0", "Temporary backend failure, try again later")
UNREADABLE = Reply(451, "3.5", "The settings of this account cannot be read, try again later")
UNSIGNED = Reply(451, "3.5", "The message could not be signed, try again later")
TOO_LARGE = Reply(552, "3.4", "The header section is too large to be signed, it may have 64 KB and 1000 fields, 200 of them signed")
NOWHERE = Deferred(Reply(451, "3.5", "No usable smarthost is set"), ours=True)
"""What becomes of mail whose setting has no smarthost."""

LARGE = 524_288
"""Octets of a message that is signed in a thread."""


async def consult(house: House, id: str, user: User, units: int, look: Look, sender: str) -> Outfit | Reply:
    """What the user's owner has set, if the user may send as `sender`, else what the client hears, which is then on record."""
    try:
        outfit = await look.outfit()
    except (StoreUnavailable, StoreRefused) as error:
        house.journal.refused(id, user.name, "store", units, str(STORE_DOWN), None)
        house.report_store(id, error)
        return STORE_DOWN
    except Unreadable as error:
        house.journal.refused(id, user.name, "setting", units, str(UNREADABLE), None)
        house.journal.alarm("setting_unreadable", id=id, owner=user.owner_id, error=str(error))
        return UNREADABLE
    if not outfit.is_plain and not outfit.allows(sender):
        house.journal.refused(id, user.name, "sender", units, str(NOT_ALLOWED), None)
        return NOT_ALLOWED
    return outfit


def route_of(house: House, outfit: Outfit, sender: str) -> Route:
    """Where mail of a sender goes: by the owner's setting for its domain, by the owner's default, else by the relay's own route."""
    setting = outfit.setting_for(sender.rpartition("@")[2]) if outfit.settings else None
    return house.route if setting is None else setting.route


def is_particular(outfit: Outfit) -> bool:
    """Whether the owner has set anything for which a message must be read."""
    return bool(outfit.signers) or _is_checked(outfit)


def _is_checked(outfit: Outfit) -> bool:
    return outfit.policy.checks_from and outfit.policy.senders != "any"


async def finish(
    house: House, id: str, user: User, units: int, outfit: Outfit, sender: str, message: Message, header: Header
) -> Message | Reply:
    """The message as it goes out, signed where the owner has it so; else what the client hears, which is then on record."""
    is_checked, has_header = _is_checked(outfit), header.starts_with_field
    authors = authors_of(message.wire, has_header=has_header, is_strict=is_checked)
    if is_checked and (problem := judge(outfit, authors)):
        house.journal.refused(id, user.name, "author", units, str(problem), None)
        return problem
    signer = _signer_for(outfit, (*(authors or ()), sender))
    if signer is None:
        # Where its author cannot be told for its length, neither can be told that it goes unsigned.
        is_untold = authors is None and has_header and is_too_long(message.wire)
        return _turn_down(house, id, user, units) if is_untold else message
    try:
        given = message.prefix, message.wire, fold(signer.domain), signer.selector, read_key(signer.key), int(time.time())
        signature = sign(*given) if len(message.wire) <= LARGE else await asyncio.to_thread(sign, *given)
    except TooLarge:
        return _turn_down(house, id, user, units)
    except Unsignable as error:
        house.journal.refused(id, user.name, "signature", units, str(UNSIGNED), None)
        house.journal.alarm("signature_failed", id=id, owner=user.owner_id, domain=signer.domain, error=str(error))
        return UNSIGNED
    return message._replace(prefix=signature + message.prefix)


def _turn_down(house: House, id: str, user: User, units: int) -> Reply:
    """What is said to a header section that is not signed for its size."""
    house.journal.refused(id, user.name, "header", units, str(TOO_LARGE), None)
    return TOO_LARGE


def _signer_for(outfit: Outfit, addresses: tuple[str, ...]) -> Signer | None:
    """The signer of the first of these that there is one for: of an author, else of the envelope's sender."""
    domains = dict.fromkeys(address.rpartition("@")[2] for address in addresses)
    return next(filter(None, map(outfit.signer_for, domains)), None)
