"""More connections are allowed than a process may have files: said by relay check and at the start, and mail goes on."""

from __future__ import annotations

import asyncio
import resource
import sys
from pathlib import Path

from relay.loadkit.sink import Sink
from tests.running import running


async def test_too_low_a_limit_of_open_files_is_told_of_and_used_up_to_its_end(place: Path, sink: Sink) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with running(place / "relay", sink.port, is_started=False) as relay:
        relay.config.write_text(relay.config.read_text().replace("[smtp]\n", f"[smtp]\nmax_connections = {hard}\n"))
        check = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "relay", "check", "--config", str(relay.config),
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, said = await check.communicate()
        assert check.returncode == 0
        [line] = said.decode().splitlines()
        assert line.startswith("relay: warning: ") and str(hard) in line
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, soft), hard))
            await relay.start()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        told = await relay.await_event("files_short")
        assert told["alarm"] and str(hard) in told["text"]
        assert len(relay.events("files_short")) == 1
        for name, pid in relay.workers().items():
            if name.startswith("smtp"):
                [limit] = [line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith("Max open files")]
                assert limit.split()[3:5] == [str(hard), str(hard)]
        user = await relay.add_user()
        assert (await asyncio.to_thread(relay.send, user))[0].startswith("250 ")
