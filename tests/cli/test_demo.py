"""relay demo: whatever ends it, nothing of it stays behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest


def relays(place: Path) -> list[int]:
    """The processes that a demonstration in this directory has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(place).encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


async def gone(place: Path) -> bool:
    """Whether no process is left within some seconds."""
    for _ in range(300):
        if not relays(place):
            return True
        await asyncio.sleep(0.05)
    return False


async def demonstrated(place: Path, until: str) -> asyncio.subprocess.Process:
    """A demonstration in a session of its own that has said `until`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "relay", "demo", env=os.environ | {"TMPDIR": str(place)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while line := (await process.stdout.readline()).decode():
            if until in line:
                return process
    raise AssertionError(f"the demonstration ended with status {await process.wait()}")


@pytest.mark.parametrize("until", ["relay serve --config", "Stop with Ctrl-C"])
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_relay_and_removes_its_folder(place: Path, number: signal.Signals, until: str) -> None:
    process = await demonstrated(place, until)
    process.send_signal(number)
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert b"Traceback" not in out, out.decode()
    assert (relays(place), list(place.iterdir())) == ([], [])


async def test_the_relay_ends_with_a_demonstration_that_is_killed(place: Path) -> None:
    process = await demonstrated(place, "Stop with Ctrl-C")
    assert relays(place)
    process.kill()
    await process.communicate()
    assert await gone(place)
