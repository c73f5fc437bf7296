"""What it costs to hand a message to a smarthost: python -m tests.benchmarks.upstream_cost [--sizes ...] [--seconds N] [--rounds N]

CPU of this process (user and system) for one message, in µs: `aiosmtplib.sendmail` beside this relay's own sessions and its pool of them,
all on uvloop and over 4 connections that are open before, to one smarthost in another process that takes everything at once and offers
PIPELINING, SIZE and 8BITMIME; where the case says so, CHUNKING too, or TLS. One recipient, the same octets. They are measured in turns,
each figure is the median of the rounds; whatever else the machine does meanwhile meets all alike, so the ratios are what counts.

Asked for: a quarter of aiosmtplib's CPU at 2 KB, a twentieth at 1 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiosmtplib
import trustme
import uvloop

from relay.mail.envelope import Envelope, Recipient
from relay.mail.verdict import Delivered
from relay.upstream.opening import connect
from relay.upstream.pool import Pool
from relay.upstream.progress import Progress
from relay.upstream.route import Target, tls_context
from relay.upstream.smarthost import Message, Smarthost
from relay.upstream.terms import Terms

CONNECTIONS = 4
KB = 1024
ROOT = Path(__file__).parents[2]
SENDER, RECIPIENT = "sender@example.com", "recipient@example.org"
PREFIX = (
    b"Received: from client.example ([192.0.2.1])\r\n\tby relay.example with ESMTPSA id 0123456789abcdef;\r\n"
    b"\tSat, 21 Nov 2026 10:00:00 +0000\r\n"
)
HEADER = (
    b"Date: Sat, 21 Nov 2026 10:00:00 +0000\r\nFrom: Sender <sender@example.com>\r\nTo: recipient@example.org\r\n"
    b"Message-ID: <20261121100000.1@example.com>\r\nSubject: Benchmark\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n\r\n"
)
TO = Recipient(RECIPIENT)
ENVELOPE, TERMS = Envelope(SENDER, (TO,)), Terms(20.0, is_split=True)

Send = Callable[[], Awaitable[object]]


def content(size: int) -> bytes:
    """A message of about that size in wire form, lines of 78 octets."""
    return HEADER + (b"x" * 76 + b"\r\n") * ((size - len(PREFIX) - len(HEADER)) // 78)


@dataclass(frozen=True, slots=True)
class Place:
    """A listener of the smarthost."""

    port: int
    ca_file: Path | None = None

    @asynccontextmanager
    async def by_aiosmtplib(self, wire: bytes) -> AsyncIterator[list[Send]]:
        """What sends one message over each of its connections."""
        trust = ssl.create_default_context(cafile=self.ca_file) if self.ca_file else None
        clients = [
            aiosmtplib.SMTP(
                hostname="127.0.0.1", port=self.port, local_hostname="relay.example", use_tls=trust is not None, start_tls=False,
                tls_context=trust,
            )
            for _ in range(CONNECTIONS)
        ]  # fmt: skip
        for client in clients:
            await client.connect()
        yield [partial(client.sendmail, SENDER, [RECIPIENT], PREFIX + wire) for client in clients]
        for client in clients:
            client.close()

    @property
    def target(self) -> Target:
        """As this relay knows it."""
        return Target(
            "127.0.0.1", self.port, "tls" if self.ca_file else "none", ca_file=self.ca_file, max_connections=CONNECTIONS,
            max_messages=1 << 30,
        )  # fmt: skip

    @asynccontextmanager
    async def by_session(self, wire: bytes) -> AsyncIterator[list[Send]]:
        """What sends one message over each of its sessions."""
        context = tls_context(self.target)
        sessions = [await connect(self.target, context, "relay.example") for _ in range(CONNECTIONS)]
        message = Message(PREFIX, wire)

        async def send(session: Smarthost) -> None:
            progress = Progress(asyncio.get_running_loop().time(), TERMS.deadline)
            verdict = (await session.transact(ENVELOPE, message, progress, TERMS))[TO]
            assert isinstance(verdict, Delivered), verdict

        yield [partial(send, session) for session in sessions]
        for session in sessions:
            session.close()

    @asynccontextmanager
    async def by_pool(self, wire: bytes) -> AsyncIterator[list[Send]]:
        """What sends one message through a pool of as many."""
        pool = Pool(self.target, "relay.example")
        message = Message(PREFIX, wire)

        async def send() -> None:
            verdict = (await pool.forward(ENVELOPE, message, TERMS)).verdicts[TO]
            assert isinstance(verdict, Delivered), verdict

        yield [send] * CONNECTIONS
        pool.close()


async def cost(way: Callable[[bytes], object], wire: bytes, seconds: float) -> float:
    """µs of CPU for one message."""
    async with way(wire) as sends:  # type: ignore[attr-defined]
        await asyncio.gather(*(send() for send in sends))
        gc.collect()
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds

        async def repeat(send: Send) -> int:
            done = 0
            while loop.time() < end:
                await send()
                done += 1
            return done

        before = time.process_time()
        count = sum(await asyncio.gather(*(repeat(send) for send in sends)))
        return (time.process_time() - before) / count * 1e6


@asynccontextmanager
async def smarthost(folder: Path) -> AsyncIterator[dict[str, Place]]:
    """The listeners of a smarthost in a process of its own, by what is said of them in the table."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(folder / "certificate")
    issued.private_key_pem.write_to_path(folder / "key")
    authority.cert_pem.write_to_path(folder / "authority")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.benchmarks.upstream_sink", str(folder / "certificate"), str(folder / "key"), cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        plain, chunking, tls = map(int, (await process.stdout.readline()).split())
        yield {"": Place(plain), ", CHUNKING": Place(chunking), ", TLS": Place(tls, folder / "authority")}
    finally:
        process.stdin.close()
        await process.wait()


def show(size: int) -> str:
    """A size for reading."""
    return f"{size // (KB * KB)} MB" if size >= KB * KB else f"{size // KB} KB"


async def measure(title: str, place: Place, wire: bytes, seconds: float, rounds: int) -> None:
    """Measure the three in turns, and print a line of the table."""
    found: list[list[float]] = [[], [], []]
    for _ in range(rounds):
        for figures, way in zip(found, (place.by_aiosmtplib, place.by_session, place.by_pool), strict=True):
            figures.append(await cost(way, wire, seconds))
    theirs, session, pool = map(statistics.median, found)
    print(f"{title:<20}{theirs:>14.1f}{session:>14.1f}{pool:>14.1f}{theirs / session:>12.1f}{theirs / pool:>12.1f}", flush=True)


async def run(sizes: Sequence[int], seconds: float, rounds: int, only: str) -> None:
    """Print the table."""
    print(f"{'µs of CPU':<20}{'aiosmtplib':>14}{'session':>14}{'pool':>14}{'x session':>12}{'x pool':>12}", flush=True)
    gc.collect()
    gc.freeze()  # as the relay's workers do
    with tempfile.TemporaryDirectory(prefix="relay-") as folder:
        async with smarthost(Path(folder)) as places:
            for name, place in places.items():
                for size in sizes:
                    if only in (title := show(size) + name):
                        await measure(title, place, content(size), seconds, rounds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[2 * KB, 50 * KB, KB * KB])
    parser.add_argument("--seconds", type=float, default=0.5, help="of one measurement of one of the two")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    given = parser.parse_args()
    uvloop.run(run(given.sizes, given.seconds, given.rounds, given.only))


if __name__ == "__main__":
    main()
