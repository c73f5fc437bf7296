"""Arranging: the only writer of how owners' mail goes out.

Promises:
- When a call returns that changed something, every look of a directory that is begun later finds it, in every process (directory.py).
- A setting keeps its id over changes, whoever makes them at the same time: what is written replaces what was read, or is tried again.
- Nothing is written that could not be read again, or would let an owner past the guard or at the operator's files.

Who may ask for a change is left to the callers.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from secrets import token_hex
from typing import Any, get_args

from relay.accounts import record, signing
from relay.accounts.directory import Directory, Unreadable
from relay.accounts.owner import owner_key
from relay.accounts.provisioning import BadValue, UnknownOwner
from relay.accounts.record import POLICY, SETTINGS, SIGNERS
from relay.accounts.secrets import Key
from relay.accounts.setting import Policy, Setting, Signer, fold, fold_address, is_domain
from relay.journal import Journal
from relay.mail.address import is_mailbox
from relay.store import fitness
from relay.store.client import Script, Store, StoreForeign, StoreUnavailable
from relay.upstream.route import MIN_RATE, Choice, Security, Target

MAX_DOCUMENT = 65_536
"""Octets of a vendor's document, as JSON."""
MAX_DEPTH = 100
"""Levels of nesting in it."""
MAX_RECORD = 2 * MAX_DOCUMENT
"""Octets of a setting, or of a policy, in all."""
MAX_CHOICES = 20
MAX_DOMAINS = 1_000
"""Domains with a setting, and domains with a signer."""
MAX_OCTETS = 8 << 20
"""Of all that one owner has set: it is read at once, by every process."""
ATTEMPTS = 100
"""How often a change is tried that others are faster than."""

_WRITE = Script.load("relay.accounts", "arrange.lua")
_ANY = "*"
_MARK = record.ID_LENGTH + 12
"""Octets at the beginning of a record that no other has: the id and the seal's nonce."""
_OVERTAKEN, _UNKNOWN, _TOO_MANY, _TOO_MUCH = -2, -1, -3, -4


class Arranging:
    """Changes settings. Every call raises StoreUnavailable when it is not known whether it was carried out, UnknownOwner, and BadValue."""

    def __init__(self, store: Store, key: Key, directory: Directory, journal: Journal, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives seconds since 1970."""
        self._store = store
        self._key = key
        self._directory = directory
        self._journal = journal
        self._clock = clock

    # -- settings ------------------------------------------------------------------------------------------------------------

    async def put_setting(
        self, owner_id: str, domain: str, choices: Sequence[Choice], document: Mapping[str, Any] | None = None, *, must_exist: bool = False
    ) -> tuple[Setting, bool] | None:
        """Make or replace the setting of a domain; returns it and whether anything was modified. None: it must exist and does not.

        Targets are made guarded. A document is what it was, in the order of its keys, or something was modified.
        """
        domain = check_domain(domain, may_be_default=True)
        guarded = tuple(replace(choice, target=replace(choice.target, is_guarded=True)) for choice in choices)
        _check_choices(choices)
        written = _write_document(document)
        for _ in range(ATTEMPTS):
            old, old_written = await self._find_setting(owner_id, fold(domain))
            if must_exist and old is None:
                return None
            setting = Setting(domain, record.read_id(old or b"") or self._new_id(), guarded, document)
            octets = _limited(record.write_setting(setting, written))
            if octets == old_written:
                return setting, False
            sealed = record.seal_setting(self._key, owner_id, setting, octets)
            begins = b"" if old is None else old[:_MARK] or _ANY
            if await self._write(owner_id, SETTINGS, domain, begins, sealed) != _OVERTAKEN:
                host = guarded[0].target.host if guarded else ""
                self._journal.event("setting_put", owner=owner_id, domain=domain, host=host)
                return setting, True
        raise StoreUnavailable("the setting is being changed by too many at once")

    async def remove_setting(self, owner_id: str, domain: str) -> bool:
        """Remove a setting; whether there was one."""
        domain = _name_of(domain)
        if not await self._write(owner_id, SETTINGS, domain, _ANY, b""):
            return False
        self._journal.event("setting_removed", owner=owner_id, domain=domain)
        return True

    async def _find_setting(self, owner_id: str, domain: str) -> tuple[bytes | None, bytes]:
        """The record of a setting, if there is one, and what is written in it, if that can be read."""
        key = owner_key(owner_id)
        status, found = await self._store.many([("HGET", key, "status"), ("HGET", f"{key}:{SETTINGS}", domain)])
        if status is None:
            raise await self._unknown_owner()
        if found is None:
            return None, b""
        try:
            return found, record.unseal_setting(self._key, owner_id, domain, found)
        except Unreadable:
            return found, b""  # what is put in its place mends it

    def _new_id(self) -> str:
        """An id like MongoDB's (BSON specification, ObjectId): four octets of time, and eight that are random."""
        return f"{int(self._clock()) & 0xFFFFFFFF:08x}{token_hex(8)}"

    # -- policies and signers ------------------------------------------------------------------------------------------------

    async def set_policy(self, owner_id: str, policy: Policy) -> Policy:
        """Say who the owner's users may send as; returns it as it was written."""
        policy = _checked_policy(policy)
        await self._write(owner_id, POLICY, "", _ANY, _limited(record.seal_policy(self._key, owner_id, policy)))
        fields = {"senders": policy.senders, "allowed": len(policy.allowed), "checks_from": policy.checks_from}
        self._journal.event("policy_set", owner=owner_id, **fields)
        return policy

    async def set_signer(self, owner_id: str, signer: Signer) -> Signer:
        """Sign a domain's mail from now on; returns the signer as it was written."""
        domain = check_domain(signer.domain)
        if not signing.is_selector(signer.selector):
            raise BadValue("a selector has letters, digits and hyphens, between dots")
        pem = await asyncio.to_thread(signing.read_key, signer.key)  # which takes its time to check a long one
        if pem is None:
            raise BadValue("the key is no private key in PEM, without a passphrase, of RSA with 1024 to 4096 bits or of Ed25519")
        signer = Signer(domain, signer.selector.lower(), pem)
        await self._write(owner_id, SIGNERS, domain, _ANY, record.seal_signer(self._key, owner_id, signer))
        self._journal.event("signer_set", owner=owner_id, domain=domain, selector=signer.selector)
        return signer

    async def remove_signer(self, owner_id: str, domain: str) -> bool:
        """Sign it no more; whether it was."""
        domain = _name_of(domain)
        if not await self._write(owner_id, SIGNERS, domain, _ANY, b""):
            return False
        self._journal.event("signer_removed", owner=owner_id, domain=domain)
        return True

    # -- writing -------------------------------------------------------------------------------------------------------------

    async def _write(self, owner_id: str, part: str, domain: str, begins: bytes | str, sealed: bytes) -> int:
        """Write or (if it is empty) take away a record; the version, 0 if there is nothing to take away, or _OVERTAKEN."""
        answer: int = await self._store.run(_WRITE, owner_key(owner_id), part, fold(domain), begins, sealed, MAX_DOMAINS, MAX_OCTETS)
        if answer == _UNKNOWN:
            raise await self._unknown_owner()
        if answer == _TOO_MANY:
            raise BadValue(f"an owner has at most {MAX_DOMAINS} domains")
        if answer == _TOO_MUCH:
            raise BadValue(f"an owner sets at most {MAX_OCTETS >> 20} MB in all")
        self._directory.expire(owner_id)
        return answer

    async def _unknown_owner(self) -> UnknownOwner:
        if not await fitness.is_ours(self._store):
            raise StoreForeign("the store has lost its epoch")
        return UnknownOwner("unknown owner")


# -- what may be set ---------------------------------------------------------------------------------------------------------


def check_domain(domain: str, *, may_be_default: bool = False) -> str:
    """A domain in lower case; raises BadValue unless it is one that a sender may have."""
    domain = domain.lower()
    if not is_domain(domain) and not (may_be_default and not domain):
        raise BadValue("a domain is a name like example.com")
    return domain


def _name_of(domain: str) -> str:
    """A domain in lower case; what cannot be one, and may not even be text, becomes a name that nothing is kept under."""
    return domain.lower() if not domain or is_domain(domain.lower()) else "-"


def _check_choices(choices: Sequence[Choice]) -> None:
    if len(choices) > MAX_CHOICES:
        raise BadValue(f"a setting has at most {MAX_CHOICES} smarthosts")
    for choice in choices:
        if not (0 <= choice.priority <= 1_000_000 and 1 <= choice.weight <= 1_000_000):
            raise BadValue("a priority is 0 or more, a weight 1 or more, up to 1000000")
        _check_target(choice.target)


def _check_target(target: Target) -> None:
    """Raise BadValue for what no session could be made with, or would stand as more than it is in a command."""
    if target.ca_file is not None:
        raise BadValue("an owner's smarthost names no file")
    if not target.host or not 1 <= target.port <= 65535:
        raise BadValue("a smarthost has a host, and a port up to 65535")
    if target.security not in get_args(Security) or target.mechanism not in ("", "plain", "login"):
        raise BadValue(f"security is {', '.join(get_args(Security))}; a mechanism is plain or login")
    for name in (target.host, target.name, target.server_name):
        if len(name) > 255 or not name.isprintable() or any(letter.isspace() for letter in name):
            raise BadValue("a host name has no spaces, and at most 255 characters")
    if "\0" in target.username + target.password:
        raise BadValue("a user name and a password have no NUL")  # it parts them (RFC 4616 section 2)
    waits = (target.timeout, target.connect_timeout, target.greeting_timeout, target.max_idle, target.max_age)
    if not all(math.isfinite(wait) and wait > 0 for wait in waits):
        raise BadValue("a wait is a number above 0")
    if target.max_connections < 1 or target.max_messages < 1:
        raise BadValue("a smarthost takes at least one session, and one message on it")
    if not (math.isfinite(target.down_seconds) and target.down_seconds >= 0):
        raise BadValue("a time of rest is a number of 0 or more")
    if not (target.max_rate == 0 or MIN_RATE <= target.max_rate < math.inf):
        raise BadValue(f"a rate is 0, or at least {MIN_RATE:g} messages a second")


def _write_document(document: Mapping[str, Any] | None) -> str:
    if _depth(document) > MAX_DEPTH:
        raise BadValue(f"a document has at most {MAX_DEPTH} levels")
    try:
        written = record.write_document(document)
    except (ValueError, TypeError, RecursionError):
        raise BadValue("a document is what JSON can say") from None
    if len(written) > MAX_DOCUMENT:
        raise BadValue(f"a document has at most {MAX_DOCUMENT} octets")
    return written


def _depth(document: object) -> int:
    """How deep a document is nested, or one more than is allowed."""
    level, depth = [document], 0
    while depth <= MAX_DEPTH and (level := [value for value in level if isinstance(value, Mapping | list | tuple)]):
        level = [inner for value in level for inner in (value.values() if isinstance(value, Mapping) else value)]
        depth += 1
    return depth


def _limited(octets: bytes) -> bytes:
    if len(octets) > MAX_RECORD:
        raise BadValue(f"what is set at once has at most {MAX_RECORD} octets")
    return octets


def _checked_policy(policy: Policy) -> Policy:
    """A policy with each of its domains or addresses once; raises BadValue for what is neither."""
    if policy.senders not in ("any", "domains", "addresses"):
        raise BadValue("senders are any, domains or addresses")
    is_addresses = policy.senders == "addresses"
    allowed = [text.lower() for text in policy.allowed]
    if is_addresses and not all(is_mailbox(text, is_utf8=True) for text in allowed):
        raise BadValue("an address is a mailbox like name@example.com")
    if not is_addresses and not all(map(is_domain, allowed)):
        raise BadValue("a domain is a name like example.com")
    return replace(policy, allowed=tuple(dict.fromkeys(map(fold_address if is_addresses else fold, allowed))))
