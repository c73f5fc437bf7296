"""One server of the session benchmark, in a process of its own: stock aiosmtpd, or this relay's session with nothing behind it.

python -m tests.benchmarks.session_server KIND CERTIFICATE KEY; prints the ports of its plain and its TLS listener, then answers each
line of its standard input with one: `cpu` the seconds of CPU used so far, `construct N` µs of CPU for making a connection's object and
telling it of its transport. It ends with its input.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any

import uvloop
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from relay.journal import Journal
from relay.session.door import Door
from relay.session.listener import Listeners, bind
from relay.session.protocol import Protocol
from tests.benchmarks.session_rooms import HOSTNAME, furnish, silent_journal

KINDS = ("stock", "stock+auth", "ours", "ours, no journal")
MAX_SIZE = 26_214_400
Factory = Callable[[], asyncio.BaseProtocol]


class Handler:
    """aiosmtpd's: takes everything."""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Say so at once."""
        return "250 OK"


class Nowhere(asyncio.Transport):
    """A transport that leads nowhere, for connections that are only made."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """A client's address, and nothing else."""
        return ("127.0.0.1", 40000) if name == "peername" else default

    def write(self, data: Any) -> None:
        """Nobody reads it."""

    def get_write_buffer_size(self) -> int:
        """It is gone."""
        return 0

    def is_closing(self) -> bool:
        """It stays."""
        return False

    def close(self) -> None:
        """Nothing is to be done."""

    def abort(self) -> None:
        """Nothing is to be done."""

    def pause_reading(self) -> None:
        """Nothing comes."""

    def resume_reading(self) -> None:
        """Nothing comes."""


def stock(is_authenticating: bool) -> Factory:
    """What makes aiosmtpd's connections, as its users are told to set it up where speed matters."""
    logging.getLogger("mail.log").setLevel(logging.CRITICAL)
    handler, loop = Handler(), asyncio.get_running_loop()

    def authenticate(server: SMTP, session: Session, envelope: Envelope, mechanism: str, claim: LoginPassword) -> AuthResult:
        return AuthResult(success=True)

    def factory() -> SMTP:
        return SMTP(
            handler, loop=loop, hostname=HOSTNAME, ident="ESMTP", data_size_limit=MAX_SIZE, decode_data=False, enable_SMTPUTF8=False,
            auth_require_tls=False, auth_required=is_authenticating, authenticator=authenticate if is_authenticating else None,
        )  # fmt: skip

    return factory


async def listen(kind: str, context: ssl.SSLContext) -> tuple[list[int], Factory]:
    """Open a plain and a TLS listener; returns their ports and what makes connections."""
    socks = [bind("127.0.0.1", 0, shared=False) for _ in range(2)]
    ports = [sock.getsockname()[1] for sock in socks]
    if kind.startswith("stock"):
        factory = stock(kind.endswith("auth"))
        loop = asyncio.get_running_loop()
        await loop.create_server(factory, sock=socks[0])
        await loop.create_server(factory, sock=socks[1], ssl=context)
        return ports, factory
    journal = Journal(os.open(os.devnull, os.O_WRONLY), HOSTNAME) if kind == "ours" else silent_journal()
    house = furnish(journal)
    doors = [Door(ports[0], "none", auth_without_tls=True), Door(ports[1], "implicit", context=lambda: context)]
    await Listeners(house).open(list(zip(doors, socks, strict=True)))
    return ports, lambda: Protocol(house, doors[0])


async def construct(factory: Factory, count: int) -> float:
    """µs of CPU for making a connection, without what it says first."""
    spent = 0.0
    for _ in range(count // 100):
        began = time.process_time()
        made = [factory() for _ in range(100)]
        for protocol in made:
            protocol.connection_made(Nowhere())
        spent += time.process_time() - began
        for protocol in made:
            await asyncio.sleep(0)
            protocol.connection_lost(None)
        await asyncio.sleep(0.01)
    return spent / (count // 100) / 100 * 1e6


async def serve(kind: str, certificate: str, key: str) -> None:
    """Serve until there is no more input."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    ports, factory = await listen(kind, context)
    gc.collect()
    gc.freeze()  # as the relay's workers do
    print(*ports, flush=True)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).decode().split():
        match line:
            case ["cpu"]:
                print(time.process_time(), flush=True)
            case ["construct", count]:
                print(await construct(factory, int(count)), flush=True)


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:]))
