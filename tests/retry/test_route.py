"""By which route what waits goes out, and that a route that leads nowhere is in nobody else's way."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from dataclasses import replace

from relay.accounts.arranging import Arranging
from relay.accounts.directory import Directory
from relay.accounts.secrets import Key
from relay.journal import Journal
from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from relay.mail.envelope import Envelope, Recipient
from relay.spool.entry import Entry
from relay.spool.spool import Spool
from relay.store.client import Store
from tests.retry.conftest import SCHEDULE, Bench, Starting
from tests.running import free_port

SILENT = "connect stall=30"
BUSY = 'rcpt match=to@* reply="450 4.2.0 busy"'
REFUSED = 'rcpt match=to@* reply="550 5.1.1 no such user"'


async def left(bench: Bench) -> list[Entry]:
    return [entry async for page in bench.spool.pages() for entry in page]


async def test_mail_goes_by_the_setting_of_its_senders_domain(bench: Bench, retrying: Starting, theirs: Sink) -> None:
    id = await bench.set_route(theirs.port, "example.com")
    await bench.put(route=id)
    await bench.put(sender="app@EXAMPLE.com", route=id)
    await bench.put(sender="app@other.example")
    async with retrying():
        await bench.until_gone()
    assert (theirs.intake.answered, bench.sink.intake.answered) == (2, 1)


async def test_mail_taken_under_the_relays_own_goes_by_the_owners_setting_once_there_is_one(
    bench: Bench, retrying: Starting, theirs: Sink
) -> None:
    for _ in range(30):
        await bench.put()
    await bench.put(sender="app@other.example")
    await bench.set_route(theirs.port, "example.com")
    async with retrying():
        await bench.until_gone()
    assert (theirs.intake.answered, bench.sink.intake.answered) == (30, 1)


async def test_so_it_does_while_the_relays_own_smarthost_is_away(bench: Bench, retrying: Starting, theirs: Sink) -> None:
    for _ in range(30):
        await bench.put(sender="app@other.example")
    await bench.put()
    async with retrying(port=free_port()):
        await bench.until(lambda: bool(bench.events("deferred")))
        await bench.set_route(theirs.port, "example.com")
        await bench.until(lambda: theirs.intake.answered == 1)
    assert {entry.route for entry in await left(bench)} == {""}


async def test_a_changed_setting_holds_for_what_waits_already_and_at_once(bench: Bench, retrying: Starting, theirs: Sink) -> None:
    id = await bench.set_route(free_port())
    for _ in range(10):
        await bench.put(route=id)
    async with retrying():
        await bench.until(lambda: bool(bench.events("deferred")))
        assert await bench.set_route(theirs.port) == id
        await bench.until_gone()
    assert (theirs.intake.answered, bench.sink.intake.answered) == (10, 0)


async def test_mail_of_a_deleted_route_is_held_until_there_is_one_again(bench: Bench, retrying: Starting, theirs: Sink) -> None:
    id = await bench.set_route(theirs.port, "example.com")
    for _ in range(5):
        await bench.put(route=id)
    assert await bench.arranging.remove_setting(bench.user.owner_id, "example.com")
    async with retrying():
        await bench.until(lambda: len(bench.events("held")) == 5)
        await bench.set_route(theirs.port, "other.example")  # of no use to it
        await asyncio.sleep(0.4)
        assert {(entry.held, entry.route) for entry in await left(bench)} == {("route", id)}
        await bench.set_route(theirs.port)  # the owner's default
        await bench.until_gone()
    assert {line["reason"] for line in bench.events("held", "unheld")} == {"route"}
    assert len(bench.events("unheld")) == 5
    assert (theirs.intake.answered, bench.sink.intake.answered) == (5, 0)


async def test_the_report_on_mail_of_a_route_goes_by_it_too_or_is_held(bench: Bench, retrying: Starting, theirs: Sink) -> None:
    id = await bench.set_route(theirs.port, "example.com")
    theirs.script = Script.parse((REFUSED,))
    await bench.put(route=id)
    async with retrying():
        await bench.until_gone()
        assert [message.sender for message in theirs.messages] == [""]
        theirs.script = Script.parse((REFUSED, 'rcpt reply="450 4.2.0 busy"'))
        await bench.put(route=id)
        await bench.until(lambda: len(bench.events("reported")) == 2)
        assert await bench.arranging.remove_setting(bench.user.owner_id, "example.com")
        await bench.until(lambda: bool(bench.events("held")))
    [report] = await left(bench)
    assert (report.kind, report.held, report.route) == ("dsn", "route", id)
    assert bench.sink.intake.answered == 0


async def test_a_smarthost_that_is_away_costs_one_attempt_now_and_then_and_the_others_nothing(
    bench: Bench, retrying: Starting, theirs: Sink
) -> None:
    away, here = bench.user, await bench.another()
    id = await bench.set_route(free_port())
    for _ in range(200):
        await bench.put(route=id, is_settled=True)
    bench.user = here
    async with retrying():
        await bench.until(lambda: bool(bench.events("deferred")))
        for _ in range(20):
            await bench.put()
        began = time.monotonic()
        await bench.until(lambda: bench.sink.intake.answered == 20)
        assert time.monotonic() - began < 5.0
    still = await left(bench)
    assert {entry.user for entry in still} == {away.name}
    assert sum(entry.attempts > 1 for entry in still) < 20


async def test_smarthosts_that_never_answer_leave_a_session_for_the_others(bench: Bench, retrying: Starting, theirs: Sink) -> None:
    theirs.script = Script.parse(("dot stall=30",))
    for _ in range(2):
        bench.user = await bench.another()
        id = await bench.set_route(theirs.port)
        for _ in range(30):
            await bench.put(route=id, is_settled=True)
    bench.user = await bench.another()
    async with retrying(sessions=4):
        await bench.until(lambda: theirs.intake.connections >= 2)
        await asyncio.sleep(0.3)
        await bench.put()
        began = time.monotonic()
        await bench.until(lambda: bench.sink.intake.answered == 1)
        assert time.monotonic() - began < 5.0


async def test_so_they_do_where_they_are_all_one_owners(bench: Bench, retrying: Starting, theirs: Sink) -> None:
    theirs.script = Script.parse(("dot stall=30",))
    for number in range(9):
        id = await bench.set_route(theirs.port, f"d{number}.example")
        for _ in range(3):
            await bench.put(sender=f"x@d{number}.example", route=id, is_settled=True)
    async with retrying():
        await bench.until(lambda: theirs.intake.connections >= 7)
        await asyncio.sleep(0.3)
        bench.user = await bench.another()
        id = await bench.set_route(bench.sink.port)
        await bench.put(sender="app@other.example", route=id)
        began = time.monotonic()
        await bench.until(lambda: bench.sink.intake.answered == 1)
        assert time.monotonic() - began < 5.0


class Sorting(Spool):
    """Has one entry put elsewhere just before the first claim, as who still goes by older settings does."""

    is_done = False

    async def claim(self, ids: Sequence[str], lease: float, due: float) -> list[Entry]:
        """As ever, but for that."""
        if not self.is_done:
            self.is_done = True
            [owner] = {pile.owner for pile in await self.piles()}
            await self.sort((await self.seqs_of(owner))[:1], lambda _: "f" * 24)
        return await super().claim(ids, lease, due)


async def test_an_entry_that_is_elsewhere_when_it_is_claimed_is_let_go_and_goes_on(bench: Bench, retrying: Starting, theirs: Sink) -> None:
    id = await bench.set_route(theirs.port)
    for _ in range(3):
        await bench.put(route=id)
    async with retrying(opened=Sorting):
        await bench.until_gone()
    assert (theirs.intake.answered, bench.events("bug"), bench.events("killed_in_flight")) == (3, [], [])


async def test_piles_of_all_owners_drain_side_by_side(bench: Bench, retrying: Starting) -> None:
    bench.script("dot stall=0.02")
    first = bench.user
    for _ in range(150):
        await bench.put(is_settled=True)
    bench.user = await bench.another()
    for _ in range(5):
        await bench.put()
    async with retrying():
        await bench.until(lambda: sum(int(line["id"][2:]) > 150 for line in bench.events("delivered")) == 5)
        assert sum(entry.user == first.name for entry in await left(bench)) > 50
        await bench.until_gone()


async def test_a_setting_without_a_smarthost_costs_no_attempt_and_is_told_of_once(bench: Bench, retrying: Starting, theirs: Sink) -> None:
    given = await bench.arranging.put_setting(bench.user.owner_id, "", (), {"name": "nothing of use"})
    assert given is not None
    for _ in range(3):
        await bench.put(route=given[0].id)
    async with retrying():
        await bench.until(lambda: bool(bench.events("route_unusable")))
        await asyncio.sleep(1.2)
        [told] = bench.events("route_unusable")
        assert (told["owner"], told["error"]) == (bench.user.owner_id, "it names no smarthost")
        assert {(entry.attempts, entry.claimed_by, entry.held) for entry in await left(bench)} == {(1, "", "")}
        await bench.set_route(theirs.port)
        await bench.until_gone()
    assert (theirs.intake.answered, bench.sink.intake.answered, bench.events("deferred")) == (3, 0, [])


async def test_it_is_given_up_in_its_time_all_the_same(bench: Bench, retrying: Starting) -> None:
    given = await bench.arranging.put_setting(bench.user.owner_id, "", (), {"name": "nothing of use"})
    assert given is not None
    await bench.put(route=given[0].id)
    async with retrying(schedule=replace(SCHEDULE, expire=0.5), overdue=0.1):
        await bench.until(lambda: bool(bench.events("reported")))
    assert [(entry.kind, entry.route) for entry in await left(bench)] == [("dsn", given[0].id)]


async def test_an_owner_whose_settings_cannot_be_read_is_in_nobodys_way(
    bench: Bench, retrying: Starting, store: Store, theirs: Sink
) -> None:
    own = bench.arranging
    key = Key(bytes(32))  # not the relay's
    bench.arranging = Arranging(store, key, Directory(store, key), Journal(1, "test"))
    id = await bench.set_route(theirs.port)
    for _ in range(30):
        await bench.put(route=id, is_settled=True)
        await bench.put(is_settled=True)
    poor, bench.user = bench.user, await bench.another()
    await bench.put()
    async with retrying():
        await bench.until(lambda: bench.sink.intake.answered == 1 and bool(bench.events("route_unusable")))
        await asyncio.sleep(0.5)
        assert (theirs.intake.answered, bench.sink.intake.answered, bench.events("bug")) == (0, 1, [])
        assert [line["owner"] for line in bench.events("route_unusable")] == [poor.owner_id]
        assert len(await left(bench)) == 60
        bench.arranging, bench.user = own, poor
        await bench.set_route(theirs.port)
        await bench.until_gone()
    assert theirs.intake.answered == 60


async def test_a_route_that_comes_back_meets_one_session_and_no_herd(bench: Bench, retrying: Starting, theirs: Sink) -> None:
    id = await bench.set_route(theirs.port)
    for _ in range(30):
        await bench.put(route=id)
    await theirs.stop()
    async with retrying():
        await bench.until(lambda: bool(bench.events("deferred")))
        theirs.script = Script.parse(("dot first=1 stall=0.4",))
        await theirs.start()
        await bench.until(lambda: theirs.intake.connections > 0)
        await asyncio.sleep(0.2)
        assert theirs.intake.connections == 1
        await bench.until_gone()
    assert theirs.intake.answered == 30


async def test_a_route_of_few_connections_is_not_asked_for_more(bench: Bench, retrying: Starting, theirs: Sink) -> None:
    id = await bench.set_route(theirs.port, max_connections=2)
    for _ in range(20):
        await bench.put(route=id)
    async with retrying():
        await bench.until_gone()
    assert theirs.intake.connections <= 2


async def test_a_null_senders_mail_goes_by_the_owners_default(bench: Bench, retrying: Starting, theirs: Sink) -> None:
    await bench.set_route(theirs.port)
    await bench.put(envelope=Envelope("", (Recipient("to@example.net"),)))
    async with retrying():
        await bench.until_gone()
    assert theirs.intake.answered == 1


async def test_a_blackhole_holds_up_nobody_else(bench: Bench, retrying: Starting) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as mute:  # takes connections and says nothing
        id = await bench.set_route(mute.getsockname()[1])
        for _ in range(50):
            await bench.put(route=id, is_settled=True)
        bench.user = await bench.another()
        await bench.put()
        async with retrying():
            began = time.monotonic()
            await bench.until(lambda: bench.sink.intake.answered == 1)
            assert time.monotonic() - began < 5.0
