"""relay user delete: it takes the counters along, so it asks."""

from __future__ import annotations

import asyncio
import os
import pty
import sys
from pathlib import Path

import pytest

from relay.store.client import Store
from tests.cli_ledger.conftest import send
from tests.shell import Shell


async def ask(config: Path, name: str, answer: bytes) -> tuple[int, str]:
    """Delete a user at a terminal: the exit status, and what was shown."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "relay", "user", "delete", name, "--config", str(config), stdin=theirs, stdout=theirs, stderr=theirs
    )
    try:
        os.write(ours, answer)
        async with asyncio.timeout(30):
            status = await process.wait()
        return status, os.read(ours, 65536).decode()
    finally:
        os.close(theirs)
        os.close(ours)


@pytest.mark.parametrize(("answer", "status"), [(b"y\n", 0), (b"n\n", 1), (b"\n", 1)])
async def test_a_user_is_removed_only_with_a_yes(
    relay: Shell, owner_id: str, config: Path, store: Store, answer: bytes, status: int
) -> None:
    name = (await relay("user", "add", "--owner", owner_id, "--hourly", "10", "--total", "99", "--json")).json["smtp_user_name"]
    await send(store, name, "m1")
    ended, shown = await ask(config, name, answer)
    assert ended == status
    assert f"{name} of {owner_id}: 1 counted ever, 1 of them in the window; its counters go with it" in shown
    assert ("nothing was removed" in shown) == (status == 1)
    assert len((await relay("user", "list", "--json")).json) == status


async def test_without_a_terminal_nobody_is_asked_and_nothing_removed(relay: Shell, owner_id: str) -> None:
    name = (await relay("user", "add", "--owner", owner_id, "--hourly", "10", "--total", "99", "--json")).json["smtp_user_name"]
    ran = await relay("user", "delete", name, said="y\n")
    assert (ran.status, ran.out, ran.faults) == (2, "", ["relay: there is no terminal to ask at: it needs --yes"])
    assert (await relay("user", "delete", name, "--json", "--yes")).json == {"smtp_user_name": name, "status": "deleted"}


async def test_an_unknown_user_is_not_asked_about(relay: Shell, config: Path) -> None:
    status, shown = await ask(config, "nobody", b"y\n")
    assert status == 1 and "unknown user 'nobody'" in shown and "for good" not in shown
