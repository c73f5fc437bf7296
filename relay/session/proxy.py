"""The PROXY protocol: who is really there when a balancer stands between (HAProxy's proxy-protocol.txt, versions 1 and 2).

Promises: exactly the header is read and not one octet behind it, which may be TLS; what cannot become a header is refused as soon as
that is sure; a header is at most MAX_HEADER octets, and an address counts only if it came by TCP over IPv4 or IPv6.
A connection of the balancer's own (LOCAL, UNKNOWN) is taken as the balancer's.

aiosmtpd parses the header. It does not verify the checksum that a balancer may add (CRC32C), and neither does this.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
from collections.abc import Sequence

from aiosmtpd.proxy_protocol import AF, PROTO, V2_SIGNATURE, ProxyData, get_proxy

from relay.session.admission import plain_address

MAX_LINE = 107
"""Octets of a header of version 1, its CRLF included (section 2.1)."""
MAX_HEADER = 536
"""Octets of one of version 2: what fits the smallest segment of TCP, as section 2.2 asks of who sends it."""
_LEAST = 15
"""Octets of the shortest header: PROXY UNKNOWN and CRLF."""
_FIXED = 16
"""Octets of version 2 before the addresses."""
_LOCAL = 0x20
"""Version 2, command LOCAL."""

_LINE = re.compile(rb"PROXY (UNKNOWN( [^\r\n]*)?|TCP[46]( [0-9a-fA-F.:]{2,39}){2}( [0-9]{1,5}){2})\r\n")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Peer = tuple[str, int]

logging.getLogger("mail.debug").addHandler(logging.NullHandler())  # aiosmtpd would say on standard error what the journal says


class ProxyRefused(Exception):
    """A connection does not begin with a valid header; the text is the reason."""


class Silent(ProxyRefused):
    """It has ended before its first octet, as balancers do that only look whether anybody listens."""


class Balancers:
    """The addresses whose connections begin with a header."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks: list[Network] = [_unmapped(ipaddress.ip_network(network)) for network in networks]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, address: str) -> bool:
        """Whether it is one of theirs; an IPv4 address that came by an IPv6 socket is what it is."""
        found = ipaddress.ip_address(plain_address(address))
        return any(found in network for network in self._networks)


def _unmapped(network: Network) -> Network:
    """IPv4 addresses that are written as IPv6 ones, as what they are."""
    first = network.network_address
    if isinstance(first, ipaddress.IPv6Address) and first.ipv4_mapped is not None and network.prefixlen >= 96:
        return ipaddress.ip_network((first.ipv4_mapped, network.prefixlen - 96))
    return network


def missing(header: bytes) -> int:
    """How many octets, at least, a header that begins so still needs; 0 when it is complete. Raises ProxyRefused."""
    if V2_SIGNATURE.startswith(header[: len(V2_SIGNATURE)]) and header:
        if len(header) < _FIXED:
            return _FIXED - len(header)
        length = _FIXED + int.from_bytes(header[14:16], "big")
        if length > MAX_HEADER:
            raise ProxyRefused(f"a header of {length} octets, {MAX_HEADER} are allowed")
        return length - len(header)
    if not b"PROXY ".startswith(header[:6]):
        raise ProxyRefused("no PROXY header")
    if header.endswith(b"\r\n"):
        return 0
    if b"\n" in header:
        raise ProxyRefused("a header that does not end in CRLF")
    if len(header) >= MAX_LINE:
        raise ProxyRefused(f"a header of more than {MAX_LINE} octets")
    return max(_LEAST - len(header), 1 if header.endswith(b"\r") else 2)


async def parse(header: bytes) -> Peer | None:
    """The client that a complete header names, None if the balancer speaks for itself; raises ProxyRefused."""
    if header.startswith(b"PROXY") and not _LINE.fullmatch(header):  # the library is less strict
        raise ProxyRefused("a malformed header of version 1")
    if header.startswith(V2_SIGNATURE) and header[12] == _LOCAL:
        return None  # whatever else it says is to be ignored (section 2.2)
    reader = asyncio.StreamReader()
    reader.feed_data(header)
    reader.feed_eof()
    data: ProxyData = await get_proxy(reader)
    if not data.valid:
        raise ProxyRefused(data.error or "a malformed header")
    if data.family == AF.UNSPEC or data.protocol == PROTO.UNSPEC:
        return None
    if data.family not in (AF.INET, AF.INET6) or data.protocol != PROTO.STREAM:
        raise ProxyRefused("a header of a connection that is not TCP")
    return plain_address(str(data.src_addr)), int(data.src_port or 0)


async def read_header(sock: socket.socket) -> Peer | None:
    """Read the header from a connection that was just accepted (non-blocking); raises ProxyRefused, or OSError."""
    header = b""
    while wanted := missing(header):
        # A line is looked at first and then taken up to its end; of version 2 it is known how much is to come.
        is_line = header.startswith(b"P") or not header
        ahead = await _receive(sock, MAX_LINE - len(header) if is_line else wanted, socket.MSG_PEEK)
        if not ahead:
            raise ProxyRefused("closed within its header") if header else Silent("closed before its header")
        if is_line and not header:
            is_line = ahead.startswith(b"P")
        end = (header + ahead).find(b"\n") + 1 - len(header) if is_line else 0
        header += sock.recv(end if end > 0 else len(ahead) if is_line else min(wanted, len(ahead)))
    return await parse(header)


async def _receive(sock: socket.socket, most: int, flags: int) -> bytes:
    """What has come in, once something has; b"" at the end. The loop's own sock_recv knows no flags."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return sock.recv(most, flags)
        except BlockingIOError:
            readable = loop.create_future()
            loop.add_reader(sock, _resolve, readable)
            try:
                await readable
            finally:
                loop.remove_reader(sock)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
