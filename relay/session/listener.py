"""The listeners of a worker: their sockets, their TLS contexts, and how they close.

Promises: a port in use, a certificate that cannot be read or does not match its key is one clear line (ListenError); several
workers share a port by SO_REUSEPORT; draining tells the idle at once and lets what is under way end, within its bound.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

from relay.session.house import Door, House
from relay.session.protocol import Protocol

BACKLOG = 1024


class ListenError(Exception):
    """A listener cannot be opened; the text is one line for the operator."""


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """The TLS context of the listeners: TLS 1.2 or newer; raises ListenError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for file in (certificate, key):
        try:
            file.read_bytes()
        except OSError as error:
            raise ListenError(f"smtp.tls: {file}: {error.strerror}") from None
    try:
        # A passphrase is never asked for on a terminal: an encrypted key is an error.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or "encrypted key, or not PEM"
        raise ListenError(f"smtp.tls: {certificate} and {key} cannot be used: {reason}") from None
    return context


def bind(address: str, port: int, shared: bool = True) -> socket.socket:
    """Bind a listening socket, shared with other workers; raises ListenError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # The protocol is named because asyncio sets TCP_NODELAY only on sockets that name it.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((address, port))
    except OSError as error:
        sock.close()
        raise ListenError(f"cannot listen on {address} port {port}: {error.strerror}") from None
    sock.setblocking(False)
    return sock


class Listeners:
    """The open listeners of a worker."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._servers: list[asyncio.Server] = []

    async def open(self, doors: Sequence[tuple[Door, socket.socket]]) -> None:
        """Accept clients on bound sockets."""
        loop = asyncio.get_running_loop()
        for door, sock in doors:
            context = door.context if door.tls == "implicit" else None

            def factory(door: Door = door) -> Protocol:
                return Protocol(self._house, door)

            self._servers.append(await loop.create_server(factory, sock=sock, backlog=BACKLOG, ssl=context))

    async def drain(self, patience: float) -> None:
        """Stop accepting, tell the idle 421, and give what is under way `patience` seconds.

        Then uploads are cut off. A message that is being forwarded is not: it ends within the forward deadline and the time to settle.
        """
        house = self._house
        house.is_draining = True
        for server in self._servers:
            server.close()
        for connection in list(house.connections):
            connection.drain()
        if house.tasks:
            await asyncio.wait(set(house.tasks), timeout=patience)
        for connection in list(house.connections):
            if not connection.is_forwarding:
                connection.cut()
        if house.tasks:
            await asyncio.wait(set(house.tasks), timeout=house.rules.forward_margin)
        for task in set(house.tasks):
            task.cancel()
        if house.tasks:
            await asyncio.wait(set(house.tasks), timeout=5)
