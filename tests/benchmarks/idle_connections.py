"""What idle TLS connections take of the workers' memory: python -m tests.benchmarks.idle_connections [--connections N] [--tls MODE]

A relay as shipped, two SMTP workers, its embedded store; clients that have connected, secured their connection, logged in, and are silent.
Memory is what the kernel says of the worker processes (smaps_rollup): Rss, and Pss, in which pages that processes share count once.
Asked for: 10,000 connections in less than 400 MB of all workers; a worker at rest in 60 MB, a connection in 40 KB.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import re
import resource
import sys
import tempfile
from pathlib import Path

import trustme

from tests.running import Relay, free_port, running

CLIENTS = 4
ROOT = Path(__file__).parents[2]
SETTLE = 2.0
"""Seconds between the last log-in and the measurement."""


def memory(pids: list[int]) -> tuple[float, float]:
    """Rss and Pss of these processes together, in MB."""
    texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]

    def total(name: str) -> float:
        return sum(int(size) for text in texts for size in re.findall(rf"^{name}:\s+(\d+)", text, re.MULTILINE)) / 1024

    return total("Rss"), total("Pss")


def listener(folder: Path, mode: str, port: int) -> str:
    """The listener with TLS."""
    return (
        f'[[smtp.listen]]\nport = {port}\ntls = "{mode}"\n[smtp.tls]\ncertificate = "{folder / "certificate"}"\nkey = "{folder / "key"}"\n'
    )


def limits(connections: int) -> str:
    """Limits that so many connections do not meet."""
    given = {
        "max_connections": connections + 100, "max_connections_per_address": connections + 100, "max_connections_per_user": 0,
        "login_timeout_seconds": 3600, "command_timeout_seconds": 3600,
    }  # fmt: skip
    return "".join(f"{name} = {value}\n" for name, value in given.items())


def certify(folder: Path) -> None:
    """Make a certificate for localhost and the file of who signed it."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(folder / "authority")
    issued.cert_chain_pems[0].write_to_path(folder / "certificate")
    issued.private_key_pem.write_to_path(folder / "key")


async def fill(relay: Relay, port: int, mode: str, count: int, plain: str) -> list[asyncio.subprocess.Process]:
    """Open so many connections from processes of their own."""
    clients = []
    for number in range(CLIENTS):
        share = count * (number + 1) // CLIENTS - count * number // CLIENTS
        clients.append(
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.benchmarks.idle_client", str(port), mode, str(share), str(relay.folder / "authority"), plain,
                cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )
        )  # fmt: skip
    for client in clients:
        assert client.stdout is not None
        assert await client.stdout.readline() == b"open\n"
    return clients


def report(title: str, pids: list[int], connections: int, before: float = 0.0) -> float:
    """Print a line of the table; returns the workers' Rss in MB."""
    rss, pss = memory(pids)
    each = f"{(rss - before) * 1024 / connections:>16.1f}" if connections else ""
    print(f"{title:<34}{rss:>10.1f}{pss:>10.1f}{max(memory([pid])[0] for pid in pids):>14.1f}{each}", flush=True)
    return rss


async def run(connections: int, mode: str) -> None:
    """Measure."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="relay-") as name:
        folder = Path(name)
        certify(folder)
        async with running(folder, free_port(), listener(folder, mode, port), is_started=False) as relay:
            text = relay.config.read_text()
            relay.config.write_text(text.replace("workers = 2\n", f"workers = 2\n{limits(connections)}", 1))
            await relay.start()
            user = await relay.add_user()
            pids = [pid for worker, pid in relay.workers().items() if worker.startswith("smtp")]
            print(f"{'MB of the SMTP workers':<34}{'Rss':>10}{'Pss':>10}{'largest Rss':>14}{'KB/connection':>16}", flush=True)
            before = report("at rest", pids, 0)
            plain = base64.b64encode(f"\0{user.name}\0{user.password}".encode()).decode()
            clients = await fill(relay, port, mode, connections, plain)
            await asyncio.sleep(SETTLE)
            report(f"{connections} idle, {mode}", pids, connections, before)
            for client in clients:
                assert client.stdin is not None
                client.stdin.close()
                await client.wait()
            await asyncio.sleep(SETTLE)
            report("all closed", pids, 0)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--tls", choices=["starttls", "implicit"], default="starttls")
    given = parser.parse_args()
    asyncio.run(run(given.connections, given.tls))


if __name__ == "__main__":
    main()
