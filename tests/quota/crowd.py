"""One worker process of a crowd: 25 tasks that send as one user as fast as they can.

python -m tests.quota.crowd URL UNIT ATTEMPTS SEED; prints what became of the attempts as JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter

from relay.quota.ledger import Hold, Ledger
from relay.quota.limit import Rules, Unit
from relay.store.client import Store

TASKS = 25
USER = "crowd"


async def send(ledger: Ledger, numbers: list[int], seed: int, counts: Counter[str]) -> None:
    """One task: reserve and settle its messages, one after the other."""
    random_ = random.Random(seed)
    for number in numbers:
        units = ledger.rules.units(random_.randint(1, 5))
        answer = await ledger.reserve(USER, f"{seed}.{number}", units, 1)
        if isinstance(answer, Hold):
            settlement = await ledger.settle(USER, answer.id, units, units)
            counts[settlement.outcome] += units
            counts["overdraft"] += settlement.is_overdraft
        else:
            counts[answer.reason] += 1
            counts["without an instant"] += answer.retry_after is None


async def run(url: str, unit: Unit, attempts: int, seed: int) -> Counter[str]:
    """Share the attempts among the tasks."""
    store = Store(url, timeout=30.0)
    ledger = Ledger(store, Rules(unit=unit))
    counts: Counter[str] = Counter()
    numbers = list(range(attempts))
    await asyncio.gather(*(send(ledger, numbers[task::TASKS], seed * TASKS + task, counts) for task in range(TASKS)))
    await store.close()
    return counts


if __name__ == "__main__":
    _, url_, unit_, attempts_, seed_ = sys.argv
    print(json.dumps(asyncio.run(run(url_, "messages" if unit_ == "messages" else "recipients", int(attempts_), int(seed_)))))
