"""The HTTP server on a socket that is already bound, until it is told to stop.

Signals are left to the process that runs it; the journal and its figures take the place of an access log.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Sequence

import uvicorn
from fastapi import FastAPI

GRACE = 10
"""Seconds that requests under way are given at a stop."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_api(app: FastAPI, sock: socket.socket, stop: asyncio.Event, *, trusted_proxies: Sequence[str] = ()) -> None:
    """Serve until `stop` is set; requests under way are finished first. The socket is closed on return.

    Only `trusted_proxies` (addresses or networks) may name a client other than themselves: guessing is counted by address.
    """
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=list(trusted_proxies),
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve([sock]))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        server.should_exit = True
        stopping.cancel()
        await serving
