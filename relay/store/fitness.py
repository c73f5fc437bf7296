"""Whether a store may be used at all, and whether it is the one this node belongs to.

Promises: an evicting or too old server, or one whose other nodes count differently, is refused at start (Unfit); weaker
persistence than `appendfsync always` is named with what it can lose; a store that came back empty is told from a new one by an
epoch kept in the store and in the node's data directory, and stays refused until a person adopts it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relay.store.client import EPOCH_KEY, Store, StoreForeign, StoreRefused
from relay.store.link import Ask, Verify

META_KEY = "relay:meta"
OLDEST = (7, 0)


class Unfit(Exception):
    """The store cannot keep the relay's promises; the text is one line for the operator."""


async def inspect(store: Store) -> list[str]:
    """Check version, eviction and persistence; returns warnings, raises Unfit or StoreUnavailable."""
    info: dict[str, str] = {}
    for section in ("server", "memory", "persistence"):
        info |= _parse_info(await _anywhere(store, "INFO", section))
    version = tuple(int(part) for part in info.get("redis_version", "0").split(".")[:2])
    if version < OLDEST:
        raise Unfit(f"store: version {info.get('redis_version')} is too old, Redis or Valkey >= 7.0 is needed")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise Unfit(f"store: maxmemory-policy is {policy}, it would evict accounts and counters; set it to noeviction")
    if info.get("aof_enabled") != "1":
        return ["store: no append-only file; everything since the last snapshot is lost when it stops"]
    try:
        # redis-py routes a command of two words in a Cluster only when they are given as one.
        answer = await _anywhere(store, *(["CONFIG GET"] if store.is_cluster else ["CONFIG", "GET"]), "appendfsync")
    except StoreRefused:
        return ["store: appendfsync cannot be read (CONFIG is refused); unless it is 'always', a power failure loses acknowledged sends"]
    fsync = _text(next(iter(answer.values())) if isinstance(answer, dict) else answer[1])
    if fsync != "always":
        loss = "about one second of" if fsync == "everysec" else "some"
        return [f"store: appendfsync is {fsync}; a power failure can lose {loss} acknowledged sends from the counters"]
    return []


async def agree(store: Store, facts: Mapping[str, str]) -> None:
    """Record how this relay counts, or check it against what the store's other nodes recorded; raises Unfit on a difference."""
    for name, value in facts.items():
        await store.command("HSETNX", META_KEY, name, value)
        found = _text(await store.command("HGET", META_KEY, name))
        if found != value:
            raise Unfit(f"store: its nodes were set up with {name} = {found}, this one has {value}; they must agree")


def standing(facts: Mapping[str, str]) -> Verify:
    """What each new connection must stand: a server that came back evicting, or counting otherwise, is not used."""

    async def verify(ask: Ask) -> None:
        info = _parse_info(await ask("INFO", "memory"))
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise StoreForeign(f"maxmemory-policy is {policy}: it would evict accounts and counters")
        flat = await ask("HGETALL", META_KEY)
        for name, value in zip(flat[::2], flat[1::2], strict=True):
            if facts.get(_text(name), _text(value)) != _text(value):
                raise StoreForeign(f"its nodes were set up with {_text(name)} = {_text(value)}, this one has {facts[_text(name)]}")

    return verify


async def join(store: Store, file: Path) -> bool:
    """Join the store, or find it again by the epoch in `file`; True if it was new to this node.

    Raises StoreForeign if the node knows another epoch than the store shows (none: it came back empty).
    """
    store.epoch = None
    known = file.read_bytes().strip() if file.exists() else None
    if known is None:
        await _adopt(store, file)
        return True
    found = await store.command("GET", EPOCH_KEY)
    if found != known:
        store.epoch = known
        what = "is empty" if found is None else "is another store"
        raise StoreForeign(f"the store {what}: epoch {_text(found)} instead of {_text(known)}; see `relay ledger adopt`")
    store.epoch = known
    return False


async def adopt(store: Store, file: Path) -> str:
    """Make the store this node's own whatever it was before, and return its epoch; all its counters are as found."""
    store.epoch = None
    return await _adopt(store, file)


async def is_ours(store: Store) -> bool:
    """Whether the store still shows the epoch: asked on each miss, so that a flushed store never says `unknown user`."""
    return bool(await store.command("GET", EPOCH_KEY) == store.epoch)


async def _adopt(store: Store, file: Path) -> str:
    await store.command("SETNX", EPOCH_KEY, secrets.token_hex(8))
    epoch: bytes = await store.command("GET", EPOCH_KEY)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}.new")
    with draft.open("wb") as out:
        out.write(epoch + b"\n")
        out.flush()
        os.fsync(out.fileno())
    draft.replace(file)
    store.epoch = epoch
    return epoch.decode("ascii")


async def _anywhere(store: Store, *command: str) -> Any:
    """Ask one node; in a Cluster redis-py answers per node, and the first stands for all."""
    answer = await store.command(*command)
    if store.is_cluster and isinstance(answer, dict) and answer and all(isinstance(v, dict | list) for v in answer.values()):
        return next(iter(answer.values()))
    return answer


def _parse_info(answer: Any) -> dict[str, str]:
    if isinstance(answer, Mapping):  # redis-py parses INFO where it knows the command
        return {_text(key): _text(value) for key, value in answer.items()}
    lines = _text(answer).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else "none" if value is None else str(value)
