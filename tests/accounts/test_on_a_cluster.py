"""On a Cluster as on one server: what belongs together is one slot; guesses and connections are counted, settings and tokens are found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.accounts.arranging import Arranging
from relay.accounts.directory import Directory
from relay.accounts.owner import Owner, owner_key
from relay.accounts.presence import Presence
from relay.accounts.secrets import Key
from relay.accounts.setting import Outfit, Policy, Signer
from relay.accounts.signing import new_key
from relay.accounts.throttle import Throttle
from relay.accounts.token import Denied, Tokens
from relay.journal import Journal
from relay.store import fitness
from relay.store.client import Store
from relay.upstream.route import Choice, Target
from tests.accounts.conftest import Limits
from tests.quota.cluster import running_cluster


@pytest.fixture
async def clustered() -> AsyncIterator[Store]:
    async with running_cluster() as nodes:
        store = Store(f"redis+cluster://127.0.0.1:{nodes[0].port}")
        yield store
        await store.close()


async def guess(throttle: Throttle, address: str) -> int:
    with throttle.attempt(address, "a") as attempt:
        if await attempt.admitted():
            await attempt.failed()
        return attempt.wait


async def test_guesses_and_connections_of_many_are_counted_wherever_their_slots_lie(clustered: Store) -> None:
    throttle = Throttle(clustered, Limits())
    for number in range(1, 9):
        waits = await asyncio.gather(*(guess(throttle, f"192.0.2.{number}") for _ in range(6)))
        assert sorted(waits) == [0, 0, 0, 20, 20, 20]
    workers = [Presence(clustered, f"w{i}", 3) for i in range(2)]
    for number in range(8):
        entered = await asyncio.gather(*(workers[i % 2].enter(f"user{number}") for i in range(6)))
        assert sum(entered) == 3
    for worker in workers:
        await worker.close()
    for number in range(8):
        assert await clustered.command("EXISTS", f"{{u:user{number}}}:sessions") == 0


async def test_what_owners_set_is_found_and_their_tokens_let_in_wherever_their_slots_lie(
    clustered: Store, key: Key, journal: Journal, place: Path
) -> None:
    await fitness.join(clustered, place / "epoch")
    directory = Directory(clustered, key)
    arranging = Arranging(clustered, key, directory, journal)
    tokens = Tokens(clustered, key, journal)
    for number in range(8):
        owner = Owner(f"{number + 1}0000000", "Acme", True, "", 0)
        await clustered.command("HSET", owner_key(owner.owner_id), "name", "Acme", "status", "E", "token", bytes(32), "created", 0)
        assert await directory.outfit(owner.owner_id) == Outfit()
        put = await arranging.put_setting(owner.owner_id, "a.example", [Choice(Target("b.example", 25))], {"n": number})
        await arranging.set_policy(owner.owner_id, Policy("domains"))
        await arranging.set_signer(owner.owner_id, Signer("a.example", "s", new_key("ed25519")))
        outfit = await directory.outfit(owner.owner_id)
        assert put is not None and outfit.setting_for("a.example") == put[0]
        assert outfit.policy.senders == "domains" and outfit.signer_for("a.example") is not None
        assert await arranging.remove_setting(owner.owner_id, "a.example")
        assert (await directory.outfit(owner.owner_id)).settings == {}
        session = await tokens.open_session(owner)
        id, static = await tokens.issue(owner.owner_id, "a.example")
        assert (await tokens.admit(session.token, session.key)).owner == owner == (await tokens.admit(static, "")).owner
        assert [issued.id for issued in await tokens.tokens(owner.owner_id)] == [id]
        assert await tokens.close_session(session.key, session.token) and await tokens.revoke(owner.owner_id, id)
        for token in (session.token, static):
            with pytest.raises(Denied):
                await tokens.admit(token, session.key)
