"""One server of the connection benchmark, in a process of its own: stock aiosmtpd, or this relay's session with its accounts.

python connection_server.py KIND CERTIFICATE KEY STORE KEYFILE; prints the ports of its plain and its STARTTLS listener, then answers
each line of its standard input with the seconds of CPU used so far. It ends with its input. It is started by its path, so that the tree
it measures is whichever PYTHONPATH names.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import ssl
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import uvloop
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from relay.accounts.changes import Changes
from relay.accounts.presence import Presence
from relay.accounts.registry import Registry
from relay.accounts.secrets import open_key
from relay.accounts.throttle import Throttle
from relay.journal import Journal
from relay.quota.ledger import CHANGES
from relay.session.certificate import Certificate
from relay.session.door import Door
from relay.session.listener import Listeners, bind
from relay.session.ticket import Tickets
from relay.store.client import Store
from tests.benchmarks.session_rooms import HOSTNAME, furnish

MOST = 500
"""Connections of one user, as in the shipped settings."""


class Handler:
    """aiosmtpd's: takes everything."""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Say so at once."""
        return "250 OK"


@dataclass(frozen=True, slots=True)
class Guesses:
    """The throttle's settings, as shipped."""

    failures_per_user: int = 5
    failures_per_address: int = 50
    window_seconds: int = 300


async def stock(ports: list[int], certificate: str, key: str) -> None:
    """Listen as aiosmtpd's users are told to where speed matters; who logs in is let in at once."""
    logging.getLogger("mail.log").setLevel(logging.CRITICAL)
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    handler = Handler()

    def authenticate(server: SMTP, session: Session, envelope: Envelope, mechanism: str, claim: LoginPassword) -> AuthResult:
        return AuthResult(success=True)

    def factory(tls: ssl.SSLContext | None) -> SMTP:
        return SMTP(
            handler, loop=loop, hostname=HOSTNAME, ident="ESMTP", data_size_limit=2**25, decode_data=False, tls_context=tls,
            auth_require_tls=False, auth_required=True, authenticator=authenticate, enable_SMTPUTF8=False,
        )  # fmt: skip

    for tls in (None, context):
        sock = bind("127.0.0.1", 0, shared=False)
        ports.append(sock.getsockname()[1])
        await loop.create_server(lambda tls=tls: factory(tls), sock=sock, backlog=1024)  # type: ignore[misc]


async def ours(ports: list[int], certificate: str, key: str, store: Store, key_file: str) -> set[asyncio.Task[None]]:
    """Listen with the real accounts, and with rooms behind them that answer at once."""
    house = furnish(Journal(os.open(os.devnull, os.O_WRONLY), HOSTNAME))
    house.registry = Registry(store, open_key(Path(key_file), may_create=False))
    house.throttle = Throttle(store, Guesses())
    house.presence = Presence(store, "bench000", MOST)
    house.changes = Changes(store, CHANGES, house.on_change)
    held = Certificate(Path(certificate), Path(key), Tickets.fresh())
    socks = [bind("127.0.0.1", 0, shared=False) for _ in range(2)]
    ports += [sock.getsockname()[1] for sock in socks]
    doors = [Door(ports[0], "none", auth_without_tls=True), Door(ports[1], "starttls", context=held.context)]
    await Listeners(house).open(list(zip(doors, socks, strict=True)))
    return {asyncio.create_task(house.presence.run()), asyncio.create_task(house.changes.run())}


async def serve(kind: str, certificate: str, key: str, url: str, key_file: str) -> None:
    """Serve until there is no more input."""
    ports: list[int] = []
    if kind == "stock":
        await stock(ports, certificate, key)
    else:
        store = Store(url)
        running = await ours(ports, certificate, key, store, key_file)
    gc.collect()
    gc.freeze()  # as the relay's workers do
    print(*ports, flush=True)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        print(time.process_time(), flush=True)
    if kind != "stock":
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        await store.close()


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:]))
