"""A worker process that will be killed: reserves at once, and settles with a charge when it is told to.

python -m tests.quota.doomed URL TABLE [SPOOL]; says `reserved`, reads a line, settles, says `settled`. With a spool it puts the message
there instead, for one of its units, says `spooled`, and is never to settle.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from relay.quota.ledger import Hold, Ledger
from relay.quota.limit import Rules
from relay.quota.table import Table
from relay.quota.teller import Teller
from relay.store.client import Store
from tests.quota.vault import FileVault

USER, ID, UNITS = "doomed", "w1.1", 2


async def run(url: str, table: Path, spool: Path | None) -> None:
    """Live until killed."""
    teller = Teller(Ledger(Store(url, timeout=60.0), Rules(unit="recipients")), Table(table), lambda charge, settlement: None)
    hold = await teller.reserve(USER, ID, UNITS, 1)
    assert isinstance(hold, Hold)
    print("reserved", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    if spool is not None:
        FileVault(spool).put(ID, USER, UNITS, 1)
        print("spooled", flush=True)
    else:
        await teller.settle(hold, UNITS)
        print("settled", flush=True)
    await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None))
