"""What the smarthost does not take, seen from the session: what the client hears, what the spool answers for, what is charged."""

from __future__ import annotations

import asyncio
import fcntl
from pathlib import Path

import pytest

from relay.spool.entry import Entry
from relay.spool.spool import Spool
from tests.session.conftest import Account, Opening, Worker

THREE = (b"a@example.net", b"b@example.net", b"c@example.net")
NO_DISK = 1 << 62


def spool_of(worker: Worker) -> Spool:
    assert worker.house.spool is not None
    return worker.house.spool


async def entries(worker: Worker) -> list[Entry]:
    return [entry async for page in spool_of(worker).pages() for entry in page]


async def states(worker: Worker) -> dict[str, str]:
    (entry,) = await entries(worker)
    return {one.recipient.address[0]: one.state + (" in doubt" if one.in_doubt else "") for one in entry.standings}


async def test_of_three_recipients_one_refused_is_reported_two_are_delivered_and_two_are_charged(open_worker: Opening) -> None:
    async with open_worker(is_spooling=True, quota={"unit": "recipients"}) as worker:
        account = await worker.add_user()
        worker.script('rcpt match=b@* reply="550 5.1.1 no such user"')
        wire = await worker.enter(account)
        reply = await wire.offer(b"Subject: x\r\n", *THREE)
        assert reply.startswith(b"250 2.0.0 test") and reply.endswith(b" Queued\r\n")
        assert await states(worker) == {"a": "delivered", "b": "failed", "c": "delivered"}
        (entry,) = await entries(worker)
        assert (entry.units, entry.accepted, entry.claimed_by) == (3, 2, "")
        async with asyncio.timeout(5):
            while not (await entries(worker))[0].is_settled:
                await asyncio.sleep(0.01)
        assert await worker.account_of(account) == (2, 1)
        taken = await worker.await_event("taken")
        assert (taken["units"], taken["spooled"]) == (2, ["b@example.net"])


async def test_of_two_recipients_one_needs_smtputf8_and_the_smarthost_has_none(open_worker: Opening) -> None:
    async with open_worker(is_spooling=True, sink={"without": ["SMTPUTF8"]}) as worker:
        account = await worker.add_user()
        wire = await worker.enter(account)
        await wire.send(b"MAIL FROM:<app@example.com> SMTPUTF8", "RCPT TO:<bób@example.net>".encode(), b"RCPT TO:<a@example.net>", b"DATA")
        assert [(await wire.reply())[:3] for _ in range(4)] == [b"250", b"250", b"250", b"354"]
        await wire.write(b"Subject: x\r\n\r\n.\r\n")
        assert (await wire.reply()).startswith(b"250 2.0.0 ")
        assert await states(worker) == {"a": "delivered", "b": "failed"}
        (entry,) = await entries(worker)
        assert entry.envelope.smtputf8 and entry.standings[0].reply.startswith("550 5.6.7 ")
        assert [message.recipients for message in worker.sink.messages] == [("a@example.net",)]
        assert await worker.account_of(account) == (1, 1)


async def test_the_entry_is_durable_and_in_doubt_while_the_final_dot_is_unanswered(open_worker: Opening) -> None:
    async with open_worker(is_spooling=True) as worker:
        account = await worker.add_user()
        worker.script('rcpt match=b@* reply="550 5.1.1 no such user"', "dot stall=0.5")
        wire = await worker.enter(account)
        assert (await wire.begin(*THREE)).startswith(b"354 ")
        await wire.write(b"Subject: x\r\n.\r\n")
        async with asyncio.timeout(5):
            while not await entries(worker):
                await asyncio.sleep(0.005)
        assert await states(worker) == {"a": "waiting in doubt", "b": "failed", "c": "waiting in doubt"}
        assert (await entries(worker))[0].claimed_by == "test"
        assert (await wire.reply()).startswith(b"250 ")
        assert await states(worker) == {"a": "delivered", "b": "failed", "c": "delivered"}


@pytest.mark.parametrize(("dot", "reply", "after"), [
    ('"554 5.6.0 not this"', b"550 5.1.1 ", None),
    ('"451 4.3.0 later"', b"250 2.0.0 ", {"a": "waiting", "b": "failed", "c": "waiting"}),
])  # fmt: skip
async def test_who_was_accepted_may_still_be_refused_at_the_dot(
    open_worker: Opening, dot: str, reply: bytes, after: dict[str, str] | None
) -> None:
    async with open_worker(is_spooling=True) as worker:
        account = await worker.add_user()
        worker.script('rcpt match=b@* reply="550 5.1.1 no such user"', f"dot reply={dot}")
        wire = await worker.enter(account)
        said = await wire.offer(b"Subject: x\r\n", *THREE)
        if after is None:  # all refused: the client hears it, and the spool has nothing
            assert said.startswith((b"550 5.1.1 ", b"554 5.6.0 "))
            assert await entries(worker) == []
            assert await worker.account_of(account) == (0, 0)
        else:
            assert said.startswith(reply)
            assert await states(worker) == after
            assert await worker.account_of(account) == (1, 0)


async def test_one_of_three_deferred_waits_and_all_are_charged(open_worker: Opening) -> None:
    async with open_worker(is_spooling=True, quota={"unit": "recipients"}) as worker:
        account = await worker.add_user()
        worker.script('rcpt match=c@* reply="450 4.2.0 busy"')
        wire = await worker.enter(account)
        assert (await wire.offer(b"Subject: x\r\n", *THREE)).startswith(b"250 ")
        assert await states(worker) == {"a": "delivered", "b": "delivered", "c": "waiting"}
        assert await worker.account_of(account) == (3, 1)


async def test_an_answer_after_the_deadline_is_heard_by_the_worker_and_recorded(open_worker: Opening) -> None:
    async with open_worker(is_spooling=True, deadline=0.2) as worker:
        account = await worker.add_user()
        worker.script("dot stall=0.6")
        wire = await worker.enter(account)
        assert (await wire.offer(b"Subject: x\r\n")).endswith(b" Queued\r\n")
        assert await states(worker) == {"t": "waiting in doubt"}
        assert worker.events("in_doubt")[0]["recipients"] == ["to@example.net"]
        await worker.await_event("delivered")
        assert await entries(worker) == []
        assert await worker.account_of(account) == (1, 1)


@pytest.mark.parametrize(("script", "state"), [
    ('dot stall=0.5 reply="554 5.6.0 no"', "failed"),
    ('dot stall=0.5 reply="451 4.6.0 no"', "waiting"),
    ("dot stall=0.5 drop", "waiting in doubt"),
])  # fmt: skip
async def test_what_the_late_answer_says_is_where_the_recipient_stands(open_worker: Opening, script: str, state: str) -> None:
    async with open_worker(is_spooling=True, deadline=0.2) as worker:
        account = await worker.add_user()
        worker.script(script)
        wire = await worker.enter(account)
        assert (await wire.offer(b"Subject: x\r\n")).startswith(b"250 ")
        async with asyncio.timeout(5):
            while (await entries(worker))[0].claimed_by:
                await asyncio.sleep(0.01)
        assert await states(worker) == {"t": state}
        assert await worker.account_of(account) == (1, 0)


async def test_without_room_in_the_spool_nothing_is_sent_nothing_charged_and_the_client_hears_452(open_worker: Opening) -> None:
    async with open_worker(is_spooling=True, reserve=NO_DISK) as worker:
        account = await worker.add_user()
        wire = await worker.enter(account)
        worker.script('rcpt match=b@* reply="550 5.1.1 no such user"')
        no_room = b"452 4.3.1 Insufficient system storage, try again later\r\n"
        assert await wire.offer(b"Subject: x\r\n", *THREE) == no_room
        worker.script('rcpt reply="450 4.2.0 busy"')
        assert await wire.offer(b"Subject: x\r\n") == no_room
        worker.script("dot drop")
        assert await wire.offer(b"Subject: x\r\n") == no_room
        assert len(worker.events("in_doubt")) == 1
        worker.script()
        assert (await wire.offer(b"Subject: x\r\n", *THREE)).startswith(b"250 ")
        assert await worker.account_of(account) == (1, 1)
        assert len(worker.events("spool_unavailable")) == 3


async def test_who_asked_for_a_report_of_success_gets_one_from_us_where_the_smarthost_gives_none(open_worker: Opening) -> None:
    async with open_worker(is_spooling=True, sink={"without": ("DSN",)}) as worker:
        account = await worker.add_user()
        wire = await worker.enter(account)
        await wire.send(b"MAIL FROM:<app@example.com>", b"RCPT TO:<to@example.net> NOTIFY=SUCCESS", b"DATA")
        for expected in (b"250 ", b"250 ", b"354 "):
            assert (await wire.reply()).startswith(expected)
        await wire.write(b"Subject: x\r\n\r\n.\r\n")
        assert (await wire.reply()).startswith(b"250 2.0.0 test")
        assert await states(worker) == {"t": "relayed"}
        assert await worker.account_of(account) == (1, 1)


async def test_an_account_that_is_disabled_before_the_dot_stops_a_message_that_would_be_split(open_worker: Opening) -> None:
    async with open_worker(is_spooling=True) as worker:
        account: Account = await worker.add_user()
        worker.script('rcpt match=b@* reply="550 5.1.1 no such user"', "data stall=0.5")
        wire = await worker.enter(account)
        assert (await wire.begin(*THREE)).startswith(b"354 ")
        await wire.write(b"Subject: x\r\n.\r\n")
        await asyncio.sleep(0.2)
        await worker.provisioning.edit_user(account.name, is_enabled=False)
        assert (await wire.reply()).startswith(b"550 5.7.13 ")
        assert await entries(worker) == []
        assert await worker.account_of(account) == (0, 0)


async def test_a_smarthost_that_is_away_costs_the_client_no_wait(open_worker: Opening) -> None:
    async with open_worker(is_spooling=True, route={"down_seconds": 5.0, "timeout": 0.3}) as worker:
        account = await worker.add_user()
        await worker.sink.stop()
        wire = await worker.enter(account)
        for _ in range(3):
            assert (await wire.offer(b"Subject: x\r\n")).endswith(b" Queued\r\n")
        found = await entries(worker)
        assert [one.state for entry in found for one in entry.standings] == ["waiting"] * 3
        assert all(entry.due - entry.arrived < 2 for entry in found)
        assert await worker.account_of(account) == (3, 0)


async def test_who_is_refused_at_the_dot_after_the_entry_was_made_is_not_charged_by_whoever_settles_it(open_worker: Opening) -> None:
    async with open_worker(is_spooling=True, quota={"unit": "recipients"}) as worker:
        account = await worker.add_user()
        worker.script('rcpt match=a@* reply="450 4.2.0 busy"', 'dot reply="554 5.6.0 not this"')
        wire = await worker.enter(account)
        assert (await wire.offer(b"Subject: x\r\n", *THREE)).startswith(b"250 ")
        assert await states(worker) == {"a": "waiting", "b": "failed", "c": "failed"}
        (entry,) = await entries(worker)
        assert (entry.units, entry.accepted) == (3, 1)
        assert await spool_of(worker).charged([entry.id]) == {entry.id: (account.name, 3, 1)}
        assert await worker.account_of(account) == (1, 0)


async def test_a_put_that_a_stop_cut_short_leaves_nothing_in_the_spool(open_worker: Opening, place: Path) -> None:
    async with open_worker(is_spooling=True) as worker:
        account = await worker.add_user()
        worker.script('rcpt reply="450 4.2.0 busy"')
        wire = await worker.enter(account)
        with (place / "spool.db.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a disk that stalls
            assert (await wire.begin()).startswith(b"354 ")
            await wire.write(b"Subject: x\r\n.\r\n")
            await asyncio.sleep(0.3)
            (task,) = worker.house.tasks
            task.cancel()
            await asyncio.sleep(0.1)
        assert (await wire.reply()).startswith(b"421 ")
        assert await worker.account_of(account) == (0, 0)
        assert await entries(worker) == []


async def test_a_report_of_success_that_cannot_be_kept_is_on_record_and_nobody_is_said_to_be_spooled(open_worker: Opening) -> None:
    async with open_worker(is_spooling=True, reserve=NO_DISK, sink={"without": ("DSN",)}) as worker:
        account = await worker.add_user()
        wire = await worker.enter(account)
        await wire.send(b"MAIL FROM:<app@example.com>", b"RCPT TO:<to@example.net> NOTIFY=SUCCESS", b"DATA")
        for _ in range(3):
            await wire.reply()
        await wire.write(b"Subject: x\r\n\r\n.\r\n")
        assert (await wire.reply()).startswith(b"250 2.0.0 test")
        assert "spooled" not in await worker.await_event("taken")
        assert (await worker.await_event("report_lost"))["recipients"] == ["to@example.net"]
        assert await worker.account_of(account) == (1, 1)
