"""What a connection costs: python -m tests.benchmarks.connection_cost [--tree PATH ...] [--seconds N] [--rounds N]

CPU (user and system) of the server's process and of the store, in µs, for one connection with AUTH and one message of 2 KB, plain and
behind STARTTLS with a whole handshake (ECDSA P-256) or a resumed one; beside it the same message on a connection that stays open. The
difference is what the connection costs. Accounts, throttle, presence and journal are the relay's own on a store of its own; what would
come behind them answers at once. Stock aiosmtpd beside it, and each `--tree` another checkout of this relay: all are measured in turns,
each figure is the median of the rounds, so the ratios are what counts.

Asked for: not more than 130 µs of the relay and 25 µs of the store without TLS.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import ssl
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import trustme
import uvloop

from relay.accounts.secrets import open_key
from relay.store.client import Store
from relay.store.embedded import Embedded
from tests.benchmarks.session_client import Talk, content, leave, send

CONNECTIONS = 20
USER, PASSWORD = "smtp123456789", "CorrectHorseBattery22x"
ROOT = Path(__file__).parents[2]
WIRE = content(2048)
_LOGIN = b"AUTH PLAIN " + base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()) + b"\r\n"


@dataclass(slots=True)
class Server:
    """A server under test."""

    name: str
    process: asyncio.subprocess.Process
    plain: int
    starttls: int

    async def cpu(self) -> float:
        """Seconds of its CPU so far."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"cpu\n")
        return float(await self.process.stdout.readline())

    async def enter(self, trust: ssl.SSLContext | None = None) -> Talk:
        """Connect, secure the connection if it is to be, and log in."""
        loop = asyncio.get_running_loop()
        _, talk = await loop.create_connection(Talk, "127.0.0.1", self.starttls if trust else self.plain)
        await talk.expect(b"220")
        if trust is not None:
            talk.transport.write(b"EHLO client.example\r\n")
            await talk.expect(b"250")
            talk.transport.write(b"STARTTLS\r\n")
            await talk.expect(b"220")
            secured = await loop.start_tls(talk.transport, talk, trust, server_hostname="localhost")
            talk.transport = cast(asyncio.Transport, secured)
        talk.transport.write(b"EHLO client.example\r\n")
        await talk.expect(b"250")
        talk.transport.write(_LOGIN)
        await talk.expect(b"235")
        return talk


Case = Callable[[Server], Awaitable[tuple[float, float]]]


@dataclass(frozen=True, slots=True)
class Bench:
    """What all cases need."""

    seconds: float
    trust: ssl.SSLContext
    store: Store

    async def measure(self, server: Server, work: Callable[[], Awaitable[None]]) -> tuple[float, float]:
        """µs of CPU of the server and of the store for one of what `work` does, by many clients."""
        loop, done = asyncio.get_running_loop(), 0

        async def client(end: float) -> None:
            nonlocal done
            while loop.time() < end:
                await work()
                done += 1

        before = await server.cpu(), await self._store_cpu()
        await asyncio.gather(*(client(loop.time() + self.seconds) for _ in range(CONNECTIONS)))
        after = await server.cpu(), await self._store_cpu()
        return (after[0] - before[0]) / done * 1e6, (after[1] - before[1]) / done * 1e6

    async def _store_cpu(self) -> float:
        found: bytes = await self.store.command("INFO", "cpu")
        lines = dict(line.split(":") for line in found.decode().split("\r\n") if ":" in line)
        return float(lines["used_cpu_user"]) + float(lines["used_cpu_sys"])

    async def open(self, server: Server) -> tuple[float, float]:
        """Messages on connections that stay open."""
        free = [await server.enter() for _ in range(CONNECTIONS)]

        async def one() -> None:
            talk = free.pop()
            await send(talk, WIRE)
            free.append(talk)

        found = await self.measure(server, one)
        for talk in free:
            await leave(talk)
        return found

    def each(self, trust: ssl.SSLContext | None) -> Case:
        """A connection for each message."""

        async def case(server: Server) -> tuple[float, float]:
            async def one() -> None:
                talk = await server.enter(trust)
                await send(talk, WIRE)
                await leave(talk)

            return await self.measure(server, one)

        return case

    def cases(self) -> dict[str, Case]:
        """What is measured, by name."""
        return {
            "open connections": self.open,
            "a connection each": self.each(None),
            "a STARTTLS connection each": self.each(self.trust),
        }


@asynccontextmanager
async def started(name: str, tree: Path, folder: Path, url: str) -> AsyncIterator[Server]:
    """A server of its own process."""
    figures = folder / name.replace("/", "_")
    figures.mkdir()
    program = str(Path(__file__).with_name("connection_server.py"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, program, name, str(folder / "certificate"), str(folder / "key"), url, str(folder / "accounts"), cwd=tree,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(figures), "PYTHONPATH": str(tree)},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        plain, starttls = map(int, (await process.stdout.readline()).split())
        yield Server(name, process, plain, starttls)
    finally:
        process.stdin.close()
        await process.wait()


async def furnish(store: Store, folder: Path) -> ssl.SSLContext:
    """Make a user, and a certificate; returns what trusts it."""
    key = open_key(folder / "accounts")
    await store.command(
        "HSET", f"{{u:{USER}}}", "owner", "12345678", "status", "E", "ostatus", "E", "gen", 1, "hourly", "", "total", "",
        "kind", "h", "hash", key.hash_password(USER, PASSWORD),
    )  # fmt: skip
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(folder / "certificate")
    issued.private_key_pem.write_to_path(folder / "key")
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    return trust


def line(title: str, found: dict[str, list[tuple[float, float]]]) -> str:
    """A line of the table: for each server its own CPU and the store's."""
    medians = [tuple(statistics.median(figures) for figures in zip(*rounds, strict=True)) for rounds in found.values()]
    return f"{title:<28}" + "".join(f"{own:>16.1f} +{store:>6.1f}" for own, store in medians)


async def run(trees: list[Path], seconds: float, rounds: int, only: str) -> None:
    """Measure everything in turns, and print the table."""
    with tempfile.TemporaryDirectory(prefix="relay-") as name:
        folder = Path(name)
        embedded = Embedded(folder, None, "256mb", lambda name, text: None)
        url = await embedded.start()
        store = Store(url)
        try:
            bench = Bench(seconds, await furnish(store, folder), store)
            async with AsyncExitStack() as stack:
                servers = [await stack.enter_async_context(started("stock", ROOT, folder, url))]
                servers += [await stack.enter_async_context(started(str(tree), tree, folder, url)) for tree in (ROOT, *trees)]
                print(f"{'µs of CPU, own + store':<28}" + "".join(f"{server.name[-23:]:>24}" for server in servers), flush=True)
                for title, case in bench.cases().items():
                    if only not in title:
                        continue
                    found: dict[str, list[tuple[float, float]]] = {server.name: [] for server in servers}
                    for _ in range(rounds):
                        for server in servers:
                            found[server.name].append(await case(server))
                    print(line(title, found), flush=True)
        finally:
            await store.close()
            await embedded.stop()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, action="append", default=[], help="another checkout to measure beside this one")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement of one server")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    given = parser.parse_args()
    uvloop.run(run(given.tree, given.seconds, given.rounds, given.only))


if __name__ == "__main__":
    main()
