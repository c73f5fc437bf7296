"""The changes that a scenario plans, made through the API while the load runs, each recorded with the instants around it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from relay.loadkit.change import Change
from relay.loadkit.generator import Load
from relay.loadkit.provision import Clerk, ProvisionError
from relay.loadkit.scenario import Planned
from relay.loadkit.verdict import Limits


@dataclass(slots=True)
class Amendment:
    """Makes the changes of one load; `changes` are those that were asked for, done or not."""

    clerk: Clerk
    users: Sequence[str]
    """In the scenario's order."""
    limits: dict[str, Limits]
    """By user; kept up with the changes."""
    changes: list[Change] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)
    """What was due after the load, as in "disable at 99 s"."""

    async def carry_out(self, plan: Sequence[Planned], load: Load, sending: asyncio.Task[object]) -> None:
        """Make each change at its time, those of one time at once; what is due after the load is left undone."""
        await load.wait_begun()
        async with asyncio.TaskGroup() as group:
            due = sorted(plan, key=lambda planned: planned.at)
            for index, planned in enumerate(due):
                pause = load.began + planned.at - time.monotonic()
                if pause > 0:
                    await asyncio.wait([sending], timeout=pause)
                if sending.done():
                    self.undone += [f"{late.kind} at {late.at:g} s" for late in due[index:]]
                    return
                for number in planned.users or range(1, len(self.users) + 1):
                    group.create_task(self._change(planned, self.users[number - 1], load))

    async def _change(self, planned: Planned, user: str, load: Load) -> None:
        before = self.limits.get(user, Limits())
        given = planned.model_fields_set
        limits = Limits(
            planned.hourly if "hourly" in given else before.hourly,
            planned.total if "total" in given else before.total,
        )
        error = ""
        asked = time.time_ns() // 1000
        try:
            await self._ask(planned, user, limits, load)
        except ProvisionError as fault:
            error = str(fault)
        answered = time.time_ns() // 1000
        if planned.kind != "limits":
            limits = Limits()
        elif not error:
            self.limits[user] = limits
        self.changes.append(Change(planned.kind, user, asked, answered, limits.hourly, limits.total, error))

    async def _ask(self, planned: Planned, user: str, limits: Limits, load: Load) -> None:
        match planned.kind:
            case "limits":
                await self.clerk.limit(user, limits)
            case "disable" | "enable":
                await self.clerk.switch(user, is_on=planned.kind == "enable")
            case "password":
                load.passwords[user] = await self.clerk.reset(user)
            case "delete":
                await self.clerk.delete(user)
