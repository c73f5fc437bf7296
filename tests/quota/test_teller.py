"""The teller forgets no charge: not when replies are lost, the store dies, its own process is killed or the disk is full."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relay.quota.ledger import Hold, Ledger, Refusal, Settlement, key
from relay.quota.limit import Rules, Usage
from relay.quota.table import SLOT, STEP, Charge, Table, read_table
from relay.quota.teller import Kept, Teller, recover
from relay.store.client import Store, StoreUnavailable
from relay.store.embedded import Embedded
from tests.quota import doomed
from tests.store.proxy import Proxy

ROOT = Path(__file__).parents[2]
USER = "ada"
Told = list[tuple[Charge, Settlement]]


class Desk:
    """A teller behind a wire that can lose replies, and what it told of the charges that had to wait."""

    def __init__(self, proxy: Proxy, store: Store, table: Path) -> None:
        self.proxy = proxy
        self.told: Told = []
        self.table = Table(table)
        self.teller = Teller(Ledger(store, Rules()), self.table, lambda charge, settlement: self.told.append((charge, settlement)))

    async def reserve(self, id: str) -> Hold:
        """Reserve one unit that fits."""
        answer = await self.teller.reserve(USER, id, 1, 1)
        assert isinstance(answer, Hold)
        return answer

    async def settled(self) -> None:
        """Wait until nothing is kept."""
        async with asyncio.timeout(10):
            while self.teller.kept:
                await asyncio.sleep(0.01)


async def acquainted(ledger: Ledger) -> Ledger:
    """Make the server know the scripts, so that each call is one request."""
    await ledger.reserve("nobody", "0", 1, 1)
    await ledger.settle("nobody", "0", 1, 0)
    return ledger


@pytest.fixture
async def book(store: Store) -> Ledger:
    """A second way to the ledger, which loses nothing; the user exists."""
    await store.command("HSET", key(USER), "status", "E", "ostatus", "E", "gen", 1, "hourly", 3, "total", "")
    return await acquainted(Ledger(store, Rules()))


@pytest.fixture
async def desk(book: Ledger, place: Path) -> AsyncIterator[Desk]:
    proxy = Proxy(str(place / "data" / "store.sock"))
    client = Store(await proxy.start(), timeout=0.3)
    desk = Desk(proxy, client, place / "w1.holds")
    yield desk
    proxy.mode = "pass"
    await desk.teller.close(5)
    await client.close()
    await proxy.stop()


async def usage(ledger: Ledger, user: str = USER) -> Usage:
    found = await ledger.usage(user)
    assert found is not None
    return found


# -- lost replies ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["swallow", "cut"])
async def test_a_charge_whose_reply_was_lost_is_replayed_and_counts_once(desk: Desk, book: Ledger, loss: str) -> None:
    hold = await desk.reserve("1")
    desk.proxy.mode = "cut" if loss == "cut" else "swallow"
    assert isinstance(await desk.teller.settle(hold, 1), Kept)
    assert desk.teller.kept == 1
    desk.proxy.mode = "pass"
    await desk.settled()
    assert [(charge.id, charge.accepted, settlement.outcome) for charge, settlement in desk.told] == [("1", 1, "done")]
    now = await usage(book)
    assert (now.taken, now.window, now.in_flight) == (1, 1, 0)


@pytest.mark.parametrize("loss", ["swallow", "cut"])
async def test_a_reserve_whose_reply_was_lost_is_released_and_costs_nothing(desk: Desk, book: Ledger, loss: str) -> None:
    await desk.teller.settle(await desk.reserve("0"), 0)  # the wire stands
    desk.proxy.mode = "cut" if loss == "cut" else "swallow"
    with pytest.raises(StoreUnavailable):
        await desk.teller.reserve(USER, "1", 1, 1)
    desk.proxy.mode = "withhold"  # before the release can be tried
    assert (await usage(book)).in_flight == 1
    desk.proxy.mode = "pass"
    await desk.settled()
    assert [(charge.id, charge.accepted, settlement.outcome) for charge, settlement in desk.told] == [("1", 0, "ok")]
    now = await usage(book)
    assert (now.taken, now.in_flight) == (0, 0)
    assert not read_table(desk.table.path)


async def test_nothing_is_reserved_before_the_kept_charges_are_answered(desk: Desk, book: Ledger) -> None:
    hold = await desk.reserve("1")
    desk.proxy.mode = "withhold"
    assert isinstance(await desk.teller.settle(hold, 1), Kept)
    with pytest.raises(StoreUnavailable, match="charges wait"):
        await desk.teller.reserve(USER, "2", 1, 1)
    desk.proxy.mode = "pass"
    attempts = 0
    while True:
        attempts += 1
        try:
            await desk.reserve("3")
        except StoreUnavailable:
            assert not desk.told
            assert (await usage(book)).in_flight <= 1
            await asyncio.sleep(0.01)
        else:
            break
    assert attempts > 1 and [settlement.outcome for _, settlement in desk.told] == ["ok"]
    now = await usage(book)
    assert (now.taken, now.in_flight) == (1, 1)


async def test_a_hold_that_is_checked_anew_during_an_outage_is_given_back_after_it(desk: Desk, book: Ledger) -> None:
    """The caller hears StoreUnavailable, gives up, and does not come back to settle."""
    first, second = await desk.reserve("1"), await desk.reserve("2")
    desk.proxy.mode = "withhold"
    assert isinstance(await desk.teller.settle(first, 1), Kept)
    with pytest.raises(StoreUnavailable):
        await desk.teller.reserve(USER, second.id, 1, 1)
    desk.proxy.mode = "pass"
    await desk.settled()
    now = await usage(book)
    assert (now.taken, now.in_flight) == (1, 0)
    assert not read_table(desk.table.path)


async def test_an_error_answer_does_not_stop_the_teller_for_good(desk: Desk, book: Ledger, store: Store) -> None:
    """A store that answers with errors (its ACL was changed, say) is asked again until it takes the charge."""
    hold = await desk.reserve("1")
    await store.command("RENAME", key(USER), f"{key(USER)}:aside")
    await store.command("SET", key(USER), "no book")
    assert isinstance(await desk.teller.settle(hold, 1), Kept)
    await asyncio.sleep(0.2)
    assert desk.teller.kept == 1
    await store.command("RENAME", f"{key(USER)}:aside", key(USER))
    await desk.settled()
    assert [(charge.id, settlement.outcome) for charge, settlement in desk.told] == [("1", "ok")]
    assert (await usage(book)).taken == 1


# -- the store dies --------------------------------------------------------------------------------------------------------------


async def test_a_charge_outlives_a_killed_store_and_counts_once(desk: Desk, server: Embedded, book: Ledger) -> None:
    before = await desk.reserve("1")
    await desk.teller.settle(before, 1)
    hold = await desk.reserve("2")
    os.kill(server.pid, signal.SIGKILL)
    assert isinstance(await desk.teller.settle(hold, 1), Kept)
    with pytest.raises(StoreUnavailable):
        await desk.teller.reserve(USER, "3", 1, 1)
    await desk.settled()
    assert [(charge.id, settlement.outcome) for charge, settlement in desk.told] == [("2", "ok")]
    now = await usage(book)
    assert (now.taken, now.window, now.in_flight) == (2, 2, 0)
    await desk.reserve("4")
    assert isinstance(await desk.teller.reserve(USER, "5", 1, 1), Refusal)


async def test_a_charge_that_the_store_never_took_stays_in_the_table_for_the_next_process(desk: Desk, book: Ledger) -> None:
    hold = await desk.reserve("1")
    desk.proxy.mode = "withhold"
    assert isinstance(await desk.teller.settle(hold, 1), Kept)
    await desk.teller.close(0.05)
    told: Told = []
    assert await recover(desk.table.path, book, lambda charge, settlement: told.append((charge, settlement))) == 1
    assert [(charge.id, settlement.outcome) for charge, settlement in told] == [("1", "ok")]
    assert (await usage(book)).taken == 1
    desk.teller = Teller(book, Table(desk.table.path), lambda charge, settlement: None)


# -- the process dies ------------------------------------------------------------------------------------------------------------


class Doomed:
    """A worker process of its own, behind a wire."""

    def __init__(self, process: asyncio.subprocess.Process, proxy: Proxy, table: Path) -> None:
        self.process, self.proxy, self.table = process, proxy, table

    async def hears(self, word: bytes) -> None:
        """Wait until it says so."""
        assert self.process.stdout is not None
        assert await asyncio.wait_for(self.process.stdout.readline(), 10) == word + b"\n"

    async def settles(self) -> None:
        """Tell it to settle, and wait until its request is on the wire."""
        assert self.process.stdin is not None
        self.proxy.requests = 0
        self.process.stdin.write(b"\n")
        async with asyncio.timeout(10):
            while not self.proxy.requests:
                await asyncio.sleep(0.005)

    async def dies(self) -> None:
        """Kill it."""
        self.process.kill()
        await self.process.communicate()


@pytest.fixture
async def worker(store: Store, place: Path) -> AsyncIterator[Doomed]:
    await store.command("HSET", key(doomed.USER), "status", "E", "ostatus", "E", "gen", 1, "hourly", 5, "total", "")
    await acquainted(Ledger(store, Rules(unit="recipients")))
    proxy = Proxy(str(place / "data" / "store.sock"))
    url, table = await proxy.start(), place / "holds" / "w1.holds"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.quota.doomed", url, str(table), cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    worker = Doomed(process, proxy, table)
    await worker.hears(b"reserved")
    yield worker
    if process.returncode is None:
        await worker.dies()
    await proxy.stop()


async def recovered(worker: Doomed, ledger: Ledger) -> list[tuple[int, str]]:
    """Recover the table; accepted units and outcome of each hold."""
    told: Told = []
    count = await recover(worker.table, ledger, lambda charge, settlement: told.append((charge, settlement)))
    assert count == len(told)
    assert not worker.table.exists()
    return [(charge.accepted, settlement.outcome) for charge, settlement in told]


async def test_a_worker_killed_between_reserve_and_its_mark_gives_its_hold_back(worker: Doomed, store: Store) -> None:
    ledger = Ledger(store, Rules(unit="recipients"))
    assert (await usage(ledger, doomed.USER)).in_flight == doomed.UNITS
    await worker.dies()
    assert await recovered(worker, ledger) == [(0, "ok")]
    now = await usage(ledger, doomed.USER)
    assert (now.taken, now.in_flight) == (0, 0)


async def test_a_worker_killed_between_its_mark_and_settle_is_charged(worker: Doomed, store: Store) -> None:
    ledger = Ledger(store, Rules(unit="recipients"))
    worker.proxy.mode = "withhold"
    await worker.settles()
    assert (await usage(ledger, doomed.USER)).in_flight == doomed.UNITS
    await worker.dies()
    assert await recovered(worker, ledger) == [(doomed.UNITS, "ok")]
    now = await usage(ledger, doomed.USER)
    assert (now.taken, now.in_flight) == (doomed.UNITS, 0)


async def test_a_worker_killed_after_a_settle_whose_reply_was_lost_is_charged_once(worker: Doomed, store: Store) -> None:
    ledger = Ledger(store, Rules(unit="recipients"))
    worker.proxy.mode = "swallow"
    await worker.settles()
    async with asyncio.timeout(10):
        while not (await usage(ledger, doomed.USER)).taken:
            await asyncio.sleep(0.005)
    await worker.dies()
    assert await recovered(worker, ledger) == [(doomed.UNITS, "done")]
    assert (await usage(ledger, doomed.USER)).taken == doomed.UNITS


async def test_recover_waits_while_the_process_still_lives(worker: Doomed, store: Store) -> None:
    waiting = asyncio.create_task(recovered(worker, Ledger(store, Rules(unit="recipients"))))
    done, _ = await asyncio.wait({waiting}, timeout=0.2)
    assert not done
    await worker.dies()
    assert await asyncio.wait_for(waiting, 5) == [(0, "ok")]


async def test_recover_of_a_table_that_its_process_removed_meanwhile_is_nothing(book: Ledger, place: Path) -> None:
    assert await recover(place / "gone.holds", book, lambda charge, settlement: None) == 0


async def test_recover_waits_for_a_killed_store(desk: Desk, server: Embedded, book: Ledger) -> None:
    hold = await desk.reserve("1")
    desk.table.mark(hold.user, hold.id, 1, 1, 0)
    other = desk.table.path.with_name("copy.holds")
    other.write_bytes(desk.table.path.read_bytes())
    os.kill(server.pid, signal.SIGKILL)
    told: Told = []
    assert await recover(other, book, lambda charge, settlement: told.append((charge, settlement))) == 1
    assert [settlement.outcome for _, settlement in told] == ["ok"]
    assert (await usage(book)).taken == 1


# -- the table -------------------------------------------------------------------------------------------------------------------


async def test_the_slots_of_the_table_are_used_again(desk: Desk) -> None:
    for number in range(40):
        await desk.teller.settle(await desk.reserve(f"a{number}"), 0)
    assert desk.table.path.stat().st_size == STEP
    holds = [await desk.reserve(f"b{number}") for number in range(3)]
    assert len(read_table(desk.table.path)) == 3
    assert isinstance(await desk.teller.reserve(USER, "c", 1, 1), Refusal)
    assert {charge.id for charge in read_table(desk.table.path)} == {"b0", "b1", "b2"}
    for hold in holds:
        await desk.teller.settle(hold, 0)
    assert desk.table.path.stat().st_size == STEP
    assert not read_table(desk.table.path)


@contextmanager
def file_size_limit(octets: int) -> Iterator[None]:
    """Let no file of this process grow beyond that: what does not fit is cut off, or fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [STEP, STEP + 100])
async def test_without_room_for_the_table_nothing_is_reserved(desk: Desk, book: Ledger, room: int) -> None:
    hold = await desk.reserve("1")
    for number in range(STEP // SLOT - 1):
        desk.table.enter(USER, f"full{number}", 1)
    with file_size_limit(room):
        for number in range(3):
            with pytest.raises(StoreUnavailable, match=r"w1\.holds"):
                await desk.teller.reserve(USER, f"x{number}", 1, 1)
        assert (await usage(book)).in_flight == 1
        assert isinstance(await desk.teller.settle(hold, 1), Settlement)  # what was reserved can still be charged
        await desk.teller.settle(await desk.reserve("2"), 0)
    for number in range(STEP // SLOT - 1):
        desk.table.clear(f"full{number}")
    # With room again, nothing of it is left behind.
    assert desk.teller.kept == 0
    await desk.reserve("3")
    await desk.reserve("4")
    assert {charge.id for charge in read_table(desk.table.path)} == {"3", "4"}
    assert desk.table.path.stat().st_size == STEP


async def test_where_the_table_has_no_blocks_nothing_is_reserved(book: Ledger, place: Path) -> None:
    (place / "full.holds.new").symlink_to("/dev/full")
    teller = Teller(book, Table(place / "full.holds"), lambda charge, settlement: None)
    with pytest.raises(StoreUnavailable, match=r"full\.holds"):
        await teller.reserve(USER, "1", 1, 1)
    assert (await usage(book)).in_flight == 0
    await teller.close(1)
