"""What happens at the gate when an answer cannot be finished."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import Response

from relay.accounts.user import Entry
from relay.api.gate import Gate
from relay.api.listing import answer_pages
from relay.api.server import serve_api
from relay.journal import Journal
from relay.store.client import StoreUnavailable


async def pages_until(error: Exception) -> AsyncIterator[list[Entry]]:
    yield []
    yield []
    raise error


@pytest.mark.parametrize(("error", "event"), [(StoreUnavailable("gone"), "api_answer_cut"), (ValueError("odd"), "bug")])
async def test_a_list_that_breaks_off_is_never_ended_as_if_it_were_whole(place: Path, error: Exception, event: str) -> None:
    log = place / "journal"
    fd = os.open(log, os.O_WRONLY | os.O_CREAT, 0o600)
    app = FastAPI()

    @app.exception_handler(StoreUnavailable)
    async def unavailable(request: object, error: StoreUnavailable) -> Response:
        return Response(status_code=503)

    @app.get("/", response_model=None)
    async def listing() -> Response:
        return await answer_pages(pages_until(error), b"[", b"]", lambda page: b"0")

    app.add_middleware(Gate, journal=Journal(fd, "test"), max_body=100, on_bug=lambda path: Response(status_code=500))
    stop, sock = asyncio.Event(), socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(serve_api(app, sock, stop))
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"http://127.0.0.1:{sock.getsockname()[1]}/")
    stop.set()
    await serving
    os.close(fd)
    assert [json.loads(line)["event"] for line in log.read_text().splitlines()] == [event]
