"""The load: connections that send messages as fast as they are answered, or as a pattern has them due, and a record of every attempt.

Promises: no attempt goes unrecorded, however it ends; a connection that is refused or lost is made anew for as long as `patience`
lasts; only addresses of this machine are dialled unless `allow_remote` says otherwise, and the address that was checked is the one
dialled. Refused messages are not sent again: each attempt is another message. The load begins once every connection was answered or
given up: what is measured is messages, not the rush to the door. Of an open pattern every due instant is taken, late if no connection
was free, and the latency counts from it (see `pattern`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from random import Random

from relay.loadkit.attempt import Attempt
from relay.loadkit.caller import Caller, Tls, Unwelcome, dial
from relay.loadkit.message import Template
from relay.loadkit.mixture import Mixture
from relay.loadkit.pattern import Closed, Pattern, Rate

Progress = Callable[[Sequence[Attempt]], None]
"""Called with all attempts that have ended so far."""

TICK = 0.25
PAUSE = 0.05
"""Seconds before a connection is made anew; doubled each time in a row, up to 1 s."""


class RemoteTarget(ValueError):
    """A load was aimed at another machine."""


class Load:
    """One run; `messages` in all or for `seconds`, whichever comes first. Connection i is the user of credentials i, in turns.

    `is_stubborn`: a login that is refused for good is tried again like any other, since a change may come that lets it in.
    """

    def __init__(
        self,
        host: str,
        port: int,
        credentials: Sequence[tuple[str, str]] = (("", ""),),
        connections: int = 1,
        messages: int | None = None,
        seconds: float | None = None,
        size: int | Mixture = 2048,
        recipients: int | Mixture = 1,
        tls: Tls = "none",
        per_connection: int = 0,
        rate: float | None = None,
        *,
        pattern: Pattern | None = None,
        sender: str = "load@load.example",
        timeout: float = 60.0,
        patience: float = 15.0,
        allow_remote: bool = False,
        is_stubborn: bool = False,
        seed: int = 0,
    ) -> None:
        self._sizes = size if isinstance(size, Mixture) else Mixture.parse(str(size))
        self._crowds = recipients if isinstance(recipients, Mixture) else Mixture.parse(str(recipients))
        if messages is None and seconds is None:
            raise ValueError("messages or seconds: one is needed")
        if connections < 1 or self._crowds.least < 1 or not credentials:
            raise ValueError("connections, recipients and credentials: at least one each")
        self._host, self._port, self._tls, self._allow_remote = host, port, tls, allow_remote
        self._users = [credentials[number % len(credentials)][0] for number in range(connections)]
        self.passwords = dict(credentials)
        """By user; a connection that is made anew reads it here."""
        self._messages, self._seconds = messages, seconds
        self._per_connection = per_connection
        self._pattern = pattern if pattern is not None else Closed() if rate is None else Rate(rate)
        self._slots: Iterator[float] | None = None
        self._sender = sender
        self._recipients = tuple(f"r{index}@load.example" for index in range(self._crowds.most))
        self._crowd_of = {self._crowds.most: self._recipients}
        self._timeout, self._patience, self._is_stubborn = timeout, patience, is_stubborn
        self._random = Random(seed)  # noqa: S311 - repeatable on purpose
        self._name = secrets.token_hex(4)
        self._begun = 0
        self._templates: dict[int, Template] = {}
        self._deadline = float("inf")
        self._unready = connections
        self._ready = asyncio.Event()
        self.began = self.began_at = 0.0
        """When the first message was free to go: of time.monotonic() and time.time()."""
        self.attempts: list[Attempt] = []
        self.seconds = 0.0
        """How long it took."""

    async def run(self, on_progress: Progress | None = None) -> list[Attempt]:
        """Send it all; cancelled, `attempts` has what there is. Raises RemoteTarget or OSError if the host cannot be used."""
        address = await resolve(self._host, self._port, self._allow_remote)
        ticker = asyncio.create_task(self._tick(on_progress)) if on_progress is not None else None
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(len(self._users)):
                    group.create_task(self._work(number, address))
        finally:
            self.seconds = time.monotonic() - self.began if self.began else 0.0
            if ticker is not None and on_progress is not None:
                ticker.cancel()
                on_progress(self.attempts)
        return self.attempts

    async def wait_begun(self) -> None:
        """Wait until the first message is free to go."""
        await self._ready.wait()

    async def _tick(self, on_progress: Progress) -> None:
        while True:
            await asyncio.sleep(TICK)
            on_progress(self.attempts)

    @property
    def _is_over(self) -> bool:
        return (self._messages is not None and self._begun >= self._messages) or time.monotonic() >= self._deadline

    # -- one connection ------------------------------------------------------------------------------------------------------

    async def _work(self, number: int, address: str) -> None:
        """Keep one connection busy until the load is over."""
        user = self._users[number]
        caller: Caller | None = None
        sent = 0
        try:
            caller = await self._first_connect(number, address)
            while caller is not None and (claim := self._claim()) is not None:
                serial, due = claim
                if due and not await self._await_turn(due):
                    break
                if not caller.is_usable:  # it was told to go, or lost, while it waited
                    await caller.quit()
                    if (caller := await self._connect(number, address)) is None:
                        break
                    sent = 0
                attempt = await self._send(caller, number, user, serial, due)
                sent += 1
                if attempt.code == 421 or sent == self._per_connection or not caller.is_usable:
                    await caller.quit()
                    caller, sent = (None if self._is_over else await self._connect(number, address)), 0
        except BaseException:
            if caller is not None:
                caller.abort()  # amid a message there is no leave to take: the server would read QUIT as part of it
            raise
        if caller is not None:
            await caller.quit()

    async def _first_connect(self, number: int, address: str) -> Caller | None:
        """Connect, and wait for the others; the last one begins the load."""
        try:
            caller = await self._connect(number, address)
        finally:
            self._unready -= 1
            if not self._unready:
                self._begin()
        try:
            await self._ready.wait()
        except asyncio.CancelledError:
            if caller is not None:
                caller.abort()
            raise
        return caller

    def _begin(self) -> None:
        self.began, self.began_at = time.monotonic(), time.time()
        if self._seconds is not None:
            self._deadline = self.began + self._seconds
        if not isinstance(self._pattern, Closed):
            self._slots = self._pattern.due(self.began_at)
        self._ready.set()

    def _claim(self) -> tuple[int, float] | None:
        """The number of another message and when it is due (0.0: now), if there is to be one."""
        if self._is_over:
            return None
        self._begun += 1
        return self._begun - 1, 0.0 if self._slots is None else self.began + next(self._slots)

    async def _await_turn(self, due: float) -> bool:
        """Wait for an instant; False where the load is over before."""
        pause = min(due, self._deadline) - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        return due < self._deadline

    async def _send(self, caller: Caller, number: int, user: str, serial: int, due: float) -> Attempt:
        recipients = self._crowd()
        attempt = Attempt(f"{self._name}-{serial:08d}", user, number, len(recipients), due=due)
        wire = self._template(attempt.load_id).write(attempt.load_id, self._sender, recipients[0])
        try:
            await caller.send(attempt, self._sender, recipients, wire)
        finally:
            self.attempts.append(attempt)
        return attempt

    def _crowd(self) -> Sequence[str]:
        count = self._crowds.draw(self._random)
        if count not in self._crowd_of:
            self._crowd_of[count] = self._recipients[:count]
        return self._crowd_of[count]

    def _template(self, load_id: str) -> Template:
        size = self._sizes.draw(self._random)
        if size not in self._templates:
            self._templates[size] = Template(size, len(load_id))
        return self._templates[size]

    async def _connect(self, number: int, address: str) -> Caller | None:
        """Dial until it is answered, patience ends or the answer is final; what was refused is recorded."""
        user = self._users[number]
        patience_ends = time.monotonic() + self._patience
        pause = PAUSE
        while True:
            started, started_at = time.monotonic(), time.time()
            try:
                return await dial(address, self._port, user, self.passwords[user], self._tls, self._timeout)
            except Unwelcome as refusal:
                now, now_at = time.monotonic(), time.time()
                self.attempts.append(
                    Attempt("", user, number, 0, started, started_at, 0.0, now, now_at, refusal.code, refusal.text, refusal.stage)
                )
                is_final = refusal.code >= 500 and not self._is_stubborn
                if is_final or now + pause >= min(patience_ends, self._deadline):
                    return None
            await asyncio.sleep(pause)
            pause = min(1.0, pause * 2)


async def resolve(host: str, port: int, allow_remote: bool = False) -> str:
    """The address to dial. Raises RemoteTarget if any address of the host is another machine's and that is not allowed, OSError if it
    has none."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OSError(f"{host}: {getattr(error, 'strerror', None) or 'no such host'}") from None
    addresses = [str(entry[4][0]) for entry in found]
    remote = [address for address in addresses if not ipaddress.ip_address(address.partition("%")[0]).is_loopback]
    if remote and not allow_remote:
        raise RemoteTarget(f"{host} is {remote[0]}, not this machine; --allow-remote (target.allow_remote) lets a load go there")
    return addresses[0]
