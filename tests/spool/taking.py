"""A process that takes messages until it is killed, and prints the id of each after `put` has returned.

Usage: python -m tests.spool.taking FILE NAME COUNT TASKS
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from relay.spool.spool import Spool
from tests.spool.making import as_all, put


async def take(path: Path, name: str, count: int, tasks: int) -> None:
    """Take so many, from concurrent tasks; finish every third."""
    spool = Spool(path, name, 0)
    left = iter(range(count))

    async def one_after_another() -> None:
        for number in left:
            entry = await put(spool, f"{name}{number}")
            # Written at once and whole: a kill leaves no half line.
            os.write(1, f"taken {entry.id}\n".encode())
            if number % 3 == 0:
                os.write(1, f"finishing {entry.id}\n".encode())
                await spool.finish(entry.id, as_all(entry, "delivered"), None)
                os.write(1, f"finished {entry.id}\n".encode())

    await asyncio.gather(*(one_after_another() for _ in range(tasks)))
    await spool.close()


def main() -> None:
    path, name, count, tasks = sys.argv[1:]
    asyncio.run(take(Path(path), name, int(count), int(tasks)))


if __name__ == "__main__":
    main()
