"""A whole relay for one purpose: `relay serve` in a temporary directory, on free ports of this machine, gone with what it was for.

Promises: it forwards to a port of this machine only; no setting of the environment reaches it, and no store but its own is touched;
whatever ends its user, it ends too, and its directory is removed.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from relay.cli.door import opened
from relay.worker import die_with

Answer = TypeVar("Answer")

STARTING = 60.0
"""Seconds the relay may take to get ready."""
STOPPING = 60.0
"""Seconds it may take to end before it is killed."""


class NotStarted(Exception):
    """The relay did not get ready; the text says why."""


class Gone(Exception):
    """The relay ended before what was done with it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where such a relay runs."""

    folder: Path
    smtp: int
    api: int
    sink: int
    """Where it forwards to."""

    @property
    def config(self) -> Path:
        """Its configuration file."""
        return self.folder / "relay.toml"

    @property
    def journal(self) -> Path:
        """Its mail log."""
        return self.folder / "journal.log"


@contextmanager
def found_place(prefix: str, smtp: int = 0, api: int = 0, sink: int = 0) -> Iterator[Place]:
    """A new directory, removed at the end, and these ports where they are free, else any others."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield Place(folder, _port(smtp), _port(api), _port(sink))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _port(wanted: int) -> int:
    """The port if it is free, else any other."""
    for port in (wanted, 0):
        with closing(socket.socket()) as sock, suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection that just ended does not count
            sock.bind(("127.0.0.1", port))
            found: int = sock.getsockname()[1]
            return found
    raise NotStarted("no free port on 127.0.0.1")


# -- its life ----------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def started(
    place: Place, settings: Mapping[str, Mapping[str, Any]], say: Callable[[str], None]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a relay until the end; `settings`, by section, are beside what the place needs. `say` hears what it says while it starts.

    Raises NotStarted.
    """
    _forget_settings()
    place.config.write_text(write_toml(_merged(place, settings)), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "relay", "serve", "--config", str(place.config),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, start_new_session=True,
        preexec_fn=die_with(os.getpid()),
    )  # fmt: skip
    assert process.stderr is not None
    draining: asyncio.Task[None] | None = None
    try:
        await _await_ready(process.stderr, say)
        draining = asyncio.create_task(_drain(process.stderr))
        yield process
    finally:
        await _end(process)
        if draining is not None:
            await draining


async def beside(process: asyncio.subprocess.Process, work: Coroutine[Any, Any, Answer]) -> Answer:
    """Do something for as long as the relay lives. Raises Gone if it ends before."""
    doing, ending = asyncio.ensure_future(work), asyncio.ensure_future(process.wait())
    try:
        await asyncio.wait((doing, ending), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise Gone(f"the relay ended amid the test, with status {ending.result()}")
        return await doing
    finally:
        doing.cancel()
        ending.cancel()
        await asyncio.gather(doing, ending, return_exceptions=True)


def _forget_settings() -> None:
    """Take out of the environment what would make this relay, or the door to its store, another than its file says."""
    for name in [name for name in os.environ if name.startswith("RELAY_") or name == "CREDENTIALS_DIRECTORY"]:
        del os.environ[name]


async def _await_ready(stderr: asyncio.StreamReader, say: Callable[[str], None]) -> None:
    said = ""
    with suppress(TimeoutError):
        async with asyncio.timeout(STARTING):
            while line := (await stderr.readline()).decode("utf-8", "replace"):
                said = line.strip()
                say(said)
                if said.startswith("relay is ready"):
                    return
    raise NotStarted(f"the relay did not get ready: {said}")


async def _drain(stderr: asyncio.StreamReader) -> None:
    """Read on, so that a relay with much to say is not held up by a full pipe."""
    while await stderr.read(65536):
        pass


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOPPING):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def add_owner(place: Place, name: str) -> tuple[str, str]:
    """Make an owner as an operator would; returns its id and its token."""
    async with opened(place.config) as door:
        owner, token = await door.provisioning.add_owner(name)
    return owner.owner_id, token


def end_at_a_signal() -> None:
    """Let the first signal, a closed terminal's too, cancel this task from wherever it is; what is open is then closed in order."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    signals = [number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]

    def on_signal() -> None:
        for number in signals:
            loop.add_signal_handler(number, lambda: None)  # a second one would cut the closing short
        task.cancel()

    for number in signals:
        loop.add_signal_handler(number, on_signal)


# -- its file ----------------------------------------------------------------------------------------------------------------


def _merged(place: Place, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    needed: dict[str, dict[str, Any]] = {
        "smtp": {"hostname": "relay.example", "listen": [{"port": place.smtp, "auth_without_tls": True}]},
        "api": {"port": place.api},
        "upstream": {"port": place.sink},
        "data": {"directory": str(place.folder / "data")},
        "journal": {"file": str(place.journal)},
    }
    return {section: {**needed.get(section, {}), **settings.get(section, {})} for section in [*needed, *(settings.keys() - needed.keys())]}


def write_toml(settings: Mapping[str, Any]) -> str:
    """Write settings as TOML: a table for each section, whatever lies deeper in line."""
    lines = [f"{json.dumps(key)} = {_value(value)}" for key, value in settings.items() if not isinstance(value, Mapping)]
    for key, value in settings.items():
        if isinstance(value, Mapping):
            lines += ["", f"[{json.dumps(key)}]", *(f"{json.dumps(name)} = {_value(inner)}" for name, inner in value.items())]
    return "\n".join([*lines, ""])


def _value(value: Any) -> str:
    match value:
        case Mapping():
            return "{" + ", ".join(f"{json.dumps(key)} = {_value(inner)}" for key, inner in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_value, value)) + "]"
        case float():
            return repr(value)
    # A JSON text is a TOML one, but for DEL and for pairs of surrogates, which ensure_ascii=False does without.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
