"""A Cluster of three nodes on loopback."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

from relay.store.client import Store, StoreUnavailable
from relay.store.embedded import find_server

SLOTS = 16384


@dataclass
class Node:
    """One server of the Cluster, with a plain client to it alone."""

    port: int
    bus: int
    process: subprocess.Popen[bytes]
    store: Store


@asynccontextmanager
async def running_cluster(count: int = 3) -> AsyncIterator[list[Node]]:
    """Start the nodes, share the slots out among them, and wait until all agree; stop them by pid."""
    place = Path(tempfile.mkdtemp(prefix="relay-"))
    ports = _free_ports(2 * count)
    nodes = [_start(place / str(port), port, bus) for port, bus in zip(ports[:count], ports[count:], strict=True)]
    try:
        async with asyncio.timeout(30):
            await _form(nodes)
        yield nodes
    finally:
        for node in nodes:
            await node.store.close()
            node.process.kill()
            node.process.wait()
        shutil.rmtree(place, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def _start(folder: Path, port: int, bus: int) -> Node:
    folder.mkdir()
    text = f"""dir "{folder}"
bind 127.0.0.1
port {port}
cluster-enabled yes
cluster-port {bus}
cluster-node-timeout 1500
cluster-config-file nodes.conf
save ""
appendonly yes
appendfsync always
maxmemory-policy noeviction
"""
    process = subprocess.Popen([find_server(), "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stdin is not None
    process.stdin.write(text.encode())
    process.stdin.close()
    return Node(port, bus, process, Store(f"redis://127.0.0.1:{port}"))


async def _form(nodes: list[Node]) -> None:
    share = -(-SLOTS // len(nodes))
    for number, node in enumerate(nodes):
        await _answers(node)
        await node.store.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        await node.store.command("CLUSTER", "ADDSLOTSRANGE", number * share, min((number + 1) * share, SLOTS) - 1)
    for node in nodes[1:]:
        await node.store.command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, nodes[0].bus)
    for node in nodes:
        while not await _is_ready(node, len(nodes)):
            await asyncio.sleep(0.02)


async def _answers(node: Node) -> None:
    while True:
        assert node.process.poll() is None
        try:
            await node.store.command("PING")
        except StoreUnavailable:
            await asyncio.sleep(0.01)
        else:
            return


async def _is_ready(node: Node, count: int) -> bool:
    info: bytes = await node.store.command("CLUSTER", "INFO")
    lines = info.decode().split("\r\n")
    return {"cluster_state:ok", f"cluster_known_nodes:{count}", f"cluster_slots_ok:{SLOTS}"} <= set(lines)
