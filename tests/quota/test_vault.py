"""A charge outlives the machine: it is in the vault before the teller returns, gates the whole node, and is settled at the next start."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.quota.gate import Gate
from relay.quota.ledger import Hold, Ledger, Settlement, key
from relay.quota.limit import Rules
from relay.quota.table import Charge, Table
from relay.quota.teller import Kept, Teller, recover, replay_vault
from relay.store.client import Store, StoreUnavailable
from relay.store.embedded import Embedded
from tests.quota import doomed
from tests.quota.vault import Broken, FileVault
from tests.store.proxy import Proxy

ROOT = Path(__file__).parents[2]
USERS = ("ada", "bob")
Told = list[tuple[Charge, Settlement]]


class Node:
    """Two processes' tellers with one vault and one gate between them, each behind a wire of its own."""

    def __init__(self, place: Path, book: Ledger) -> None:
        self.place, self.book = place, book
        self.vault = FileVault(place / "vault.db")
        self.told: Told = []
        self.proxies: list[Proxy] = []
        self.stores: list[Store] = []
        self.tellers: list[Teller] = []
        self.gates: list[Gate] = []

    async def open(self) -> None:
        """Start both."""
        for number in range(2):
            proxy = Proxy(str(self.place / "data" / "store.sock"))
            store, gate = Store(await proxy.start(), timeout=0.3), Gate(self.place / "holds" / "pending")
            table = Table(self.place / "holds" / f"w{number}.holds")
            self.tellers.append(Teller(Ledger(store, Rules()), table, self.hear, self.vault, gate))
            self.proxies.append(proxy)
            self.stores.append(store)
            self.gates.append(gate)

    def hear(self, charge: Charge, settlement: Settlement) -> None:
        self.told.append((charge, settlement))

    @property
    def outcomes(self) -> list[tuple[str, int, str]]:
        """Id, accepted units and outcome of what had to wait."""
        return [(charge.id, charge.accepted, settlement.outcome) for charge, settlement in self.told]

    async def close(self) -> None:
        """Stop both in order."""
        for proxy, teller, store in zip(self.proxies, self.tellers, self.stores, strict=True):
            proxy.mode = "pass"
            await teller.close(3)
            await store.close()
            await proxy.stop()
        for gate in self.gates:
            gate.close()

    async def reserve(self, number: int, id: str, user: str = "ada") -> Hold:
        """Reserve one unit that fits."""
        answer = await self.tellers[number].reserve(user, id, 1, 1)
        assert isinstance(answer, Hold)
        return answer

    async def rows(self) -> list[str]:
        """The ids in the vault."""
        return [row[1] for row in await self.vault.charges()]

    async def at_rest(self) -> None:
        """Wait until nothing is kept and the vault is empty."""
        async with asyncio.timeout(10):
            while any(teller.kept for teller in self.tellers) or await self.rows():
                await asyncio.sleep(0.01)

    async def taken(self, user: str = "ada") -> tuple[int, int]:
        """Units ever taken, and in flight."""
        found = await self.book.usage(user)
        assert found is not None
        return found.taken, found.in_flight


@pytest.fixture
async def node(store: Store, place: Path) -> AsyncIterator[Node]:
    for user in USERS:
        await store.command("HSET", key(user), "status", "E", "ostatus", "E", "gen", 1, "hourly", 50, "total", "")
    book = Ledger(store, Rules())
    await book.reserve("nobody", "0", 1, 1)
    await book.settle("nobody", "0", 1, 0)
    node = Node(place, book)
    await node.open()
    yield node
    await node.close()


# -- durable charges -------------------------------------------------------------------------------------------------------------


async def test_a_charge_the_store_does_not_answer_is_in_the_vault_when_settle_returns(node: Node) -> None:
    hold = await node.reserve(0, "1")
    node.proxies[0].mode = "withhold"
    assert await node.tellers[0].settle(hold, 1, 0) == Kept(is_durable=True)
    assert await node.vault.charges() == [("ada", "1", 1, 1, 0)]
    node.proxies[0].mode = "pass"
    await node.at_rest()
    assert node.outcomes == [("1", 1, "ok")]
    assert await node.taken() == (1, 0)


async def test_a_release_need_not_be_durable_and_a_rejection_must(node: Node) -> None:
    holds = [await node.reserve(0, str(number)) for number in range(2)]
    node.proxies[0].mode = "withhold"
    kept = tuple(await asyncio.gather(*(node.tellers[0].settle(hold, 0, number) for number, hold in enumerate(holds))))
    assert kept == (Kept(is_durable=True), Kept(is_durable=True))
    assert await node.vault.charges() == [("ada", "1", 1, 0, 1)]


async def test_a_charge_that_the_vault_cannot_keep_is_at_risk_and_recorded_all_the_same(node: Node) -> None:
    hold = await node.reserve(0, "1")
    node.proxies[0].mode, node.vault.is_broken = "withhold", True
    assert await node.tellers[0].settle(hold, 1) == Kept(is_durable=False)
    node.proxies[0].mode = "pass"
    async with asyncio.timeout(10):
        while node.tellers[0].kept:
            await asyncio.sleep(0.01)
    assert await node.taken() == (1, 0)
    node.vault.is_broken = False


async def test_without_a_vault_a_charge_is_at_risk(node: Node, place: Path) -> None:
    proxy = Proxy(str(place / "data" / "store.sock"))
    store = Store(await proxy.start(), timeout=0.2)
    teller = Teller(Ledger(store, Rules()), Table(place / "bare.holds"), node.hear)
    hold = await teller.reserve("ada", "1", 1, 1)
    assert isinstance(hold, Hold)
    proxy.mode = "withhold"
    assert await teller.settle(hold, 1) == Kept(is_durable=False)
    proxy.mode = "pass"
    await teller.close(5)
    assert node.outcomes == [("1", 1, "ok")]
    await store.close()
    await proxy.stop()


async def test_answered_charges_are_forgotten_together_and_a_broken_vault_only_delays_that(node: Node) -> None:
    holds = [await node.reserve(0, str(number)) for number in range(40)]
    node.proxies[0].mode = "withhold"
    assert all(await asyncio.gather(*(node.tellers[0].settle(hold, 1) for hold in holds)))
    assert len(await node.rows()) == 40
    node.vault.is_broken = True
    node.proxies[0].mode = "pass"
    async with asyncio.timeout(10):
        while node.tellers[0].kept:
            await asyncio.sleep(0.01)
    await node.reserve(0, "next")  # what is only to be forgotten keeps nobody waiting
    node.vault.is_broken = False
    await node.at_rest()
    assert sum(map(len, node.vault.forgotten)) == 40 and len(node.vault.forgotten) < 10
    assert await node.taken() == (40, 1)


async def test_a_settle_that_is_cancelled_while_it_is_kept_is_not_lost(node: Node) -> None:
    hold = await node.reserve(0, "1")
    node.proxies[0].mode = "withhold"
    task = asyncio.create_task(node.tellers[0].settle(hold, 1))
    while not node.gates[1].is_shut():
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    node.proxies[0].mode = "pass"
    await node.at_rest()
    assert await node.taken() == (1, 0)


# -- the gate --------------------------------------------------------------------------------------------------------------------


async def test_no_process_of_the_node_reserves_while_one_has_charges_pending(node: Node) -> None:
    hold = await node.reserve(0, "1")
    node.proxies[0].mode = "withhold"
    await node.tellers[0].settle(hold, 1)
    for number in range(2):
        with pytest.raises(StoreUnavailable, match="charges wait"):
            await node.tellers[number].reserve("bob", f"x{number}", 1, 1)
    node.proxies[0].mode = "pass"
    await node.at_rest()
    await node.reserve(1, "2", "bob")
    assert not node.gates[0].is_shut()


async def test_a_release_that_waits_keeps_only_its_own_process_from_reserving(node: Node) -> None:
    hold = await node.reserve(0, "1")
    node.proxies[0].mode = "withhold"
    await node.tellers[0].settle(hold, 0)
    with pytest.raises(StoreUnavailable):
        await node.tellers[0].reserve("bob", "2", 1, 1)
    await node.reserve(1, "3", "bob")


async def test_a_charge_that_is_refused_for_one_user_bars_that_user_alone(node: Node, store: Store) -> None:
    hold = await node.reserve(0, "1")
    await store.command("RENAME", key("ada"), f"{key('ada')}:aside")
    await store.command("SET", key("ada"), "no book")
    assert await node.tellers[0].settle(hold, 1) == Kept(is_durable=True)
    assert not node.gates[0].is_shut()
    for number in range(2):
        await node.reserve(number, f"b{number}", "bob")
    with pytest.raises(StoreUnavailable, match="charges wait"):
        await node.tellers[0].reserve("ada", "2", 1, 1)
    assert await node.rows() == ["1"]
    await store.command("RENAME", f"{key('ada')}:aside", key("ada"))
    await node.at_rest()
    assert await node.taken() == (1, 0)


async def test_a_store_killed_under_both_processes_is_not_reserved_from_before_both_are_answered(node: Node, server: Embedded) -> None:
    holds = [await node.reserve(number, str(number)) for number in range(2)]
    os.kill(server.pid, signal.SIGKILL)
    kept = await asyncio.gather(*(teller.settle(hold, 1) for teller, hold in zip(node.tellers, holds, strict=True)))
    assert kept == [Kept(is_durable=True), Kept(is_durable=True)]
    async with asyncio.timeout(10):
        while True:
            try:
                await node.reserve(0, "2")
            except StoreUnavailable:
                await asyncio.sleep(0.005)
            else:
                break
    assert await node.taken() == (2, 1)  # both were recorded before
    await node.at_rest()


# -- after a death ---------------------------------------------------------------------------------------------------------------


async def test_a_dead_process_keeps_the_gate_shut_until_its_table_is_settled(node: Node) -> None:
    hold = await node.reserve(0, "1")
    node.proxies[0].mode = "withhold"
    await node.tellers[0].settle(hold, 1)
    await node.tellers[0].close(0)  # what a kill leaves: the table, the flag and the row
    assert node.gates[1].is_shut() and await node.rows() == ["1"]
    count = await recover(node.place / "holds" / "w0.holds", node.book, node.hear, node.vault.charged, node.vault, node.gates[1])
    assert (count, node.outcomes) == (1, [("1", 1, "ok")])
    assert not node.gates[1].is_shut() and await node.rows() == []
    await node.reserve(1, "2")
    node.tellers[0] = Teller(node.book, Table(node.place / "holds" / "w0.holds"), node.hear)


async def test_the_gate_is_shut_while_the_charges_of_a_dead_process_wait_for_the_store(node: Node, place: Path) -> None:
    await node.reserve(0, "1")
    path = place / "holds" / "dead.holds"
    path.write_bytes(Charge("ada", "1", 1, 1, 0).line())
    node.proxies[1].mode = "withhold"
    ledger = node.tellers[1].ledger
    task = asyncio.create_task(recover(path, ledger, node.hear, gate=node.gates[1]))
    async with asyncio.timeout(10):
        while not node.gates[0].is_shut():
            await asyncio.sleep(0.01)
    assert node.gates[0].names() == ["dead"]
    node.proxies[1].mode = "pass"
    assert await asyncio.wait_for(task, 10) == 1
    assert not node.gates[0].is_shut()
    assert await node.taken() == (1, 0)


@pytest.mark.parametrize("is_broken", [False, True])
async def test_a_worker_killed_between_the_spool_and_settle_is_charged(store: Store, place: Path, is_broken: bool) -> None:
    await store.command("HSET", key(doomed.USER), "status", "E", "ostatus", "E", "gen", 1, "hourly", 5, "total", "")
    vault, table = FileVault(place / "spool.db"), place / "holds" / "w1.holds"
    url = f"unix://{place / 'data' / 'store.sock'}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.quota.doomed", url, str(table), str(vault.path), cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stdin is not None
    assert await asyncio.wait_for(process.stdout.readline(), 10) == b"reserved\n"
    process.stdin.write(b"\n")
    assert await asyncio.wait_for(process.stdout.readline(), 10) == b"spooled\n"
    process.kill()
    await process.communicate()
    told: Told = []
    ledger = Ledger(store, Rules(unit="recipients"))
    vault.is_broken = is_broken
    task = asyncio.create_task(recover(table, ledger, lambda charge, settlement: told.append((charge, settlement)), vault.charged))
    if is_broken:  # the spool must be asked, so it is waited for
        done, _ = await asyncio.wait({task}, timeout=0.2)
        assert not done and not told
        vault.is_broken = False
    assert await asyncio.wait_for(task, 10) == 1
    assert [(charge.id, charge.units, charge.accepted, settlement.outcome) for charge, settlement in told] == [("w1.1", 2, 1, "ok")]
    usage = await ledger.usage(doomed.USER)
    assert usage is not None and (usage.taken, usage.in_flight) == (1, 0)


async def test_a_row_of_the_vault_counts_where_the_table_lost_its_mark(node: Node, place: Path) -> None:
    await node.reserve(0, "1")
    await node.vault.keep_charge("ada", "1", 1, 1, 0)
    path = place / "holds" / "dead.holds"
    path.write_bytes(Charge("ada", "1", 1, 0, 0).line())
    assert await recover(path, node.book, node.hear, node.vault.charged, node.vault) == 1
    assert node.outcomes == [("1", 1, "ok")] and await node.rows() == []


async def test_after_a_power_failure_the_vault_is_settled_before_anything_else(node: Node, store: Store) -> None:
    holds = [await node.reserve(0, str(number)) for number in range(3)]
    await node.reserve(0, "b", "bob")
    for hold in holds:
        await node.vault.keep_charge("ada", hold.id, 1, 1, 0)
    await node.vault.keep_charge("bob", "b", 1, 0, 1)
    node.proxies[1].mode = "withhold"
    node.vault.is_broken = True
    task = asyncio.create_task(replay_vault(node.vault, node.tellers[1].ledger, node.hear))
    await asyncio.sleep(0.1)
    node.vault.is_broken = False
    await asyncio.sleep(0.5)
    assert not task.done() and not node.told
    node.proxies[1].mode = "pass"
    assert await asyncio.wait_for(task, 10) == []
    assert sorted(node.outcomes) == [("0", 1, "ok"), ("1", 1, "ok"), ("2", 1, "ok"), ("b", 0, "ok")]
    assert await node.rows() == [] and await node.taken() == (3, 0)
    # A row that was answered before costs nothing more.
    await node.vault.keep_charge("ada", "0", 1, 1, 0)
    assert await replay_vault(node.vault, node.book, node.hear) == []
    assert node.outcomes[-1] == ("0", 1, "done") and await node.taken() == (3, 0)


async def test_a_row_that_is_refused_for_its_user_stays_in_the_vault(node: Node, store: Store) -> None:
    await node.reserve(0, "b", "bob")
    await node.vault.keep_charge("ada", "a", 1, 1, 0)
    await node.vault.keep_charge("bob", "b", 1, 1, 0)
    await store.command("DEL", key("ada"))
    await store.command("SET", key("ada"), "no book")
    assert await replay_vault(node.vault, node.book, node.hear) == [Charge("ada", "a", 1, 1, 0)]
    assert await node.rows() == ["a"] and await node.taken("bob") == (1, 0)


async def test_a_broken_vault_says_so_to_its_caller(node: Node) -> None:
    """The vault of these tests fails as one would."""
    node.vault.is_broken = True
    with pytest.raises(Broken):
        await node.vault.charges()
