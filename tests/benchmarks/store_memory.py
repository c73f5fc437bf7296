"""What a user costs the store's memory: python -m tests.benchmarks.store_memory [--users 100000] [--sends 10] [--ledger 20000]

Users are made by provisioning's own calls, with a generated name and password and both limits. Their sends go through the ledger's own
calls, spread evenly over the window by a clock that the benchmark moves, one a step, so that none leaves it and none shares a second.
That is what costs most: sends of the same second share an entry. Beyond the first `--ledger` users, books are copied from theirs, octet
for octet (DUMP and RESTORE); a million users take a few minutes then.

Printed are octets of INFO used_memory a user, what of it are its keys by their kinds (MEMORY USAGE, over a sample), and the rest: the
owner's index and the keyspace's table. Asked is: at most 800 octets a user with ten sends in the window, accounts included.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import tempfile
import time
from collections.abc import Awaitable, Iterable
from pathlib import Path

import uvloop

from relay.accounts.owner import users_key
from relay.accounts.provisioning import Provisioning
from relay.accounts.registry import Registry
from relay.accounts.secrets import Key
from relay.accounts.user import user_key
from relay.journal import Journal
from relay.quota.ledger import Hold, Ledger
from relay.quota.limit import Rules
from relay.store.client import Command, Store
from relay.store.embedded import Embedded

AT_ONCE = 250
SAMPLE = 500
MODELS = 50
"""Users whose books are copied."""
START = 1_800_000_000
CLOCK = "local function clock() return tonumber(redis.call('GET', '{clock}')) end\n"

Book = tuple[list[bytes], dict[bytes, bytes]]
"""What the ledger wrote of a user: fields of its hash and their values in turn; and by the ends of their names, its other keys."""


async def in_turns(store: Store, commands: list[Command]) -> list[object]:
    """The answers to many commands, not all of which are on their way at once."""
    answers: list[object] = []
    for i in range(0, len(commands), 5000):
        answers += await store.many(commands[i : i + 5000])
    return answers


async def side_by_side(work: Iterable[Awaitable[object]]) -> list[object]:
    """What comes of each, at most AT_ONCE at a time."""
    todo = iter(work)
    results: list[object] = []

    async def carry() -> None:
        for one in todo:
            results.append(await one)

    await asyncio.gather(*(carry() for _ in range(AT_ONCE)))
    return results


async def used(store: Store) -> int:
    """INFO used_memory, in octets."""
    found = re.search(rb"\nused_memory:(\d+)", await store.command("INFO", "memory"))
    assert found is not None
    return int(found[1])


# -- making -------------------------------------------------------------------------------------------------------------------


async def make_users(store: Store, count: int) -> tuple[str, list[str]]:
    """Make users of one owner as an operator does; returns its id and their names."""
    key = Key(os.urandom(32))
    with Path(os.devnull).open("wb") as nowhere:
        journal = Journal(nowhere.fileno(), "relay.example")
        registry, ledger = Registry(store, key), Ledger(store, Rules(), CLOCK)
        provisioning = Provisioning(store, key, registry, ledger, journal)
        owner, _ = await provisioning.add_owner("Benchmark")

        async def make() -> str:
            return (await provisioning.add_user(owner.owner_id, 10_000, 1_000_000))[0].name

        names = await side_by_side(make() for _ in range(count))
    return owner.owner_id, [str(name) for name in names]


async def send(store: Store, names: list[str], sends: int) -> None:
    """Let each user send, evenly over a window."""
    ledger = Ledger(store, Rules(), CLOCK)
    generations = await in_turns(store, [("HGET", user_key(name), "gen") for name in names])

    async def one(name: str, generation: object, id: str) -> None:
        assert isinstance(generation, bytes)
        assert isinstance(await ledger.reserve(name, id, 1, int(generation)), Hold)
        assert (await ledger.settle(name, id, 1, 1)).outcome == "ok"

    for turn in range(sends):
        await store.command("SET", "{clock}", (START + turn * Rules().window // sends) * 1_000_000)
        number = turn * len(names)
        await side_by_side(
            one(name, gen, f"0abcdefg{number + i:06x}") for i, (name, gen) in enumerate(zip(names, generations, strict=True))
        )


async def read_book(store: Store, name: str, account: set[bytes]) -> Book:
    """What the ledger wrote of a user, whose account has these fields."""
    flat = await store.command("HGETALL", user_key(name))
    fields = [part for i in range(0, len(flat), 2) if flat[i] not in account for part in flat[i : i + 2]]
    keys = [key for key in await keys_of(store, name) if key != user_key(name).encode()]
    dumps = await store.many([("DUMP", key) for key in keys])
    return fields, {key[len(user_key(name)) :]: dump for key, dump in zip(keys, dumps, strict=True)}


def copied(name: str, book: Book) -> list[Command]:
    """What gives a user another's book."""
    fields, keys = book
    commands: list[Command] = [("HSET", user_key(name), *fields)] if fields else []
    return commands + [("RESTORE", user_key(name).encode() + end, 0, dump) for end, dump in keys.items()]


# -- measuring ----------------------------------------------------------------------------------------------------------------


async def keys_of(store: Store, name: str) -> list[bytes]:
    """All keys of a user; each look goes through the whole store."""
    return list(await store.command("KEYS", f"{user_key(name)}*"))


async def by_kind(store: Store, names: list[str], ends: set[bytes]) -> dict[str, float]:
    """Octets of each kind of key that a user has, on average over a sample, and how it is encoded."""
    sample = names[:: max(1, len(names) // SAMPLE)]
    found: dict[str, float] = {}
    for end in sorted(ends):
        keys = [user_key(name).encode() + end for name in sample]
        sizes = await store.many([("MEMORY", "USAGE", key, "SAMPLES", 0) for key in keys])
        encodings = await store.many([("OBJECT", "ENCODING", key) for key in keys])
        names_of = "/".join(sorted({encoding.decode() for encoding in encodings if encoding}))
        found[f"{{u:NAME}}{end.decode()} ({names_of})"] = sum(size or 0 for size in sizes) / len(sample)
    return found


async def measure(store: Store, users: int, sends: int, through_ledger: int) -> dict[str, float]:
    """Make users and let them send; octets a user, by what they are for."""
    await store.many([("CONFIG", "SET", "appendonly", "no"), ("CONFIG", "SET", "maxmemory", 0), ("SET", "{clock}", START * 1_000_000)])
    before = await used(store)
    owner, names = await make_users(store, users)
    accounts = await used(store)
    fields = set(await store.command("HKEYS", user_key(names[0])))
    own, others = names[:through_ledger], names[through_ledger:]
    await send(store, own, sends)
    models = own[:MODELS]
    books = [await read_book(store, name, fields) for name in models]
    commands = [command for i, name in enumerate(others) for command in copied(name, books[i % len(books)])]
    await in_turns(store, commands)
    whole = await used(store)
    kinds = await by_kind(store, names, {b""} | {end for _, keys in books for end in keys})
    found = {"accounts, before any send": (accounts - before) / users, "in all": (whole - before) / users}
    kinds["the owner's index"] = await store.command("MEMORY", "USAGE", users_key(owner), "SAMPLES", 0) / users
    return {**kinds, "the table of keys, and the rest": found["in all"] - sum(kinds.values()), **found}


async def run(users: int, sends: int, through_ledger: int) -> dict[str, float]:
    """Measure on a new store."""
    with tempfile.TemporaryDirectory(prefix="relay-") as folder:
        embedded = Embedded(Path(folder), None, "0", lambda name, text: None)
        store = Store(await embedded.start(), timeout=60.0)
        try:
            return await measure(store, users, sends, through_ledger)
        finally:
            await store.close()
            await embedded.stop()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser("store_memory")
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--sends", type=int, default=10)
    parser.add_argument("--ledger", type=int, default=20_000, help="whose sends go through the ledger; the others' books are copied")
    asked = parser.parse_args()
    began = time.monotonic()
    figures = uvloop.run(run(asked.users, asked.sends, asked.ledger))
    print(f"{asked.users} users with {asked.sends} sends each in the window ({time.monotonic() - began:.0f} s)")
    for name, value in figures.items():
        print(f"{name:<60}{value:>10.1f} octets a user")


if __name__ == "__main__":
    main()
