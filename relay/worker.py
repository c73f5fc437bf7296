"""A worker: one process of the relay, from its start to its exit status, as the supervisor sees it.

Promises: it is this program again, with the settings that this relay was started with, whatever became of the file since; it dies with
its parent; its figures count on after its death. When to start it, and what to do when it has died, is the supervisor's.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from prometheus_client import multiprocess

from relay.daemon import new_incarnation
from relay.journal import Journal
from relay.session.ticket import Tickets

if TYPE_CHECKING:
    from relay.config.settings import Settings

Role = Literal["smtp", "retry", "api"]

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Given:
    """What a worker is told in memory that only it and its parent share."""

    settings: Settings
    number: int
    tickets: Tickets | None
    """Only who speaks TLS with clients is told their keys."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every worker of a relay is started with."""

    settings: Settings
    journal: Journal
    environment: dict[str, str]
    ports: list[int]
    api_socket: socket.socket | None
    tickets: Tickets


@dataclass(slots=True)
class Worker:
    """One process to keep running."""

    role: Role
    number: int
    incarnation: str = ""
    process: asyncio.subprocess.Process | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    """It has served once."""
    is_listening: bool = False
    """It serves now, and has its signals in hand."""

    @property
    def name(self) -> str:
        """How the journal names it."""
        return f"{self.role}-{self.number}"

    def send(self, number: int) -> None:
        """Send it a signal, if it is there."""
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def live(self, around: Surroundings) -> int:
        """One life, from its start to its exit status; raises OSError if it cannot be started."""
        self.incarnation = new_incarnation()
        self.is_listening = False
        reader, writer = os.pipe()
        try:
            process = self.process = await self._start(around, writer)
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        around.journal.event("worker_started", worker=self.name, pid=process.pid, incarnation=self.incarnation)
        waiting = asyncio.create_task(self._await_ready(reader))
        try:
            status = await process.wait()
        finally:
            await waiting
            self.is_listening = False
        with suppress(OSError):
            multiprocess.mark_process_dead(  # type: ignore[no-untyped-call]
                process.pid, around.environment["PROMETHEUS_MULTIPROC_DIR"]
            )
        return status

    async def _start(self, around: Surroundings, ready: int) -> asyncio.subprocess.Process:
        given = hand_over(Given(around.settings, self.number, around.tickets if self.role == "smtp" else None))
        command = [sys.executable, "-m", "relay", "worker", "--role", self.role, "--incarnation", self.incarnation]
        command += ["--ready", str(ready), "--given", str(given)]
        passed = [ready, given]
        if self.role == "smtp":
            command += ["--ports", ",".join(map(str, around.ports))]
        elif self.role == "api" and around.api_socket is not None:
            command += ["--socket", str(around.api_socket.fileno())]
            passed.append(around.api_socket.fileno())
        try:
            return await asyncio.create_subprocess_exec(
                *command, pass_fds=passed, env=around.environment, preexec_fn=die_with(os.getpid()), start_new_session=True
            )
        finally:
            os.close(given)

    async def _await_ready(self, reader: int) -> None:
        """See the child write to its pipe; return when the child closes it."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def on_readable() -> None:
            if os.read(reader, 16):
                self.is_listening = True
                self.ready.set()
            else:
                done.set()

        loop.add_reader(reader, on_readable)
        try:
            await done.wait()
        finally:
            loop.remove_reader(reader)
            os.close(reader)


class _Secret:
    """A value that no repr shows, as the settings keep it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        """The value."""
        return self._value


def _plain(value: Any) -> Any:
    """Settings without the library that has checked them: with it a worker would need 11 MB more."""
    from pydantic import BaseModel, SecretStr

    if isinstance(value, BaseModel):
        derived = [name for name, found in vars(type(value)).items() if isinstance(found, property)]
        return SimpleNamespace(**{name: _plain(getattr(value, name)) for name in [*type(value).model_fields, *derived]})
    if isinstance(value, SecretStr):
        return _Secret(value.get_secret_value())
    return tuple(map(_plain, value)) if isinstance(value, tuple) else value


def hand_over(given: Given) -> int:
    """What a child is to read: a file that was changed since this relay was started counts at a restart."""
    if given.tickets is not None:
        given.tickets.move_on()
    fd = os.memfd_create("given")
    os.write(fd, pickle.dumps(replace(given, settings=_plain(given.settings))))
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def receive(fd: int) -> Given:
    """What the parent handed over."""
    with os.fdopen(fd, "rb") as file:
        given: Given = pickle.load(file)  # noqa: S301 - written by our own supervisor, into memory only we share
    return given


def die_with(parent: int) -> Callable[[], None]:
    """What a child does between fork and exec: ask to be told when its parent dies."""

    def before_exec() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return before_exec
