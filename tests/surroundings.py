"""What a relay stands on, so that a test can take it away: its processes, the wall's clock, the disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from tests.running import Relay


async def until(is_so: Callable[[], bool | Awaitable[bool]], timeout: float = 10, what: str = "it") -> None:
    """Wait until something is so."""
    end = time.monotonic() + timeout
    while True:
        answer = is_so()
        if answer if isinstance(answer, bool) else await answer:
            return
        assert time.monotonic() < end, f"not within {timeout:g} s: {what}"
        await asyncio.sleep(0.02)


# -- processes ---------------------------------------------------------------------------------------------------------------

_stopped: set[int] = set()


def stop(pid: int) -> None:
    """Stop a process where it stands: alive, and silent."""
    _stopped.add(pid)
    os.kill(pid, signal.SIGSTOP)


def resume(pid: int) -> None:
    """Let it go on."""
    _stopped.discard(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def resume_all() -> None:
    """Let all go on that a test has left stopped."""
    for pid in tuple(_stopped):
        resume(pid)


def kill(pid: int) -> None:
    """Kill a process as a crash does; a stopped one too."""
    _stopped.discard(pid)
    os.kill(pid, signal.SIGKILL)


async def kill_all(relay: Relay) -> None:
    """Kill a whole relay, supervisor first, and wait until all of it is gone."""
    assert relay.process is not None
    everyone = [*relay.workers().values(), *_children(relay.process.pid)]
    relay.process.kill()
    for pid in everyone:
        with contextlib.suppress(ProcessLookupError):
            kill(pid)
    await relay.process.wait()
    await until(lambda: not any(is_alive(pid) for pid in everyone), what="all of the relay is gone")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Whether a process runs (one that is dead and not yet waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def kill_worker(relay: Relay, name: str) -> str:
    """Kill a worker, wait until the next one of its name has started, and return the incarnation of the dead."""
    deaths = len(relay.events("worker_died"))
    kill(relay.workers()[name])
    died = await relay.await_event("worker_died", after=deaths)
    starts = len([line for line in relay.events("worker_started") if line["worker"] == name])
    await until(lambda: len([line for line in relay.events("worker_started") if line["worker"] == name]) >= max(2, starts))
    return str(died["incarnation"])


# -- clocks ------------------------------------------------------------------------------------------------------------------

_FAKETIME = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1", "/usr/local/lib/faketime/libfaketimeMT.so.1")


class WallClock:
    """The wall's clock of the processes started `within` it, which a test may set; their other clocks go on as they are."""

    def __init__(self, place: Path) -> None:
        self._library = _find_faketime()
        self._file = place / "clock"
        self.set(0)

    def set(self, offset: float) -> None:
        """Step the clock: so many seconds from the true one, behind it if negative."""
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{offset:+.3f}\n")
        draft.replace(self._file)

    @contextmanager
    def within(self) -> Iterator[None]:
        """Processes that are started in here have this clock."""
        settings = {
            "LD_PRELOAD": self._library, "FAKETIME_TIMESTAMP_FILE": str(self._file), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def _find_faketime() -> str:
    found = [path for pattern in _FAKETIME for path in Path("/").glob(pattern.lstrip("/"))]
    if not found:
        missing("libfaketime is not installed (Debian: faketime)")
    return str(found[0])


def missing(what: str) -> NoReturn:
    """Skip the test for what is missing here; under CI that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}, and under CI nothing may be skipped for that", pytrace=False)
    pytest.skip(what)


# -- disks -------------------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own in a folder, of so much and no more."""
    if os.geteuid() != 0:
        missing("a small disk is a tmpfs, and only root may mount one")
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        missing(f"a small disk is a tmpfs, and mounting one is not allowed here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """Fill a disk up, but for so many octets; remove the file that is returned and there is space again."""
    path = folder / "filler"
    with path.open("wb") as out:
        while True:
            disk = os.statvfs(folder)
            if (free := disk.f_bavail * disk.f_frsize - leave) <= 0:
                return path
            with contextlib.suppress(OSError):  # somebody else took some of it since it was looked at: then nothing was given
                os.posix_fallocate(out.fileno(), 0, os.fstat(out.fileno()).st_size + free)
