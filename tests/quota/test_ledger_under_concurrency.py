"""Four processes of 25 tasks each send as one user, five times what its limit allows."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from relay.quota.ledger import Ledger, key
from relay.quota.limit import Rules, Unit
from relay.store.client import Store
from tests.quota.crowd import USER

ROOT = Path(__file__).parents[2]
LIMIT = 1000
ATTEMPTS = 5000
WORKERS = 4


async def crowd(url: str, unit: Unit) -> Counter[str]:
    """Run the worker processes and add up what they report."""
    workers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-m", "tests.quota.crowd", url, unit, str(ATTEMPTS // WORKERS), str(seed),
            stdout=asyncio.subprocess.PIPE, cwd=ROOT,
        )
        for seed in range(WORKERS)
    ]  # fmt: skip
    total: Counter[str] = Counter()
    for output, _ in await asyncio.gather(*(worker.communicate() for worker in workers)):
        total.update(json.loads(output))
    return total


@pytest.mark.parametrize(("unit", "least"), [("messages", LIMIT), ("recipients", LIMIT - 4)])
async def test_a_crowd_takes_the_limit_and_not_one_more(store: Store, place: Path, unit: Unit, least: int) -> None:
    await store.command("HSET", key(USER), "status", "E", "ostatus", "E", "gen", 1, "hourly", LIMIT, "total", "")
    total = await crowd(f"unix://{place / 'data' / 'store.sock'}", unit)
    usage = await Ledger(store, Rules(unit=unit)).usage(USER)
    assert usage is not None
    assert usage.taken == usage.window == total["ok"]
    assert least <= usage.taken <= LIMIT
    assert usage.in_flight == 0
    assert total["late"] == total["done"] == total["gone"] == total["overdraft"] == 0
    # Every refusal was a temporary one that says when.
    assert set(total) <= {"ok", "overdraft", "hourly", "in_flight", "without an instant"}
    assert total["without an instant"] == 0
    if unit == "messages":
        assert total["hourly"] + total["in_flight"] == ATTEMPTS - LIMIT
