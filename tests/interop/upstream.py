"""What the tests know of a real smarthost, whichever it is: its two ways in, who may use them, and what it has delivered."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import trustme

USER, PASSWORD = "relay-user", "correct horse battery"
"""Who may send through it, after TLS."""
DOMAIN = "example.net"
"""The only domain that it takes mail for."""
HOSTNAME = "mx.example.net"


@dataclass(frozen=True, slots=True)
class Pair:
    """Its certificate, for localhost, and who issued it; PEM files."""

    certificate: Path
    key: Path
    authority: Path


def issue(folder: Path) -> Pair:
    """Make a certificate in a folder, which is made if need be; the key is for its owner alone."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost", "127.0.0.1")
    pair = Pair(folder / "smarthost.crt", folder / "smarthost.key", folder / "authority.crt")
    for number, blob in enumerate(leaf.cert_chain_pems):
        blob.write_to_path(pair.certificate, append=number > 0)
    pair.key.touch(0o600)
    leaf.private_key_pem.write_to_path(pair.key)
    authority.cert_pem.write_to_path(pair.authority)
    return pair


@dataclass(frozen=True, slots=True)
class Upstream:
    """A running smarthost."""

    ports: dict[Literal["starttls", "tls"], int]
    authority: Path
    """Who issued its certificate, PEM."""
    deliveries: Callable[[], list[bytes]]
    """The messages that it has delivered, one for each recipient or for all (lines end in LF)."""
    told: Callable[[], str]
    """Its log."""

    def copies(self, mark: str) -> list[bytes]:
        """What it has delivered of a message."""
        return [content for content in self.deliveries() if mark.encode() in content]

    def await_copy(self, mark: str, timeout: float = 30) -> bytes:
        """A copy of the message with this mark."""
        end = time.monotonic() + timeout
        while not (found := self.copies(mark)):
            assert time.monotonic() < end, f"not delivered: {mark}\n{self.told()[-3000:]}"
            time.sleep(0.05)
        return found[0]
