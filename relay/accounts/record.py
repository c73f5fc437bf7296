"""Records: how the store keeps what owners set.

Promises:
- Everything is sealed for its place: the owner, the part, the domain and, of a setting, its id. What was moved or altered by hand, or
  sealed under another key, raises Unreadable, and so does what has a field that this version does not know: a relay that is older than
  who wrote a record must not leave out what it cannot read.
- A target that is read is guarded and names no file, whatever was written.

One owner's keys share the hash tag `{o:<owner_id>}`: its hash has the version in `out`, and each part is a hash beside it, with a field for
each domain. A setting's record begins with its id, in clear, so that it is kept even where the rest cannot be read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from relay.accounts.secrets import Key
from relay.accounts.setting import Policy, Setting, Signer, fold
from relay.upstream.route import Choice, Target

SETTINGS, SIGNERS, POLICY = "settings", "signers", "policy"
ID_LENGTH = 24

_ID = re.compile(rb"[0-9a-f]{%d}" % ID_LENGTH)
_NOT_OWNERS = {"ca_file", "is_guarded"}
_TARGET = tuple(field.name for field in fields(Target) if field.name not in _NOT_OWNERS)


class Unreadable(Exception):
    """What the store has of an owner cannot be read: it was sealed under another key, or is damaged."""


# -- settings ----------------------------------------------------------------------------------------------------------------


def write_document(document: Mapping[str, Any] | None) -> str:
    """A vendor's document as JSON, in the order in which it came; raises ValueError, TypeError or RecursionError."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False)


def write_setting(setting: Setting, document: str) -> bytes:
    """All of a setting but its id; `document` is its own, as `write_document` made it. Equal octets are an equal setting."""
    choices = [
        {"priority": choice.priority, "weight": choice.weight, "target": {name: getattr(choice.target, name) for name in _TARGET}}
        for choice in setting.choices
    ]
    head = json.dumps({"domain": setting.domain, "choices": choices}, separators=(",", ":"), allow_nan=False)
    return f'{head[:-1]},"document":{document}}}'.encode()


def seal_setting(key: Key, owner_id: str, setting: Setting, written: bytes) -> bytes:
    """A setting's record."""
    return setting.id.encode() + key.seal_setting(owner_id, _place(SETTINGS, fold(setting.domain), setting.id), written)


def unseal_setting(key: Key, owner_id: str, domain: str, sealed: bytes) -> bytes:
    """What was written of the setting of a (folded) domain; raises Unreadable."""
    id = read_id(sealed)
    return _open(key, owner_id, _place(SETTINGS, domain, id), sealed[ID_LENGTH:])


def read_id(sealed: bytes) -> str:
    """The id at the beginning of a setting's record; "" where there is none."""
    found = _ID.match(sealed)
    return found[0].decode() if found else ""


def open_setting(key: Key, owner_id: str, domain: str, sealed: bytes) -> Setting:
    """Read the record of a setting; raises Unreadable."""
    found = _parse(unseal_setting(key, owner_id, domain, sealed))
    try:
        choices = tuple(
            Choice(Target(**choice.pop("target"), is_guarded=True), choice.pop("priority"), choice.pop("weight"), **choice)
            for choice in found.pop("choices")
        )
        return Setting(found.pop("domain"), read_id(sealed), choices, **found)
    except (TypeError, KeyError, AttributeError):
        raise Unreadable("a setting has what this version does not know") from None


# -- policies and signers ----------------------------------------------------------------------------------------------------


def seal_policy(key: Key, owner_id: str, policy: Policy) -> bytes:
    """A policy's record."""
    return _seal(key, owner_id, _place(POLICY), {"senders": policy.senders, "allowed": policy.allowed, "checks_from": policy.checks_from})


def open_policy(key: Key, owner_id: str, sealed: bytes) -> Policy:
    """Read the record of a policy; raises Unreadable."""
    found = _parse(_open(key, owner_id, _place(POLICY), sealed))
    try:
        return Policy(allowed=tuple(found.pop("allowed")), **found)
    except (TypeError, KeyError):
        raise Unreadable("a policy has what this version does not know") from None


def seal_signer(key: Key, owner_id: str, signer: Signer) -> bytes:
    """A signer's record."""
    found = {"domain": signer.domain, "selector": signer.selector, "key": signer.key}
    return _seal(key, owner_id, _place(SIGNERS, fold(signer.domain)), found)


def open_signer(key: Key, owner_id: str, domain: str, sealed: bytes) -> Signer:
    """Read the record of the signer of a (folded) domain; raises Unreadable."""
    try:
        return Signer(**_parse(_open(key, owner_id, _place(SIGNERS, domain), sealed)))
    except TypeError:
        raise Unreadable("a signer has what this version does not know") from None


# -- octets ------------------------------------------------------------------------------------------------------------------


def _place(*parts: str) -> str:
    return "\0".join(parts)


def _seal(key: Key, owner_id: str, place: str, found: dict[str, Any]) -> bytes:
    return key.seal_setting(owner_id, place, json.dumps(found, separators=(",", ":")).encode())


def _open(key: Key, owner_id: str, place: str, sealed: bytes) -> bytes:
    octets = key.open_setting(owner_id, place, sealed)
    if octets is None:
        raise Unreadable("a record was sealed under another key, or is damaged")
    return octets


def _parse(octets: bytes) -> dict[str, Any]:
    try:
        found = json.loads(octets)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Unreadable("a record is no object")
    return found
