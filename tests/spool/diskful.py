"""A process that takes messages on a disk that fills up and is emptied again; it prints what it was told of each.

Usage: python -m tests.spool.diskful limit|tmpfs FOLDER. With `limit` the largest size of a file is what runs out (RLIMIT_FSIZE),
with `tmpfs` the disk itself: the folder is one of 4 MB, in a mount namespace of this process's own.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from pathlib import Path

from relay.spool.fault import SpoolUnavailable
from relay.spool.spool import Spool
from tests.spool.making import put


async def take(spool: Spool, name: str, count: int) -> int:
    """Put so many at once; returns how many failed."""

    async def one(id: str) -> bool:
        try:
            await put(spool, id)
        except SpoolUnavailable as error:
            print("refused", id, error, flush=True)
            return False
        print("taken", id, flush=True)
        return True

    return (await asyncio.gather(*(one(f"{name}{number}") for number in range(count)))).count(False)


async def work(kind: str, folder: Path) -> None:
    """Fill, empty, go on."""
    ballast = folder / "ballast"
    if kind == "tmpfs":
        ballast.write_bytes(b"\0" * (1 << 20))
    spool = Spool(folder / "spool.db", "me", 0)
    assert await take(spool, "before", 20) == 0
    if kind == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    number = 0
    while await take(spool, f"filling{number}-", 50) < 50:
        number += 1
    if kind == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        ballast.unlink()
    assert await take(spool, "after", 20) == 0
    await spool.close()
    # The account is closed here: the disk of a mount namespace is gone with its last process.
    again = Spool(folder / "spool.db", "me", 0)
    async for page in again.pages():
        for entry in page:
            await again.content(entry.id)
            print("there", entry.id, entry.held, flush=True)
    await again.close()


def main() -> None:
    kind, folder = sys.argv[1], Path(sys.argv[2])
    if kind == "tmpfs":
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=False, capture_output=True)
        if mounted.returncode:
            os._exit(77)
    asyncio.run(work(kind, folder))


if __name__ == "__main__":
    main()
