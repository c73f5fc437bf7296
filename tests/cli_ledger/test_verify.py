"""relay ledger verify, at the shell."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from relay.accounts.secrets import open_key
from relay.cli.app import app
from relay.quota.ledger import key
from relay.store.client import Store
from tests.cli_ledger.conftest import add_users, send
from tests.quota.counters import moved
from tests.shell import Shell, invoke


async def test_untouched_books_have_no_difference(relay: Shell, store: Store) -> None:
    empty = await relay("ledger", "verify")
    assert (empty.status, empty.out) == (0, "0 users recounted, no difference\n")
    users = await add_users(relay, 3)
    for number in range(5):
        await send(store, users[0], f"m{number}")
    every = await relay("ledger", "verify")
    assert (every.status, every.out) == (0, "3 users recounted, no difference\n")
    one = await relay("ledger", "verify", users[0])
    assert one.status == 0 and one.out.startswith(f"{users[0]}: no difference; 5 settles on record, the first of ")
    none = await relay("ledger", "verify", users[1])
    assert (none.status, none.out) == (0, f"{users[1]}: no difference; no settle is on record\n")
    found = (await relay("ledger", "verify", "--json")).json
    assert found == {"users": 3, "different": 0, "found": []}


async def test_a_difference_is_one_line_and_the_status_is_1(relay: Shell, store: Store) -> None:
    users = await add_users(relay, 12)
    for user in users:
        await send(store, user, "m1")
    await store.many([moved(key(users[4]), "taken", 1), moved(key(users[9]), "held", 2), moved(key(users[9]), "check", 22)])
    every = await relay("ledger", "verify")
    lines = every.out.splitlines()
    assert every.status == 1 and lines[-1] == "12 users recounted, 2 with differences"
    assert {line.partition(": ")[0] for line in lines[:-1]} == {users[4], users[9]}
    assert f"{users[9]}: held: expected 0 (the open holds), found 2" in lines
    one = await relay("ledger", "verify", users[9], "--json")
    assert one.status == 1
    row = json.loads(one.out)["found"][0]
    assert (row["user"], row["differences"], row["records"]) == (users[9], ["held: expected 0 (the open holds), found 2"], 1)
    assert (await relay("ledger", "verify", users[0])).status == 0


async def test_what_a_user_planted_in_a_record_cannot_write_to_the_terminal(relay: Shell, store: Store) -> None:
    (user,) = await add_users(relay, 1)
    await store.command("ZADD", f"{key(user)}:open", 9 * 10**15, "\x1b[2J\nother: line")
    ran = await relay("ledger", "verify", user)
    assert ran.status == 1 and "\x1b" not in ran.out and all(line.startswith(f"{user}: ") for line in ran.out.splitlines())


async def test_a_key_of_another_kind_is_a_difference(relay: Shell, store: Store) -> None:
    users = await add_users(relay, 2)
    await store.command("SET", f"{key(users[0])}:log", "x")
    ran = await relay("ledger", "verify")
    assert ran.status == 1 and f"{users[0]}: the store refuses: " in ran.out and "2 users recounted, 1 with" in ran.out


async def test_a_deleted_user_leaves_nothing_behind(relay: Shell, store: Store) -> None:
    (user,) = await add_users(relay, 1)
    await send(store, user, "m1", 2, 1, 1)
    assert await store.command("EXISTS", f"{key(user)}:settles") == 1
    await relay("user", "delete", user, "--yes")
    assert await store.command("KEYS", f"{key(user)}*") == []


async def test_what_cannot_run_ends_with_2(relay: Shell, config: Path, place: Path, store: Store) -> None:
    unknown = await relay("ledger", "verify", "nobody")
    assert (unknown.status, unknown.faults) == (2, ["relay: unknown user 'nobody'"])
    await store.command("FLUSHALL")
    foreign = await relay("ledger", "verify")
    assert (foreign.status, len(foreign.faults)) == (2, 1) and "empty" in foreign.err


async def test_without_a_store_it_cannot_run(config: Path, place: Path) -> None:
    open_key(place / "data" / "secret.key")
    ran = await asyncio.to_thread(invoke, app, "ledger", "verify", "--config", config)
    assert (ran.status, len(ran.faults)) == (2, 1) and "is the relay running?" in ran.err
