"""Which listeners would share their connections: two sockets that are bound so that one address and port is both's.

The kernel lets a relay's own sockets share a port (SO_REUSEPORT): of two at one address each takes its part of the connections by chance,
and one at every address what a particular one leaves it. Whether a client is offered TLS is not to depend on that. A listener on :: takes
IPv4 as well.
"""

from __future__ import annotations

import ipaddress
import socket

_EVERY, _EVERY_IPV4 = "::", "0.0.0.0"
_LOCAL = "127.0.0.1"
"""What a listener on localhost is bound to."""


def is_shared(first: tuple[str, int], second: tuple[str, int]) -> bool:
    """Whether two listeners, each an address and a port, take the same connections; a port of 0 is one of its own."""
    if first[1] != second[1] or not first[1]:
        return False
    both = _plain(first[0]), _plain(second[0])
    return both[0] == both[1] or _EVERY in both or (_EVERY_IPV4 in both and not any(":" in address for address in both))


def _plain(address: str) -> str:
    """An address in its one spelling; a name stays one, which is not looked up here."""
    try:
        found = ipaddress.ip_address(socket.getaddrinfo(address, None, flags=socket.AI_NUMERICHOST)[0][4][0])
    except (OSError, ValueError):
        name = address.casefold().rstrip(".")
        return _LOCAL if name == "localhost" else name
    return str((found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None) or found)
