"""A process ends when it is told to or when a part of it has ended, and what nobody caught is in the mail log."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import uvloop

from relay.journal import Journal
from relay.life import Life


def lived(tmp_path: Path, *, ends: bool, **part: Any) -> list[dict[str, Any]]:
    """What the mail log has after a life with one such part; `ends` says whether the part ends it."""
    with (tmp_path / "log").open("w+b") as log:

        async def live() -> None:
            life = Life(Journal(log.fileno(), "test"), "2gfytbk1")
            life.carry(part["part"])
            if not ends:
                await asyncio.sleep(0.05)
                assert not life.stop.is_set()
                os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(5):
                await life.stop.wait()
            await life.lay_down()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(live())
        log.seek(0)
        return [json.loads(line) for line in log]


async def go_on() -> None:
    await asyncio.Event().wait()


def test_a_signal_ends_it_and_nothing_is_said(tmp_path: Path) -> None:
    assert lived(tmp_path, part=go_on, ends=False) == []


def test_a_part_that_fails_ends_it_and_is_on_record(tmp_path: Path) -> None:
    async def fail() -> None:
        raise ValueError("odd")

    (told,) = lived(tmp_path, part=fail, ends=True)
    assert (told["event"], told["id"], told["error"]) == ("bug", "2gfytbk1", "ValueError")
    assert 'raise ValueError("odd")' in told["traceback"]


def test_a_part_that_ends_ends_it(tmp_path: Path) -> None:
    async def end() -> None:
        await asyncio.sleep(0)

    assert lived(tmp_path, part=end, ends=True) == []


def test_what_a_callback_raises_is_on_record_and_ends_nothing(tmp_path: Path) -> None:
    async def call() -> None:
        asyncio.get_running_loop().call_soon(int, "odd")
        await go_on()

    (told,) = lived(tmp_path, part=call, ends=False)
    assert (told["event"], told["error"]) == ("bug", "ValueError")


def test_what_a_protocol_raises_is_on_record_and_ends_nothing(tmp_path: Path) -> None:
    """As of a connection whose own way of telling has failed."""

    class Odd(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            raise KeyError(data)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Odd, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()[:2]) as client:
            client.sendall(b"EHLO")
            client.setblocking(False)
            await loop.sock_recv(client, 1)
        server.close()
        await go_on()

    (told,) = lived(tmp_path, part=serve, ends=False)
    assert (told["event"], told["error"]) == ("bug", "KeyError")
