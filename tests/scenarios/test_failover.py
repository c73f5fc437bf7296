"""One of two smarthosts is killed while much mail goes through it: no client sees an error, and soon none notices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from relay.loadkit.attempt import Attempt
from relay.loadkit.caller import dial
from relay.loadkit.message import Template
from relay.quota.limit import Rules
from relay.spool.spool import Spool
from relay.store.embedded import socket_url
from tests.account import Sent, assert_account
from tests.evidence import read_evidence, read_sent
from tests.running import Relay, User, running
from tests.sink_process import SinkProcess
from tests.surroundings import until

RATE = 500
"""Messages a second, all connections together."""
CONNECTIONS = 25
BEFORE, AFTER = 3.0, 6.0
"""Seconds of load before and after the kill."""
MANNERS = "dot p=0.5 stall=0.02\n"
"""What the smarthosts do: some mail is on its way at every moment."""
SETTINGS = """
[[upstream.alternates]]
host = "127.0.0.1"
port = {other}
priority = {priority}
[retry]
first_wait_seconds = 1
longest_wait_seconds = 2
doubt_seconds = 3
"""


@dataclass(slots=True)
class Reply:
    """What one message heard: when it was begun and how long it took, in seconds."""

    began: float
    seconds: float
    sent: Sent


@dataclass(slots=True)
class Load:
    """A relay with two smarthosts, and clients that send steadily."""

    relay: Relay
    sinks: tuple[SinkProcess, SinkProcess]
    users: list[User]
    replies: list[Reply] = field(default_factory=list)
    is_over: bool = False

    async def chat(self, number: int) -> None:
        """Keep to one connection's part of the rate."""
        user = self.users[number % len(self.users)]
        caller = await dial("127.0.0.1", self.relay.smtp, user.name, user.password, "none", 30.0)
        due, count = time.monotonic(), 0
        while not self.is_over:
            due = max(due + CONNECTIONS / RATE, time.monotonic() - 1)
            await asyncio.sleep(due - time.monotonic())
            count += 1
            load_id = f"{number:02d}-{count:06d}"
            mark = f"{load_id}@load.example"
            attempt = Attempt(load_id, user.name, number, 1)
            began = time.monotonic()
            await caller.send(attempt, mark, ["to@load.example"], Template(700, len(load_id)).write(load_id, mark, "to@load.example"))
            self.replies.append(Reply(began, time.monotonic() - began, read_sent(attempt, mark, ("to@load.example",))))
        await caller.quit()

    async def close_account(self) -> None:
        """Let the spool run empty, and see that nobody's mail is lost, and none there twice without a record."""
        spool = Spool(self.relay.folder / "data" / "spool.db", "", 0)
        try:

            async def is_empty() -> bool:
                counts = await spool.counts()
                return not (counts.waiting or counts.claimed or counts.held or counts.charges)

            await until(is_empty, 60, "the spool is empty")
        finally:
            await spool.close()
        users = [user.name for user in self.users]
        copies = [copy for sink in self.sinks for copy in sink.copies()]
        url = socket_url(self.relay.folder / "data")
        assert_account(await read_evidence([self.relay], url, users, [reply.sent for reply in self.replies], copies, Rules()))


@asynccontextmanager
async def loaded(place: Path, priority: int) -> AsyncIterator[Load]:
    """The world in order, with the second smarthost at this priority."""
    sinks = SinkProcess(place / "one", MANNERS), SinkProcess(place / "two", MANNERS)
    async with AsyncExitStack() as stack:
        for sink in sinks:
            stack.push_async_callback(sink.end)
            await sink.start()
        extra = SETTINGS.format(other=sinks[1].port, priority=priority)
        relay = await stack.enter_async_context(running(place / "relay", sinks[0].port, extra))
        users = [await relay.add_user(hourly=1_000_000, total=10_000_000) for _ in range(5)]
        yield Load(relay, sinks, users)


def percentile(replies: list[Reply], since: float, until: float) -> float:
    """The 99th percentile of what was begun in this time; 0.0 if nothing was."""
    found = sorted(reply.seconds for reply in replies if since <= reply.began < until)
    return found[int(len(found) * 0.99)] if found else 0.0


def recovery(replies: list[Reply], killed: float, normal: float) -> float:
    """Seconds from the kill to the end of the last half second that was slower than normal."""
    slow = [n for n in range(int(AFTER * 2)) if percentile(replies, killed + n / 2, killed + (n + 1) / 2) > normal]
    return (slow[-1] + 1) / 2 if slow else 0.0


async def run(load: Load) -> float:
    """Kill the first smarthost under load, and return when."""
    clients = [asyncio.create_task(load.chat(number)) for number in range(CONNECTIONS)]
    await asyncio.sleep(BEFORE)
    await load.sinks[0].end()
    killed = time.monotonic()
    await asyncio.sleep(AFTER)
    load.is_over = True
    await asyncio.gather(*clients)
    return killed


async def test_no_client_sees_an_error_when_the_first_smarthost_is_killed(place: Path) -> None:
    async with loaded(place, priority=1) as load:
        killed = await run(load)
        usual, worst = percentile(load.replies, killed - 2, killed), percentile(load.replies, killed, killed + 0.5)
        back = recovery(load.replies, killed, max(2 * usual, 0.05))
        rate, doubted = len(load.replies) / (BEFORE + AFTER), len(load.relay.events("in_doubt"))
        print(
            f"{rate:.0f} messages/s; p99 {usual * 1e3:.0f} ms, in the half second of the kill {worst * 1e3:.0f} ms, normal after {back} s;"
        )
        print(f"{doubted} in doubt, {len(load.sinks[0].copies())} and {len(load.sinks[1].copies())} taken")
        assert {reply.sent.outcome for reply in load.replies} == {"taken"}
        assert percentile(load.replies, killed + AFTER / 2, killed + AFTER) < 10 * max(usual, 0.05)  # a bound for a busy machine
        assert len(load.relay.events("smarthost_down")) >= 1
        await load.close_account()


async def test_what_is_killed_and_comes_back_is_used_again(place: Path) -> None:
    async with loaded(place, priority=0) as load:
        load.replies.clear()
        clients = [asyncio.create_task(load.chat(number)) for number in range(5)]
        await asyncio.sleep(1)
        await load.sinks[0].end()
        before = len(load.sinks[0].copies())
        assert before > 0
        await load.relay.await_event("smarthost_down")
        await load.sinks[0].start()
        await until(lambda: len(load.sinks[0].copies()) > before, 30, "mail at the one that is back")
        await load.relay.await_event("smarthost_up", 30)  # it may be another worker's mail that was seen there
        load.is_over = True
        await asyncio.gather(*clients)
        assert {reply.sent.outcome for reply in load.replies} == {"taken"}
        await load.close_account()
