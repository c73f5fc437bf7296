"""A smarthost that may be killed: the scripted sink in a process of its own, with every message it takes on record before its 250.

A record is one line, written with one write(2) to a file opened for appending before the reply to the final dot leaves: what a client
was told is on record even if the sink is killed right after. The file outlives the process and is read while or after it runs.

python -m tests.sink_process PORT RECORD SCRIPT
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import uvloop

from relay.loadkit.received import Received
from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from tests.account import Copy
from tests.copies import read_copy
from tests.running import free_port

ROOT = Path(__file__).parents[1]


async def serve(port: int, record: Path, script: Script) -> None:
    """Take mail until SIGTERM."""
    fd = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def on_message(message: Received) -> None:
        if message.answered:
            os.write(fd, json.dumps(asdict(read_copy(message)) | {"at": message.at}).encode() + b"\n")
        message.content = None

    sink = Sink(port=port, script=script, seed=os.getpid(), keep=True, on_message=on_message)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await sink.start()
    print("ready", flush=True)
    await stop.wait()
    await sink.stop()


@dataclass(slots=True)
class SinkProcess:
    """The process as a test sees it; restarted, it takes the same port and goes on with the same record."""

    folder: Path
    script: str = ""
    port: int = field(default_factory=free_port)
    process: asyncio.subprocess.Process | None = None
    is_ready: bool = False

    @property
    def record(self) -> Path:
        """Where the messages are written down."""
        return self.folder / "sink.jsonl"

    async def start(self) -> None:
        """Start it and wait until it listens."""
        self.folder.mkdir(parents=True, exist_ok=True)
        rules = self.folder / "sink.script"
        rules.write_text(self.script)
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.sink_process", str(self.port), str(self.record), str(rules),
            cwd=ROOT, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            line = await self.process.stdout.readline()
        assert line == b"ready\n", f"the sink did not start: {line!r}"
        self.is_ready = True

    async def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it: with SIGKILL as a crash does, with SIGTERM in order."""
        self.is_ready = False
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)
            await self.process.wait()

    def copies(self) -> list[Copy]:
        """Every message that it, and those that ran before it, answered 250."""
        if not self.record.exists():
            return []
        found = (json.loads(line) for line in self.record.read_text().splitlines())
        return [Copy(line["id"], line["mark"], tuple(line["recipients"]), tuple(line["failed"]), line["is_intact"]) for line in found]


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2]), Script.parse(Path(sys.argv[3]).read_text().splitlines())))
