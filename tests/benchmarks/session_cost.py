"""What a session costs beside stock aiosmtpd: python -m tests.benchmarks.session_cost [--sizes ...] [--seconds N] [--rounds N]

CPU of the server's process (user and system) for one message, in µs: this relay's session alone, without a ledger or a smarthost, beside
aiosmtpd's SMTP with a handler that says 250 at once. All on uvloop, each in a process of its own; one client for all, 8 connections,
MAIL, RCPT and DATA in one group. The servers are measured in turns, each figure is the median of the rounds; whatever else the machine
does meanwhile meets all alike, so the ratios are what counts. The journal writes to /dev/null, as much as it would to a file.

Asked for: a quarter of stock's CPU at 2 KB, a fifth at 50 KB and at 1 MB. A message over a new connection, commands and connections are
shown beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import ssl
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trustme
import uvloop

from tests.benchmarks.session_client import Server, Talk, content, envelopes, leave, noops, repeat, send
from tests.benchmarks.session_server import KINDS

CONNECTIONS = 8
CONSTRUCTED = 2000
KB = 1024
ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class Process:
    """A server under test."""

    kind: str
    process: asyncio.subprocess.Process
    server: Server

    async def ask(self, line: str) -> float:
        """Ask for one of its figures."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line.encode() + b"\n")
        return float(await self.process.stdout.readline())

    async def cost(self, work: Callable[[], Awaitable[int]]) -> float:
        """µs of its CPU for one of what `work` does and counts."""
        before = await self.ask("cpu")
        count = await work()
        return (await self.ask("cpu") - before) / count * 1e6


Case = Callable[[Process], Awaitable[float]]


@dataclass(slots=True)
class Bench:
    """What all cases need."""

    seconds: float
    trust: ssl.SSLContext
    found: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def persistent(self, one: Callable[[Talk], Awaitable[int]], trust: ssl.SSLContext | None = None) -> Case:
        """Over connections that are open before."""

        async def case(process: Process) -> float:
            talks = [await process.server.enter(trust) for _ in range(CONNECTIONS)]
            for talk in talks:
                await one(talk)

            async def work() -> int:
                return sum(await asyncio.gather(*(repeat(partial(one, talk), self.seconds) for talk in talks)))

            cost = await process.cost(work)
            for talk in talks:
                await leave(talk)
            return cost

        return case

    def new(self, one: Callable[[Server], Awaitable[int]]) -> Case:
        """Over a new connection each."""

        async def case(process: Process) -> float:
            async def work() -> int:
                return sum(await asyncio.gather(*(repeat(partial(one, process.server), self.seconds) for _ in range(CONNECTIONS))))

            return await process.cost(work)

        return case

    def cases(self, sizes: list[int]) -> dict[str, Case]:
        """What is measured, by name."""

        async def message(server: Server) -> int:
            talk = await server.enter()
            await send(talk, content(2 * KB))
            await leave(talk)
            return 1

        async def secured(server: Server) -> int:
            talk = await server.enter(self.trust)
            await send(talk, content(2 * KB))
            await leave(talk)
            return 1

        async def nothing(server: Server) -> int:
            await leave(await server.connect())
            return 1

        def sending(size: int) -> Callable[[Talk], Awaitable[int]]:
            wire = content(size)
            return lambda talk: send(talk, wire)

        return {
            **{f"message of {show(size)}": self.persistent(sending(size)) for size in sizes},
            "2 KB over TLS": self.persistent(sending(2 * KB), self.trust),
            "1 MB over TLS": self.persistent(sending(KB * KB), self.trust),
            "2 KB, a connection each": self.new(message),
            "2 KB, a TLS connection each": self.new(secured),
            "connection: greeting, QUIT": self.new(nothing),
            "connection: only made": lambda process: process.ask(f"construct {CONSTRUCTED}"),
            "NOOP": self.persistent(noops),
            "MAIL, RCPT, RSET": self.persistent(envelopes),
        }


def show(size: int) -> str:
    """A size for reading."""
    return f"{size // (KB * KB)} MB" if size >= KB * KB else f"{size // KB} KB"


@asynccontextmanager
async def started(kind: str, folder: Path) -> AsyncIterator[Process]:
    """A server of its own process."""
    figures = folder / kind
    figures.mkdir()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.benchmarks.session_server", kind, str(folder / "certificate"), str(folder / "key"), cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(figures)},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        plain, tls = map(int, (await process.stdout.readline()).split())
        yield Process(kind, process, Server(plain, tls, kind != "stock"))
    finally:
        process.stdin.close()
        await process.wait()


def line(name: str, medians: dict[str, float]) -> str:
    """A line of the table."""
    figures = "".join(f"{medians[kind]:>18.1f}" for kind in KINDS)
    ours = medians["ours"]
    return f"{name:<28}{figures}{medians['stock'] / ours:>10.1f}{medians['stock+auth'] / ours:>14.1f}"


async def run(sizes: list[int], seconds: float, rounds: int, only: str) -> None:
    """Measure everything in turns, and print the table."""
    with tempfile.TemporaryDirectory(prefix="relay-") as name:
        folder = Path(name)
        authority = trustme.CA()
        issued = authority.issue_cert("localhost")
        issued.cert_chain_pems[0].write_to_path(folder / "certificate")
        issued.private_key_pem.write_to_path(folder / "key")
        trust = ssl.create_default_context()
        authority.configure_trust(trust)
        bench = Bench(seconds, trust)
        print(f"{'µs of CPU':<28}" + "".join(f"{kind:>18}" for kind in KINDS) + f"{'x stock':>10}{'x stock+auth':>14}", flush=True)
        async with AsyncExitStack() as stack:
            processes = [await stack.enter_async_context(started(kind, folder)) for kind in KINDS]
            for title, case in bench.cases(sizes).items():
                if only not in title:
                    continue
                found: dict[str, list[float]] = {kind: [] for kind in KINDS}
                for _ in range(rounds):
                    for process in processes:
                        found[process.kind].append(await case(process))
                print(line(title, {kind: statistics.median(figures) for kind, figures in found.items()}), flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[2 * KB, 50 * KB, KB * KB])
    parser.add_argument("--seconds", type=float, default=0.5, help="of one measurement of one server")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    given = parser.parse_args()
    uvloop.run(run(given.sizes, given.seconds, given.rounds, given.only))


if __name__ == "__main__":
    main()
