"""The listeners of a worker: their sockets, who comes in by them, and how they close.

Promises: a port in use is one clear line (ListenError); several workers share a port by SO_REUSEPORT; a connection is handed over as
it came, whose TLS is its own affair; draining tells the idle at once and lets what is under way end, within its bound. Where balancers
stand before the listeners, nobody waits for another's PROXY header.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from relay.session.door import Door
from relay.session.house import House
from relay.session.protocol import Protocol
from relay.session.proxy import Balancers, Peer, ProxyRefused, Silent, read_header

BACKLOG = 1024
HEADER_TIMEOUT = 5.0
"""Seconds in which a balancer must have sent its header; it is the first thing that it does."""
PAUSE = 0.5
"""Seconds without accepting after that has failed: what is short then, files or memory, does not come back at once."""


class ListenError(Exception):
    """A listener cannot be opened; the text is one line for the operator."""


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

    def __init__(self, house: House, balancers: Balancers | None = None, header_timeout: float = HEADER_TIMEOUT) -> None:
        """`balancers` are those whose connections begin with a PROXY header."""
        self._house = house
        self._balancers = balancers or Balancers(())
        self._header_timeout = header_timeout
        self._servers: list[asyncio.Server] = []
        self._receptions: list[Reception] = []

    async def open(self, doors: Sequence[tuple[Door, socket.socket]]) -> None:
        """Accept clients on bound sockets."""
        loop = asyncio.get_running_loop()
        for door, sock in doors:
            if self._balancers:
                self._receptions.append(Reception(self._house, door, sock, self._balancers, self._header_timeout))
                continue

            def factory(door: Door = door) -> Protocol:
                return Protocol(self._house, door)

            self._servers.append(await loop.create_server(factory, sock=sock, backlog=BACKLOG))

    async def drain(self, patience: float) -> None:
        """Stop accepting, tell the idle 421, and give what is under way `patience` seconds.

        Then uploads are cut off. A message that is being forwarded is not: it ends within the forward deadline and the time to settle.
        """
        house = self._house
        house.is_draining = True
        for server in self._servers:
            server.close()
        for reception in self._receptions:
            await reception.close()
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


class Reception:
    """Accepts at one door that balancers stand before: theirs once their header is read, anyone else's at once."""

    def __init__(self, house: House, door: Door, sock: socket.socket, balancers: Balancers, patience: float) -> None:
        self._house = house
        self._door = door
        self._sock = sock
        self._balancers = balancers
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading: set[asyncio.Task[None]] = set()
        """Those of them that wait for a header."""
        sock.listen(BACKLOG)
        self._accepting = asyncio.create_task(self._accept())

    async def close(self) -> None:
        """Stop accepting; whose header has not come by now does not come in."""
        for task in (self._accepting, *self._reading):
            task.cancel()
        await asyncio.wait({self._accepting, *self._tasks})
        self._sock.close()

    async def _accept(self) -> None:
        is_told = False
        while True:
            try:
                sock, address = await self._loop.sock_accept(self._sock)
            except ConnectionError:  # it was gone before its turn came
                continue
            except OSError as error:
                if not is_told:
                    self._house.journal.alarm("accept_failed", port=self._door.port, error=error.strerror)
                is_told = True
                await asyncio.sleep(PAUSE)
                continue
            is_told = False
            has_header = address[0] in self._balancers
            if has_header and len(self._reading) >= self._house.rules.max_connections:
                self._house.journal.event("proxy_refused", client=address[0], port=self._door.port, reason="too many headers are awaited")
                sock.close()
                continue
            task = asyncio.create_task(self._admit(sock, address[0], has_header))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            if has_header:
                self._reading.add(task)

    async def _admit(self, sock: socket.socket, address: str, has_header: bool) -> None:
        """Hand a connection over, after its header if there must be one."""
        try:
            peer = await self._read(sock) if has_header else None
            await self._loop.connect_accepted_socket(lambda: Protocol(self._house, self._door, peer), sock)
        except Silent:
            sock.close()
        except ProxyRefused as refused:
            self._house.journal.event("proxy_refused", client=address, port=self._door.port, reason=str(refused))
            sock.close()
        except (OSError, asyncio.CancelledError):  # it has gone, or the relay shuts down
            sock.close()
        except Exception as error:
            self._house.journal.bug(self._house.incarnation, error)
            sock.close()

    async def _read(self, sock: socket.socket) -> Peer | None:
        try:
            async with asyncio.timeout(self._patience):
                return await read_header(sock)
        except TimeoutError:
            raise ProxyRefused(f"no whole header within {self._patience:g} s") from None
        finally:
            if task := asyncio.current_task():
                self._reading.discard(task)
