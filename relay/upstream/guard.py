"""Which addresses may be dialled for a host that an owner names: nothing of the operator's network, and no service but mail.

Promises:
- A host is looked up once, and what was looked at is what is dialled: a name that leads elsewhere a moment later gains nothing by it.
- Every address of a host must be allowed; one that is not forbids all.
- A host is an address or a name in its one plain spelling. What a resolver might make of another (2130706433, 0x7f.1, 127.1) is not asked.
- What is said of a host that is forbidden depends on nothing but that: not on its address, nor on whether the rule was about its spelling.
  A name that leads inside is answered as one that does not exist.

An operator's own translator to IPv4 whose prefix is an ordinary one (RFC 6052 section 2.2) cannot be told from any other network; whoever
has one keeps it from the relay. What the relay's operator names himself is dialled unseen.
"""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from weakref import WeakValueDictionary

from relay.mail.address import a_label, is_mailbox
from relay.upstream.route import Target

Lookup = Callable[[str, int], Awaitable[list[str]]]
Resolve = Callable[[str, int], list[str]]

PORTS = frozenset({25, 465, 587, 2525})
"""Where smarthosts listen: SMTP, submission with TLS and without (RFC 8314), and what providers open where networks close 25. On any other
port something else may answer, to which an owner could have the relay speak."""

LOOKUPS = 64
"""Names that are looked up at a time."""
LOOKUPS_OF_A_ZONE = 4
"""Of them, names that end alike: who lets his zone hang holds up few."""
MAX_ADDRESSES = 8
"""Of a host that are dialled; a smarthost has fewer, and nobody sweeps a network with the relay."""

_FORBIDDEN = tuple(map(ip_network, (
    # RFC 6890 section 2.2 and the IANA registry it founds: what is not globally reachable, and what no unicast traffic belongs to.
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
    "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    # Azure's own services speak to its virtual machines from this address, which is an ordinary one.
    "168.63.129.16/32",
    # IPv6 that is handed out to hosts is within 2000::/3 (RFC 4291 section 2.4); of that: Teredo and what else is for protocols, examples,
    # 6to4, examples. The last translates to any IPv4 address and was given up (RFC 7526).
    "::/3", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "4000::/2", "8000::/1",
)))  # fmt: skip
_NAT64 = ip_network("64:ff9b::/96")
"""Where a translator to IPv4 makes an address of another's (RFC 6052 section 2.1); its last four octets are what is reached."""

_NAME = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE | re.ASCII)
"""RFC 1123 section 2.1; its last label begins with a letter, so that nobody takes the name for a number."""
_LOCAL = re.compile(r"(?:.*\.)?localhost", re.IGNORECASE)
"""RFC 6761 section 6.3: whatever the resolver says."""

HOST = "This relay does not connect to that host: give the public name of a mail server, or ask the relay's operator to allow it"
PORT = "This relay does not connect to that port: use 587, 465, 25 or 2525, or ask the relay's operator to allow it"


class Forbidden(Exception):
    """The host may not be dialled; the text is one line and reveals no address of the operator's network."""


class Guard:
    """Keeps owners out of the operator's network; `allow_networks` and `allow_ports` open what else the operator allows them.

    Raises ValueError for what is no network.
    """

    def __init__(self, allow_networks: Sequence[str] = (), allow_ports: Sequence[int] = (), lookup: Lookup | None = None) -> None:
        self._allowed = tuple(map(ip_network, allow_networks))
        self._ports = PORTS | frozenset(allow_ports)
        self._lookup = lookup or Resolver().look_up
        self._own_lookup = lookup or Resolver().look_up  # what owners name never stands in the way of what the operator names

    def check(self, target: Target) -> None:
        """What can be told of a target without asking the resolver; raises Forbidden."""
        if target.is_guarded:
            if target.port not in self._ports:
                raise Forbidden(PORT)
            name = _plain(target.host)
            if _is_literal(name) and not self._is_open(name):
                raise Forbidden(HOST)

    async def addresses(self, target: Target) -> list[str]:
        """The addresses to dial, in their order, looked up once; raises Forbidden, or OSError where there is no such host."""
        self.check(target)
        host = _plain(target.host) if target.is_guarded else target.host
        if _is_literal(host):
            return [host]
        try:
            look_up = self._lookup if target.is_guarded else self._own_lookup
            found = list(dict.fromkeys(await look_up(host, target.port)))
        except ValueError:  # no resolver takes it: a NUL, a label too long
            found = []
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "no such host")
        if target.is_guarded and not all(map(self._is_open, found)):
            # As where there is none: which names the operator's own resolver knows is nobody's business.
            raise socket.gaierror(socket.EAI_NONAME, "no such host")
        return found[:MAX_ADDRESSES]

    def _is_open(self, text: str) -> bool:
        """Whether an address may be dialled; where it stands for an IPv4 address, whether that may."""
        try:
            address = ip_address(text)
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            return False  # an interface of this machine: its neighbours
        reached = _reached(address)
        if any(address in network or reached in network for network in self._allowed):
            return True
        return not any(reached in network for network in _FORBIDDEN)


def _plain(host: str) -> str:
    """A guarded host as it is looked up: an address, or a name in A-labels; raises Forbidden for any other spelling."""
    if not host.isascii() and is_mailbox(f"postmaster@{host}", is_utf8=True):
        host = ".".join(map(a_label, host.split(".")))
    if _is_literal(host) and "%" not in host:
        return host
    if _NAME.fullmatch(host) is None or _LOCAL.fullmatch(host):
        raise Forbidden(HOST)
    return host


def _is_literal(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _reached(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The address that is reached at the end, where one stands for another (RFC 4291 section 2.5.5.2, RFC 6052)."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _of_the_system(host: str, port: int) -> list[str]:
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [str(sockaddr[0]) for _, _, _, _, sockaddr in answers]


class Resolver:
    """Looks names up in threads of its own, one for a name at a time: a zone that does not answer holds up who asks for it, hardly others.

    The loop's own threads are few and do other work too. A thread is the resolver's until that gives up, whoever has gone meanwhile.
    """

    def __init__(self, resolve: Resolve = _of_the_system) -> None:
        """`resolve` may take as long as it likes."""
        self._resolve_now = resolve
        self._asked: dict[tuple[str, int], asyncio.Task[list[str]]] = {}
        self._places = asyncio.Semaphore(LOOKUPS)
        self._zones: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def look_up(self, host: str, port: int) -> list[str]:
        """The addresses of a name; raises OSError."""
        key = host, port
        asking = self._asked.get(key)
        if asking is None:
            asking = self._asked[key] = asyncio.create_task(self._ask(host, port))
            asking.add_done_callback(lambda task: self._forget(key, task))
        return await asyncio.shield(asking)

    def _forget(self, key: tuple[str, int], task: asyncio.Task[list[str]]) -> None:
        del self._asked[key]
        if not task.cancelled():
            task.exception()  # whoever asked may be gone

    async def _ask(self, host: str, port: int) -> list[str]:
        zone = ".".join(host.lower().split(".")[-2:])
        if (places := self._zones.get(zone)) is None:
            places = self._zones[zone] = asyncio.Semaphore(LOOKUPS_OF_A_ZONE)
        async with places:
            return await self._resolve(host, port)

    async def _resolve(self, host: str, port: int) -> list[str]:
        async with self._places:
            loop = asyncio.get_running_loop()
            answer: asyncio.Future[list[str]] = loop.create_future()
            # A daemon: what hangs in a resolver does not keep the process from its end.
            threading.Thread(target=self._tell, args=(loop, answer, host, port), daemon=True).start()
            return await answer

    def _tell(self, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[list[str]], host: str, port: int) -> None:
        """Resolve, in a thread, and hand the outcome to the loop."""
        found: list[str] = []
        fault: Exception | None = None
        try:
            found = self._resolve_now(host, port)
        except (OSError, ValueError) as error:
            fault = error

        def tell() -> None:
            if answer.done():
                return
            if fault is not None:
                answer.set_exception(fault)
            else:
                answer.set_result(found)

        with suppress(RuntimeError):  # the loop is closed: nobody asks any more
            loop.call_soon_threadsafe(tell)
