"""How an owner's mail goes out: its routes by sender's domain, who it may send as, what it signs with.

Promises: pure values; no secret stands in a repr; a domain is one whatever its letters' case, and whether its labels are written as
U-labels or as A-labels (RFC 5890 section 2.3.2.1); "" is the owner's default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from relay.mail.address import a_label, is_mailbox
from relay.upstream.route import Choice, Route

MAX_NAME = 253
"""Octets of a domain as the DNS can have it (RFC 1035 section 2.3.4), written with dots."""

Senders = Literal["any", "domains", "addresses"]


@dataclass(frozen=True, slots=True)
class Setting:
    """How an owner's mail of one sender's domain goes out."""

    domain: str
    """As it was given, in lower case; "" is for every domain that has no setting of its own."""
    id: str
    """24 hexadecimal digits, kept over changes."""
    choices: tuple[Choice, ...]
    """Its smarthosts; none: the vendor's document names nothing that mail could go to, and it is refused for now (451 4.3.5)."""
    document: Mapping[str, Any] | None = field(default=None, repr=False)
    """What a vendor's client wrote, without `_id` and `domain`; None where it was made by the relay's own calls."""

    @property
    def route(self) -> Route:
        """Where its mail goes."""
        return Route(self.id, self.choices)


@dataclass(frozen=True, slots=True)
class Policy:
    """Who an owner's users may send as."""

    senders: Senders = "any"
    allowed: tuple[str, ...] = ()
    """Domains ("domains": beside those that have a setting) or addresses ("addresses"), in lower case."""
    checks_from: bool = False
    """Whether the From field of the message is held to the same."""
    members: frozenset[str] = field(init=False, repr=False, compare=False)
    """What is in `allowed`, to be searched: it may be thousands, for each of a message's authors."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", frozenset(self.allowed))


@dataclass(frozen=True, slots=True)
class Signer:
    """What a domain's mail is signed with (RFC 6376, RFC 8463)."""

    domain: str
    selector: str
    key: str = field(repr=False)
    """The private key, PKCS #8 as PEM text; RSA or Ed25519."""


@dataclass(frozen=True, slots=True)
class Outfit:
    """All of one owner, as it was at one moment."""

    version: int = 0
    """Grows with every change; 0: nothing was ever set."""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    """By domain, as `fold` makes it one: ask `setting_of` and `setting_for`."""
    policy: Policy = Policy()
    signers: Mapping[str, Signer] = field(default_factory=dict)
    """By domain, as `fold` makes it one: ask `signer_for`."""
    is_plain: bool = field(init=False, repr=False, compare=False)
    """Nothing in it speaks of any message: who sends, where it goes and what it is signed with need not be looked at."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_plain", not self.settings and not self.signers and self.policy.senders == "any")

    def setting_for(self, domain: str) -> Setting | None:
        """The setting that mail of a sender's domain goes by; None: the relay's own smarthost."""
        return self.settings.get(fold(domain)) or self.settings.get("")

    def setting_of(self, domain: str) -> Setting | None:
        """The setting of this very domain; of "" the default."""
        return self.settings.get(fold(domain))

    def signer_for(self, domain: str) -> Signer | None:
        """What mail of this domain is signed with."""
        return self.signers.get(fold(domain))

    def allows(self, address: str) -> bool:
        """Whether the owner's users may send as an address. As nobody they may: the null reverse-path has no domain to misuse."""
        match self.policy.senders:
            case "domains":
                domain = fold(address.rpartition("@")[2])
                return not address or (bool(domain) and domain in self.settings) or domain in self.policy.members
            case "addresses":
                return not address or fold_address(address) in self.policy.members
        return True


def fold(domain: str) -> str:
    """What two spellings of one domain have in common: lower case, and A-labels. What is too long for a domain is only lower case."""
    # The work of an A-label grows with the square of its length, and anybody may write a From field.
    return domain.lower() if domain.isascii() or len(domain) > MAX_NAME else ".".join(map(a_label, domain.split(".")))


def fold_address(address: str) -> str:
    """What two spellings of one address have in common for a sender's policy: here the case of the local part does not count."""
    local, at, domain = address.rpartition("@")
    return f"{local.lower()}{at}{fold(domain)}"


def is_domain(text: str) -> bool:
    """Whether `text`, in lower case, is a domain that a sender may have, by name (RFC 5321 section 4.1.2, RFC 6531 section 3.3)."""
    return not text.startswith("[") and is_mailbox(f"x@{text}", is_utf8=True) and len(fold(text)) <= MAX_NAME
