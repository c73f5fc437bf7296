"""How long a session with a smarthost lives, and how many there are."""

from __future__ import annotations

import asyncio

from relay.loadkit.script import Script
from relay.mail.verdict import Deferred, Delivered
from tests.upstream.conftest import Opening, verdict_of


async def test_a_session_carries_so_many_messages_and_no_more(open_pool: Opening) -> None:
    async with open_pool(route={"max_messages": 2}) as (pool, sink):
        for _ in range(4):
            assert isinstance(await verdict_of(pool), Delivered)
        assert sink.intake.connections == 2


async def test_a_session_that_is_too_old_is_used_no_more(open_pool: Opening) -> None:
    async with open_pool(route={"max_age": 0.15}) as (pool, sink):
        for _ in range(3):
            assert isinstance(await verdict_of(pool), Delivered)
        await asyncio.sleep(0.2)
        assert isinstance(await verdict_of(pool), Delivered)
        assert sink.intake.connections == 2 and sink.replies[221] == 1
        sink.script = Script.parse(["dot stall=0.2"])
        assert isinstance(await verdict_of(pool), Delivered)
        assert isinstance(await verdict_of(pool), Delivered)
        assert sink.intake.connections == 3


async def test_a_session_that_is_idle_too_long_is_closed_with_quit(open_pool: Opening) -> None:
    async with open_pool(route={"max_idle": 0.05}) as (pool, sink):
        assert isinstance(await verdict_of(pool), Delivered)
        while sink.conversations:
            await asyncio.sleep(0.01)
        assert sink.replies[221] == 1
        assert isinstance(await verdict_of(pool), Delivered)
        assert sink.intake.connections == 2


async def test_no_more_sessions_than_allowed_are_open_at_a_time(open_pool: Opening) -> None:
    async with open_pool("dot stall=0.02", route={"max_connections": 3}) as (pool, sink):
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, len(sink.conversations))
                await asyncio.sleep(0.001)

        watching = asyncio.create_task(watch())
        verdicts = await asyncio.gather(*(verdict_of(pool) for _ in range(20)))
        watching.cancel()
        assert all(isinstance(verdict, Delivered) for verdict in verdicts)
        assert (most, sink.intake.connections, sink.intake.answered) == (3, 3, 20)


async def test_tls_settings_that_cannot_be_used_are_ours_and_nobody_is_dialled(open_pool: Opening) -> None:
    async with open_pool(route={"security": "starttls", "identity": "no certificate"}) as (pool, sink):
        verdict = await verdict_of(pool)
        assert isinstance(verdict, Deferred) and verdict.ours and verdict.unreached and sink.intake.connections == 0
