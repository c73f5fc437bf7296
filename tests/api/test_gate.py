"""What happens at the gate when an answer cannot be finished."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response

from relay.accounts.user import Entry
from relay.api.gate import Gate
from relay.api.listing import answer_pages
from relay.api.rooms import address_of
from relay.api.server import serve_api
from relay.journal import Journal
from relay.session.listener import bind
from relay.store.client import StoreUnavailable
from tests.api.conftest import House


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

    app.add_middleware(Gate, journal=Journal(fd, "test"), max_body=100, answer=lambda path, status, *_: Response(status_code=status))
    stop, sock = asyncio.Event(), bind("127.0.0.1", 0, shared=False)
    sock.listen()
    serving = asyncio.create_task(serve_api(app, sock, stop))
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"http://127.0.0.1:{sock.getsockname()[1]}/")
    stop.set()
    await serving
    os.close(fd)
    assert [json.loads(line)["event"] for line in log.read_text().splitlines()] == [event]


@pytest.mark.parametrize(
    ("trusted", "forwarded", "seen"),
    [
        ((), "192.0.2.7", "127.0.0.1"),
        (("10.0.0.0/8", "::1"), "192.0.2.7", "127.0.0.1"),
        (("127.0.0.1",), "192.0.2.7", "192.0.2.7"),
        (("127.0.0.0/8", "10.0.0.0/8"), "198.51.100.1, 192.0.2.7, 10.1.2.3", "192.0.2.7"),
    ],
)
async def test_a_client_is_whom_a_trusted_proxy_names_and_else_the_peer(trusted: tuple[str, ...], forwarded: str, seen: str) -> None:
    app = FastAPI()

    @app.get("/")
    def who(request: Request) -> str:
        return address_of(request)

    stop, sock = asyncio.Event(), bind("127.0.0.1", 0, shared=False)
    sock.listen()
    serving = asyncio.create_task(serve_api(app, sock, stop, trusted_proxies=trusted))
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{sock.getsockname()[1]}/", headers={"X-Forwarded-For": forwarded})
    stop.set()
    await serving
    assert answer.json() == seen


async def say(house: House, request: bytes) -> bytes:
    """All that is answered to some octets after which the client says no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write(request)
    writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


@pytest.mark.parametrize("path", ["/login", "/v1.0/settings/addSmtp", "/nowhere"])
@pytest.mark.parametrize("rest", [b"Content-Length: 9\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n-5\r\nabcde\r\n0\r\n\r\n"])
async def test_a_client_that_leaves_amid_its_body_is_no_bug(house: House, path: str, rest: bytes) -> None:
    await say(house, f"POST {path} HTTP/1.1\r\nHost: relay.example\r\n".encode() + rest)
    assert b'"event":"bug"' not in house.log.read_bytes()


@pytest.mark.parametrize(
    "path", ["/login", "/v1.0/settings/listSmtp", "/api/v1/users", "/api/v1/Agents/CustomerService/TestSmtpServer", "/nowhere"]
)
async def test_a_request_with_two_ends_is_refused_and_nothing_behind_it_is_heard(house: House, path: str) -> None:
    lengths = b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    said = await say(house, f"POST {path} HTTP/1.1\r\nHost: x\r\n".encode() + lengths + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = said.partition(b"\r\n\r\n")
    assert said.count(b"HTTP/1.1 ") == 1 and b"\nconnection: close" in head.lower() and b"Transfer-Encoding" in body, said
