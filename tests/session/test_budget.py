"""The memory for messages under way: bounded over all connections, and nobody starves for ever."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from relay.session.budget import READ, Budget
from tests.session.conftest import Opening, Wire, Worker

LINE = b"x" * 998 + b"\r\n"


class Upload:
    """A connection, as the budget sees it."""

    def __init__(self, account: str = "") -> None:
        self.is_reading = True
        self.held = 0
        self.account = account

    def starve(self) -> None:
        """Read no more."""
        self.is_reading = False

    def relieve(self) -> None:
        """Read on."""
        self.is_reading = True


@given(st.data(), st.integers(1, 20))
def test_somebody_reads_or_memory_comes_back_and_only_one_goes_beyond(data: st.DataObject, most: int) -> None:
    """In units of READ: every upload takes at most one at a time."""
    budget = Budget(most * READ)
    uploading: list[Upload] = []
    kept: list[Upload] = []
    for _ in range(data.draw(st.integers(0, 80))):
        match data.draw(st.sampled_from(["begin", "take", "take", "end", "leave"])):
            case "begin":
                uploading.append(Upload())
                budget.begin(uploading[-1])
            case "take" if reading := [upload for upload in uploading if upload.is_reading]:
                upload = data.draw(st.sampled_from(reading))
                upload.held += READ
                budget.take(READ)
            case "end" if uploading:
                upload = uploading.pop(data.draw(st.integers(0, len(uploading) - 1)))
                budget.end(upload, upload.held)
                kept.append(upload)
            case "leave" if kept:
                upload = kept.pop(data.draw(st.integers(0, len(kept) - 1)))
                budget.give_back(upload, upload.held)
        held = sum(upload.held for upload in uploading + kept)
        assert budget.used == held
        if uploading and not any(upload.held for upload in kept):
            assert uploading[0].is_reading
        if held > most * READ:
            assert sum(upload.is_reading for upload in uploading) <= 1
        if held <= (most - len(uploading)) * READ:  # there is room for everybody
            assert all(upload.is_reading for upload in uploading)


async def begin(worker: Worker, account: Any, lines: int) -> Wire:
    """A client that is in the middle of its message."""
    wire = await worker.enter(account)
    assert (await wire.begin()).startswith(b"354 ")
    await wire.write(b"Subject: x\r\n\r\n" + LINE * lines)
    return wire


async def settle_down() -> None:
    """Let the relay read what it will read."""
    await asyncio.sleep(0.1)


async def test_uploads_beyond_the_budget_wait_and_go_on_when_there_is_room(open_worker: Opening) -> None:
    async with open_worker(rules={"upload_memory": 1 << 20, "max_message_bytes": 1 << 20}) as worker:
        account = await worker.add_user()
        wires = [await begin(worker, account, 600) for _ in range(6)]
        await settle_down()
        # Everyone had a first read; the kernel holds the rest.
        assert worker.house.budget.used < (1 << 20) + 6 * READ
        for wire in wires:
            wire.writer.write(b".\r\n")
        replies = await asyncio.gather(*(wire.reply() for wire in wires))
        assert all(reply.startswith(b"250 2.0.0 ") for reply in replies)
        assert await worker.account_of(account) == (6, 6)
        assert worker.house.budget.used == 0
        assert all(message.content is not None and message.content.count(LINE) == 600 for message in worker.sink.messages)


async def test_an_upload_that_finds_no_room_in_time_is_refused_for_now_and_its_session_goes_on(open_worker: Opening) -> None:
    rules = {"upload_memory": 1 << 20, "max_message_bytes": 1 << 20, "upload_wait": 0.2}
    async with open_worker(rules=rules) as worker:
        account = await worker.add_user()
        oldest = await begin(worker, account, 1000)
        await settle_down()
        second = await begin(worker, account, 900)
        third = await begin(worker, account, 900)
        for wire in (second, third):
            await wire.write(b".\r\n")
            assert await wire.reply() == b"452 4.3.1 No memory for the message now, try again later\r\n"
            assert await wire.ask(b"NOOP") == b"250 2.0.0 OK\r\n"
        await oldest.write(b".\r\n")
        assert (await oldest.reply()).startswith(b"250 ")
        assert (await second.offer(b"Subject: x\r\n")).startswith(b"250 ")
        assert await worker.account_of(account) == (2, 2)
        assert worker.house.budget.used == 0


async def test_a_chunk_that_finds_no_room_in_time_is_consumed_and_refused(open_worker: Opening) -> None:
    rules = {"upload_memory": 1 << 20, "max_message_bytes": 1 << 20, "upload_wait": 0.2}
    async with open_worker(rules=rules) as worker:
        account = await worker.add_user()
        oldest = await begin(worker, account, 1040)
        await settle_down()
        wire = await worker.enter(account)
        await wire.send(b"MAIL FROM:<a@b.example>", b"RCPT TO:<c@d.example>", b"BDAT 900000")
        await wire.write(LINE * 900 + b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n")
        replies = [await wire.reply() for _ in range(5)]
        assert [reply[:9] for reply in replies] == [b"250 2.1.0", b"250 2.1.5", b"452 4.3.1", b"503 5.5.1", b"250 2.0.0"]
        await oldest.close()
        await worker.await_connections(1)
        assert await worker.account_of(account) == (0, 0)
        assert worker.house.budget.used == 0


async def test_messages_that_wait_for_the_smarthost_leave_no_room_for_others(open_worker: Opening) -> None:
    rules = {"upload_memory": 1 << 20, "max_message_bytes": 1 << 20, "upload_wait": 0.5}
    async with open_worker(rules=rules) as worker:
        worker.script("dot stall=2")
        account = await worker.add_user()

        async def send() -> bytes:
            wire = await worker.enter(account)
            return await wire.offer(b"Subject: x\r\n\r\n" + LINE * 1000)

        sending = [asyncio.create_task(send()) for _ in range(12)]
        most = 0
        while not all(task.done() for task in sending):
            most = max(most, worker.house.budget.used)
            await asyncio.sleep(0.005)
        codes = [task.result()[:3] for task in sending]
        assert most < (1 << 20) + 1_000_000 + len(sending) * READ  # the oldest, and what had been read already
        assert codes.count(b"250") >= 1 and codes.count(b"452") >= 6 and len(codes) == codes.count(b"250") + codes.count(b"452")
        assert worker.house.budget.used == 0


async def test_a_message_that_stands_still_between_its_chunks_gives_its_memory_up(open_worker: Opening) -> None:
    rules = {"upload_memory": 1 << 20, "max_message_bytes": 1 << 20, "upload_wait": 0.2}
    async with open_worker(rules=rules) as worker:
        account = await worker.add_user()
        holders = [await worker.enter(account) for _ in range(2)]
        for wire in holders:
            await wire.send(b"MAIL FROM:<a@b.example>", b"RCPT TO:<c@d.example>", b"BDAT 900000")
            await wire.write(LINE * 900)
            await settle_down()
        for _ in range(3):
            assert (await (await worker.enter(account)).offer(b"Subject: x\r\n\r\n" + LINE * 10)).startswith(b"250 ")
        await holders[1].send(b"BDAT 0 LAST")
        replies = [await holders[1].reply() for _ in range(4)]
        assert replies[-1].startswith(b"452 4.3.1 ") or replies[-2].startswith(b"452 4.3.1 ")


async def test_octets_that_are_thrown_away_wait_for_nobody_and_nobody_for_them(open_worker: Opening) -> None:
    rules = {"upload_memory": 1 << 20, "max_message_bytes": 1 << 20, "upload_wait": 0.5}
    async with open_worker(rules=rules) as worker:
        stranger = await worker.connect()
        await stranger.reply()
        await stranger.ask(b"EHLO x")
        await stranger.send(b"BDAT 1000000")
        account = await worker.add_user()
        wires = [await begin(worker, account, 800) for _ in range(2)]
        await settle_down()
        for wire in wires:
            await wire.write(b".\r\n")
            assert (await wire.reply()).startswith(b"250 ")


async def test_a_message_too_large_is_told_so_even_where_there_is_no_room(open_worker: Opening) -> None:
    rules = {"upload_memory": 1 << 20, "max_message_bytes": 100_000, "upload_wait": 0.2}
    async with open_worker(rules=rules) as worker:
        account = await worker.add_user()
        large = await begin(worker, account, 300)
        await settle_down()
        small = [await begin(worker, account, 98) for _ in range(12)]
        await asyncio.sleep(0.3)
        await large.write(b".\r\n")
        assert (await large.reply()).startswith(b"552 5.3.4 ")
        for wire in small:
            await wire.close()


async def test_who_hangs_up_while_waiting_for_room_gives_its_own_back(open_worker: Opening) -> None:
    async with open_worker(rules={"upload_memory": 1 << 20, "max_message_bytes": 1 << 20}) as worker:
        account = await worker.add_user()
        wires = [await begin(worker, account, 700) for _ in range(4)]
        await settle_down()
        for wire in wires[1:]:
            wire.writer.transport.abort()
        await wires[0].write(b".\r\n")
        assert (await wires[0].reply()).startswith(b"250 ")
        await wires[0].close()
        await worker.await_connections(0)
        assert worker.house.budget.used == 0
        assert await worker.account_of(account) == (1, 1)


async def test_a_message_counts_until_its_reply(open_worker: Opening) -> None:
    async with open_worker() as worker:
        worker.script("dot stall=0.3")
        account = await worker.add_user()
        wire = await begin(worker, account, 10)
        await wire.write(b".\r\n")
        await settle_down()
        assert worker.house.budget.used == 12 + 2 + 10_000 + 3
        assert (await wire.reply()).startswith(b"250 ")
        assert worker.house.budget.used == 0


async def test_an_owner_whose_smarthost_hangs_leaves_half_of_the_memory_to_the_others(open_worker: Opening) -> None:
    tarpit = Sink(keep=True, script=Script.parse(["dot stall=60"]))
    await tarpit.start()
    async with open_worker(rules={"upload_memory": 1_200_000, "upload_wait": 3.0}, is_spooling=True, deadline=8.0) as worker:
        slow, other = await worker.add_user(), await worker.add_user()
        await worker.put_setting(slow, "", tarpit.port)
        content = b"Subject: x\r\n\r\n" + b"some text\r\n" * 50_000
        offering = [asyncio.create_task((await worker.enter(slow)).offer(content)) for _ in range(3)]
        good = await worker.enter(other)
        refused, _ = await asyncio.wait(offering, timeout=3, return_when=asyncio.FIRST_COMPLETED)
        assert {task.result()[:9] for task in refused} == {b"452 4.3.1"}
        async with asyncio.timeout(2):
            assert (await good.offer(b"Subject: x\r\n\r\nsmall\r\n")).startswith(b"250")
        for conversation in tuple(tarpit.conversations):
            conversation.abort()
        replies = await asyncio.gather(*offering)
        assert sorted(reply[:3] for reply in replies) == [b"250", b"452", b"452"]
    await tarpit.stop()
