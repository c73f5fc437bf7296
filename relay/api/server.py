"""The HTTP server on a socket that is already bound, until it is told to stop.

Signals are left to the process that runs it; the journal and its figures take the place of an access log.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

GRACE = 10
"""Seconds that requests under way are given at a stop."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_api(app: FastAPI, sock: socket.socket, stop: asyncio.Event) -> None:
    """Serve until `stop` is set; requests under way are finished first. The socket is closed on return."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
        # A proxy on this machine may name the client; whatever comes from elsewhere may not.
        forwarded_allow_ips="127.0.0.1,::1",
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
