"""The teller: one process's use of the ledger, with its promises kept while the store is away and after its own death.

Promises:
- A charge is never forgotten: if the store does not answer a settle in time, it is written to the vault (which outlives the machine)
  before `settle` returns, kept and repeated until answered. Until then nothing is reserved, here nor by any other process of this
  node: what is open in the store may be ours to close first. A charge that the store refuses for one user bars that user alone.
- Capacity held by a process that was killed comes back at once: before a hold can exist in the store it is written to a table in
  a file (which outlives the process, not the machine: then the lease ends it), and what the smarthost has taken is marked there
  before the settle is sent. `recover` settles what the table shows, with the charge for what was marked, and for what had reached
  the spool before it could be marked.
- After a power failure `replay_vault` settles what the vault holds.

Without a vault a charge is only as safe as the table; who answers the client is told so (`Kept`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from relay.quota.gate import Gate
from relay.quota.ledger import Hold, Ledger, Refusal, Settlement
from relay.quota.table import Charge, Table, dead, read_table
from relay.store.client import StoreRefused, StoreUnavailable

_AT_ONCE = 256
"""Charges that are settled, or rows that are forgotten, side by side."""

Answer = TypeVar("Answer")
OnSettled = Callable[[Charge, Settlement], None]
Charged = Callable[[Sequence[str]], Awaitable[Mapping[str, tuple[str, int, int]]]]
"""Asks the spool which of these ids it has an entry of: user, units and accepted units by id."""


class Vault(Protocol):
    """Where charges are kept that the store could not be told of. Any exception means that it was not done."""

    async def keep_charge(self, user: str, id: str, units: int, accepted: int, rejected: int) -> None:
        """Keep one; durable on return. The same id again changes nothing or replaces it."""

    async def forget_charges(self, ids: Sequence[str]) -> None:
        """Drop these, as far as they are kept."""

    async def charges(self) -> Sequence[tuple[str, str, int, int, int]]:
        """All that are kept: user, id, units, accepted, rejected."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The store did not answer a settle: it is kept, and repeated until answered."""

    is_durable: bool
    """It outlives this process and the machine, or there is nothing in it to be lost: a release only gives capacity back."""


class Teller:
    """Reserves and settles for one process."""

    def __init__(self, ledger: Ledger, table: Table, on_settled: OnSettled, vault: Vault | None = None, gate: Gate | None = None) -> None:
        """`on_settled` hears of each charge that had to wait. At the gate the process goes by the name of its table."""
        self.ledger = ledger
        self._table = table
        self._on_settled = on_settled
        self._vault = vault
        self._gate = gate
        self._name = table.path.stem
        self._kept: deque[Charge] = deque()
        self._odd: deque[Charge] = deque()
        self._answered: list[str] = []
        self._writing = 0
        self._replay: asyncio.Task[None] | None = None
        self._forgetting: asyncio.Task[None] | None = None
        self._open()  # a name the gate cannot take is told now, not when a charge waits

    @property
    def kept(self) -> int:
        """How many settles wait for the store."""
        return len(self._kept) + len(self._odd) + self._writing

    async def reserve(self, user: str, id: str, units: int, generation: int) -> Hold | Refusal:
        """Hold capacity for a message, or say why not; raises StoreUnavailable, then nothing may be sent under this id."""
        problem = None
        if self._kept or self._writing or self._odd or (self._gate is not None and self._gate.is_shut()):
            problem = self._bar(user)
        if problem is None:
            try:
                self._table.enter(user, id, units)
            except OSError as error:
                problem = f"{self._table.path}: {error.strerror}"
        if problem is not None:
            if id in self._table:
                self._keep(Charge(user, id, units, 0, 0))  # it was reserved before, and the caller will not come back for it
            raise StoreUnavailable(problem)
        try:
            answer = await self.ledger.reserve(user, id, units, generation)
        except BaseException:
            self._keep(Charge(user, id, units, 0, 0))  # the hold may exist: its reply was lost
            raise
        if isinstance(answer, Refusal):
            self._table.clear(id)
        return answer

    def _bar(self, user: str) -> str | None:
        """What bars a user while charges wait; None if they are others' that the store refuses (a damaged book): these bar them alone."""
        is_shut = self._kept or self._writing or (self._gate is not None and self._gate.is_shut())
        return "charges wait to be recorded first" if is_shut or any(odd.user == user for odd in self._odd) else None

    async def settle(self, hold: Hold, accepted: int, rejected: int = 0) -> Settlement | Kept:
        """Take or release what was held; Kept if the store did not answer: the charge will be recorded when it does."""
        user, id, units, _, _ = hold
        if accepted or rejected:
            try:  # noqa: SIM105 - `suppress` is three calls a message
                self._table.mark(user, id, units, accepted, rejected)
            except OSError:
                pass  # memory still has it: only a kill at this very moment could lose it
        try:
            settlement = await self.ledger.settle(user, id, units, accepted, rejected)
        except StoreUnavailable:
            return await self._keep_durably(Charge(user, id, units, accepted, rejected), self._kept)
        except StoreRefused:
            return await self._keep_durably(Charge(user, id, units, accepted, rejected), self._odd)
        except BaseException:
            self._keep(Charge(user, id, units, accepted, rejected))
            raise
        self._table.clear(id)
        return settlement

    # -- what the store did not answer ---------------------------------------------------------------------------------------

    async def _keep_durably(self, charge: Charge, where: deque[Charge]) -> Kept:
        """Keep a settle; if there is anything to charge, it is in the vault on return, as far as that can be had."""
        if not charge.is_due:
            self._keep(charge, where)
            return Kept(is_durable=True)
        if where is self._kept:
            self._shut()
        self._writing += 1
        is_durable = False
        try:
            # Not before it is in the vault is it kept for the replay, which would take it out there again.
            if self._vault is not None:
                await self._vault.keep_charge(charge.user, charge.id, charge.units, charge.accepted, charge.rejected)
                is_durable = True
        except Exception:
            is_durable = False  # whose fault it is, the vault's own calls tell: here it is only not durable
        finally:
            self._writing -= 1
            self._keep(charge, where)
        return Kept(is_durable)

    def _keep(self, charge: Charge, where: deque[Charge] | None = None) -> None:
        where = self._kept if where is None else where
        where.append(charge)
        if charge.is_due and where is self._kept:
            self._shut()
        if self._replay is None or self._replay.done():
            self._replay = asyncio.get_running_loop().create_task(self._replay_kept())

    def _shut(self) -> None:
        if self._gate is not None:
            self._gate.shut(self._name)

    def _open(self) -> None:
        if self._gate is not None and not self._kept and not self._writing:
            self._gate.open(self._name)

    async def _replay_kept(self) -> None:
        pause = 0.05
        while waiting := self._kept or self._odd:
            charge = waiting[0]
            try:
                settlement = await self.ledger.settle(charge.user, charge.id, charge.units, charge.accepted, charge.rejected)
            except StoreUnavailable:
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
            except StoreRefused:
                self._odd.append(waiting.popleft())
                self._open()
                if not self._kept:
                    await asyncio.sleep(1.0)
            else:
                waiting.popleft()
                pause = 0.05
                self._table.clear(charge.id)
                self._open()
                if charge.is_due and self._vault is not None:
                    self._answered.append(charge.id)
                    if self._forgetting is None or self._forgetting.done():
                        self._forgetting = asyncio.get_running_loop().create_task(self._forget(self._vault))
                self._on_settled(charge, settlement)

    async def _forget(self, vault: Vault) -> None:
        """Take what the store has answered for out of the vault; what stays is settled once more at a start, without effect."""
        while these := self._answered[:_AT_ONCE]:
            try:
                await vault.forget_charges(these)
            except Exception:
                await asyncio.sleep(1.0)
            else:
                del self._answered[: len(these)]

    async def close(self, patience: float) -> None:
        """Give the kept charges `patience` seconds; what is left stays in the table for `recover`."""
        end = time.monotonic() + patience
        await _wait(self._replay, patience)
        await _wait(self._forgetting, end - time.monotonic())
        self._table.close()


async def _wait(task: asyncio.Task[None] | None, patience: float) -> None:
    if task is not None and not task.done():
        await asyncio.wait({task}, timeout=max(0.0, patience))
        task.cancel()


async def recover(
    path: Path, ledger: Ledger, on_settled: OnSettled, charged: Charged | None = None, vault: Vault | None = None, gate: Gate | None = None
) -> int:
    """Settle what the table of a dead process shows, remove it, and return how many holds there were.

    A hold for which nothing is marked is charged for what the vault or the spool's entry says, and released if neither knows it: the
    process may have been killed between the spool's promise and its mark. Waits for the process to be dead (one whose supervisor was
    killed may still be draining), for the spool where it must be asked, and for the store. The gate is opened in the name of the table
    when nothing is left to be charged, and shut if the store is away before.
    """
    if not path.exists():
        return 0
    await dead(path)
    charges = await asyncio.to_thread(read_table, path) if path.exists() else []  # else its process ended in order
    estate = _Estate(ledger, on_settled, gate, path.stem)
    unmarked = [charge for charge in charges if not charge.is_due]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(estate.settle([charge for charge in charges if charge.is_due]))
        if unmarked:
            tasks.create_task(estate.settle_unmarked(unmarked, charged, vault))
    if vault is not None and charges:
        with suppress(Exception):  # what stays is settled once more at the next start, without effect
            await vault.forget_charges([charge.id for charge in charges])
    path.unlink(missing_ok=True)
    if gate is not None:
        gate.open(path.stem)
    return len(charges)


class _Estate:
    """What a dead process left to be settled."""

    def __init__(self, ledger: Ledger, on_settled: OnSettled, gate: Gate | None, name: str) -> None:
        self._ledger = ledger
        self._on_settled = on_settled
        self._gate = gate
        self._name = name
        self._away: set[str] = set()

    async def settle(self, charges: Sequence[Charge]) -> None:
        """Settle these, however long the store is away; the gate is shut while it is."""
        pause = 0.05
        left = list(charges)
        while left:
            away, refused = await _try_all(left, self._ledger, self._on_settled)
            self._tell_gate(left, away)
            left = away + refused
            if left:
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)

    async def settle_unmarked(self, unmarked: Sequence[Charge], charged: Charged | None, vault: Vault | None) -> None:
        """Settle holds for which nothing is marked: what vault or spool say of them is charged, the rest is released."""
        known: dict[str, tuple[int, int]] = {}
        if charged is not None:
            ids = [charge.id for charge in unmarked]
            known |= {id: (entry[2], 0) for id, entry in (await _insist(partial(charged, ids))).items()}
        if vault is not None:
            known |= {row[1]: (row[3], row[4]) for row in await _insist(vault.charges)}
        marks = (known.get(charge.id, (0, 0)) for charge in unmarked)
        await self.settle([replace(charge, accepted=mark[0], rejected=mark[1]) for charge, mark in zip(unmarked, marks, strict=True)])

    def _tell_gate(self, tried: Sequence[Charge], away: Sequence[Charge]) -> None:
        self._away -= {charge.id for charge in tried}
        self._away |= {charge.id for charge in away if charge.is_due}
        if self._gate is not None and self._away:
            self._gate.shut(self._name)
        elif self._gate is not None:
            self._gate.open(self._name)


async def replay_vault(vault: Vault, ledger: Ledger, on_settled: OnSettled) -> list[Charge]:
    """Settle what the vault keeps: at the start of a node, before anything is reserved. After a power failure it is all there is.

    Waits for vault and store. Returns what the store refuses for its user: it stays in the vault, to be tried again later.
    """
    pause = 0.05
    left = [Charge(*row) for row in await _insist(vault.charges)]
    refused: list[Charge] = []
    while left:
        away, again = await _try_all(left, ledger, on_settled)
        refused += again
        missing = {charge.id for charge in away + again}
        answered = [charge.id for charge in left if charge.id not in missing]
        for i in range(0, len(answered), _AT_ONCE):
            with suppress(Exception):  # what stays is settled once more at the next start, without effect
                await vault.forget_charges(answered[i : i + _AT_ONCE])
        left = away
        if left:
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)
    return refused


async def _insist(call: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask until it is answered."""
    pause = 0.05
    while True:
        try:
            return await call()
        except Exception:
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)


async def _try_all(charges: Sequence[Charge], ledger: Ledger, on_settled: OnSettled) -> tuple[list[Charge], list[Charge]]:
    """Settle these once; returns those the store did not answer for, and those it refused."""
    away, refused = [], []
    for i in range(0, len(charges), _AT_ONCE):
        part = charges[i : i + _AT_ONCE]
        calls = [ledger.settle(c.user, c.id, c.units, c.accepted, c.rejected) for c in part]
        for charge, answer in zip(part, await asyncio.gather(*calls, return_exceptions=True), strict=True):
            match answer:
                case StoreUnavailable():
                    away.append(charge)
                case StoreRefused():
                    refused.append(charge)
                case BaseException():
                    raise answer
                case _:
                    on_settled(charge, answer)
    return away, refused
