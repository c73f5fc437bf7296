"""The load: connections that send messages as fast as they are answered, or at a given rate, and a record of every attempt.

Promises: no attempt goes unrecorded, however it ends; a connection that is refused or lost is made anew for as long as `patience`
lasts; only addresses of this machine are dialled unless `allow_remote` says otherwise, and the address that was checked is the one
dialled. Refused messages are not sent again: each attempt is another message.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import socket
import time
from collections.abc import Callable, Sequence

from relay.loadkit.attempt import Attempt
from relay.loadkit.caller import Caller, Tls, Unwelcome, dial
from relay.loadkit.message import Template

Progress = Callable[[Sequence[Attempt]], None]
"""Called with all attempts that have ended so far."""

TICK = 0.25
PAUSE = 0.05
"""Seconds before a connection is made anew; doubled each time in a row, up to 1 s."""


class RemoteTarget(ValueError):
    """A load was aimed at another machine."""


class Load:
    """One run; `messages` in all or for `seconds`, whichever comes first."""

    def __init__(
        self,
        host: str,
        port: int,
        credentials: Sequence[tuple[str, str]] = (("", ""),),
        connections: int = 1,
        messages: int | None = None,
        seconds: float | None = None,
        size: int = 2048,
        recipients: int = 1,
        tls: Tls = "none",
        per_connection: int = 0,
        rate: float | None = None,
        *,
        sender: str = "load@load.example",
        timeout: float = 60.0,
        patience: float = 15.0,
        allow_remote: bool = False,
    ) -> None:
        if messages is None and seconds is None:
            raise ValueError("messages or seconds: one is needed")
        if connections < 1 or recipients < 1 or not credentials:
            raise ValueError("connections, recipients and credentials: at least one each")
        self._host, self._port, self._tls, self._allow_remote = host, port, tls, allow_remote
        self._credentials = tuple(credentials)
        self._connections = connections
        self._messages, self._seconds = messages, seconds
        self._per_connection, self._rate = per_connection, rate
        self._sender = sender
        self._recipients = tuple(f"r{index}@load.example" for index in range(recipients))
        self._timeout, self._patience = timeout, patience
        self._name = secrets.token_hex(4)
        self._begun = 0
        self._template = Template(size, len(self._load_id(0)))
        self._next_slot = 0.0
        self._deadline = float("inf")
        self.attempts: list[Attempt] = []
        self.seconds = 0.0
        """How long it took."""

    def _load_id(self, number: int) -> str:
        return f"{self._name}-{number:08d}"

    async def run(self, on_progress: Progress | None = None) -> list[Attempt]:
        """Send it all; cancelled, `attempts` has what there is. Raises RemoteTarget or OSError if the host cannot be used."""
        address = await resolve(self._host, self._port, self._allow_remote)
        began = self._next_slot = time.monotonic()
        if self._seconds is not None:
            self._deadline = began + self._seconds
        ticker = asyncio.create_task(self._tick(on_progress)) if on_progress is not None else None
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._connections):
                    group.create_task(self._work(number, address))
        finally:
            self.seconds = time.monotonic() - began
            if ticker is not None and on_progress is not None:
                ticker.cancel()
                on_progress(self.attempts)
        return self.attempts

    async def _tick(self, on_progress: Progress) -> None:
        while True:
            await asyncio.sleep(TICK)
            on_progress(self.attempts)

    @property
    def _is_over(self) -> bool:
        return (self._messages is not None and self._begun >= self._messages) or time.monotonic() >= self._deadline

    async def _work(self, number: int, address: str) -> None:
        """Keep one connection busy until the load is over."""
        user, password = self._credentials[number % len(self._credentials)]
        caller: Caller | None = None
        sent = 0
        try:
            while not self._is_over:
                if caller is None:
                    caller, sent = await self._connect(number, address, user, password), 0
                    if caller is None:
                        return
                if not await self._await_turn() or self._is_over:
                    break
                attempt = await self._send(caller, number, user) if caller.is_usable else None
                sent += 1
                is_told_to_go = attempt is None or attempt.code == 421
                if is_told_to_go or not caller.is_usable or sent == self._per_connection:
                    await caller.quit()
                    caller = None
        finally:
            if caller is not None:
                await caller.quit()

    async def _send(self, caller: Caller, number: int, user: str) -> Attempt:
        attempt = Attempt(self._load_id(self._begun), user, number, len(self._recipients))
        self._begun += 1
        wire = self._template.write(attempt.load_id, self._sender, self._recipients[0])
        try:
            await caller.send(attempt, self._sender, self._recipients, wire)
        finally:
            self.attempts.append(attempt)
        return attempt

    async def _await_turn(self) -> bool:
        """Wait for the next slot of the rate; False where there is none left."""
        if self._rate is None:
            return True
        slot = self._next_slot
        self._next_slot += 1 / self._rate
        await asyncio.sleep(max(0.0, min(slot, self._deadline) - time.monotonic()))
        return slot < self._deadline

    async def _connect(self, number: int, address: str, user: str, password: str) -> Caller | None:
        """Dial until it is answered, patience ends or the answer is final; what was refused is recorded."""
        patience_ends = time.monotonic() + self._patience
        pause = PAUSE
        while True:
            started, started_at = time.monotonic(), time.time()
            try:
                return await dial(address, self._port, user, password, self._tls, self._timeout)
            except Unwelcome as refusal:
                now, now_at = time.monotonic(), time.time()
                self.attempts.append(
                    Attempt("", user, number, 0, started, started_at, 0.0, now, now_at, refusal.code, refusal.text, refusal.stage)
                )
                if refusal.code >= 500 or now + pause >= min(patience_ends, self._deadline):
                    return None
            await asyncio.sleep(pause)
            pause = min(1.0, pause * 2)


async def resolve(host: str, port: int, allow_remote: bool = False) -> str:
    """The address to dial. Raises RemoteTarget if any address of the host is another machine's and that is not allowed."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    remote = [address for address in addresses if not ipaddress.ip_address(address.partition("%")[0]).is_loopback]
    if remote and not allow_remote:
        raise RemoteTarget(f"{host} is {remote[0]}, not this machine; a load on another machine must be asked for")
    return addresses[0]
