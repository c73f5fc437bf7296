"""How many may be here: connections of a worker, in all and from one address.

Promise: who is admitted counts until it leaves, a handshake included; a connection over a limit costs a greeting and no more.
IPv6 is counted by /64, which is what one customer is given.
"""

from __future__ import annotations

import ipaddress


class Admission:
    """Counts connections."""

    def __init__(self, most: int, most_of_one: int) -> None:
        """`most` in all, `most_of_one` address."""
        self._most = most
        self._most_of_one = most_of_one
        self._count = 0
        self._of: dict[str, int] = {}

    def admit(self, address: str) -> bool:
        """Whether one more may come in from an address; if so, it is counted."""
        origin = _origin(address)
        count = self._of.get(origin, 0)
        if self._count >= self._most or count >= self._most_of_one:
            return False
        self._count += 1
        self._of[origin] = count + 1
        return True

    def leave(self, address: str) -> None:
        """One that was admitted has gone."""
        origin = _origin(address)
        self._count -= 1
        self._of[origin] -= 1
        if not self._of[origin]:
            del self._of[origin]


def plain_address(address: str) -> str:
    """An IPv4 address that came by an IPv6 socket, as what it is; any other as it stands, without a scope."""
    if ":" not in address:
        return address
    found = ipaddress.IPv6Address(address.partition("%")[0])
    return str(found.ipv4_mapped or found)


def _origin(address: str) -> str:
    if ":" not in address:
        return address
    return str(ipaddress.ip_network((address, 64), strict=False).network_address)
