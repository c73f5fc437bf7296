"""A whole relay, as its users run it: `relay serve` in a process tree of its own, and what a test asks of it from outside."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import smtplib
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relay.cli.app import app
from relay.store.embedded import find_server
from tests.shell import invoke

_SHELL = threading.Lock()
"""One command at a time: while it runs, standard output is its own."""


def free_port() -> int:
    """A loopback port that nothing listens on."""
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@dataclass(slots=True)
class User:
    """An SMTP user of a test."""

    name: str
    password: str


@dataclass(slots=True)
class Relay:
    """A relay under test."""

    folder: Path
    smtp: int
    api: int
    process: asyncio.subprocess.Process | None = None
    owner: str = ""
    token: str = ""
    said: list[str] = field(default_factory=list)

    @property
    def config(self) -> Path:
        """Its configuration file."""
        return self.folder / "relay.toml"

    @property
    def journal(self) -> Path:
        """Its mail log."""
        return self.folder / "journal.log"

    async def start(self, timeout: float = 40) -> None:
        """Start it and wait until it is ready."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "relay", "serve", "--config", str(self.config), env=environment,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self.process.stderr is not None
        async with asyncio.timeout(timeout):
            while line := (await self.process.stderr.readline()).decode():
                self.said.append(line.strip())
                if line.startswith("relay is ready"):
                    return
        raise AssertionError(f"the relay did not start: {self.said}, exit status {await self.process.wait()}")

    async def fail(self) -> str:
        """Start it in vain, and return the one line it says; its exit status is 2."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "relay", "serve", "--config", str(self.config),
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(30):
            _, err = await process.communicate()
        assert process.returncode == 2, err
        [line] = err.decode().splitlines()
        return line

    async def stop(self) -> int:
        """Ask it to end, and return its exit status."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            return await self.process.wait()

    def events(self, *names: str) -> list[dict[str, Any]]:
        """The journal's lines of these events."""
        if not self.journal.exists():
            return []
        lines = (json.loads(line) for line in self.journal.read_text().splitlines())
        return [line for line in lines if not names or line["event"] in names]

    async def await_event(self, name: str, timeout: float = 10, after: int = 0) -> dict[str, Any]:
        """Wait until the journal shows more than `after` events of a name, and return the last."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if len(found := self.events(name)) > after:
                return found[-1]
            await asyncio.sleep(0.02)
        raise AssertionError(f"no event {name} within {timeout} s")

    def workers(self) -> dict[str, int]:
        """The process ids of the workers that run, by name."""
        started = {line["worker"]: line["pid"] for line in self.events("worker_started")}
        return {name: pid for name, pid in started.items() if Path(f"/proc/{pid}").exists()}

    def store_pid(self) -> int:
        """The process id of the embedded store."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for child in children:
            if "valkey" in Path(f"/proc/{child}/comm").read_text() or "redis" in Path(f"/proc/{child}/comm").read_text():
                return int(child)
        raise AssertionError("no store process")

    # -- its doors -----------------------------------------------------------------------------------------------------------

    async def cli(self, *words: str) -> Any:
        """Run a command of the shell door with --json, and return what it says. In this process: one of its own would cost a second."""

        def run() -> Any:
            with _SHELL:
                return invoke(app, *words, "--json", "--config", self.config).json

        return await asyncio.to_thread(run)

    async def add_owner(self) -> None:
        """Make the owner of this test's users."""
        made = await self.cli("owner", "add", "test")
        self.owner, self.token = made["owner_id"], made["token"]

    async def add_user(self, hourly: int = 1000, total: int = 1_000_000) -> User:
        """Make a user through the TES API."""
        if not self.owner:
            await self.add_owner()
        made = await self.tes("addSmtp", hourly_limit=hourly, total_limit=total)
        return User(made["smtp_user_name"], made["smtp_password"])

    async def tes(self, call: str, **body: Any) -> Any:
        """Make a TES call as the owner."""
        body |= {"owner_id": self.owner, "token": self.token}
        return await asyncio.to_thread(self._http, f"/v1.0/settings/{call}", body, "")

    async def usage(self, user: User) -> dict[str, Any]:
        """What the user is told of its own usage."""
        found: dict[str, Any] = await asyncio.to_thread(self._http, "/api/v1/usage", None, f"{user.name}:{user.password}")
        return found

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body of a GET."""
        return await asyncio.to_thread(self._get, path)

    def _get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.api}{path}", timeout=40) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def _http(self, path: str, body: Any, basic: str) -> Any:
        headers = {"Authorization": "Basic " + base64.b64encode(basic.encode()).decode()} if basic else {}
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"http://127.0.0.1:{self.api}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def send(self, user: User, count: int = 1) -> list[str]:
        """Send messages one after the other on one connection, and return the last reply to each. Runs in the caller's thread."""
        replies = []
        with smtplib.SMTP("127.0.0.1", self.smtp, timeout=30) as client:
            client.login(user.name, user.password)
            for number in range(count):
                client.mail("app@example.com")
                client.rcpt("to@example.net")
                try:
                    code, text = client.data(f"Subject: {number}\r\n\r\nHello\r\n")
                except smtplib.SMTPDataError as error:
                    code, raw = error.smtp_code, error.smtp_error
                    text = raw if isinstance(raw, bytes) else raw.encode()
                replies.append(f"{code} {text.decode()}")
                if code == 421:
                    break
                if code != 250:
                    client.rset()
        return replies


@asynccontextmanager
async def running(folder: Path, upstream: int, extra: str = "", workers: int = 2, is_started: bool = True) -> AsyncIterator[Relay]:
    """A relay in `folder` with its smarthost on a loopback port; `extra` is more TOML."""
    folder.mkdir(parents=True, exist_ok=True)
    relay = Relay(folder, free_port(), free_port())
    relay.config.write_text(
        f'[smtp]\nhostname = "relay.example"\nworkers = {workers}\n[[smtp.listen]]\nport = {relay.smtp}\nauth_without_tls = true\n'
        f'[api]\nport = {relay.api}\n[upstream]\nport = {upstream}\n[data]\ndirectory = "{folder / "data"}"\n'
        f'[journal]\nfile = "{relay.journal}"\n{extra}'
    )
    try:
        if is_started:
            await relay.start()
        yield relay
    finally:
        if relay.process is not None:
            await relay.stop()


@asynccontextmanager
async def store_server(port: int, folder: Path, options: str = "") -> AsyncIterator[asyncio.subprocess.Process]:
    """A store of the operator's own, which outlives the relays that use it."""
    server = await asyncio.create_subprocess_exec(find_server(), "-", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL)
    assert server.stdin is not None
    server.stdin.write(f"port {port}\nbind 127.0.0.1\nsave ''\nappendonly yes\nappendfsync always\ndir {folder}\n{options}".encode())
    server.stdin.close()
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            await asyncio.sleep(0.02)
        yield server
    finally:
        if server.returncode is None:
            server.kill()
        await server.wait()
