"""Two owners change what they like, in any order, over two processes: each finds what it would find alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.accounts.arranging import Arranging
from relay.accounts.directory import Directory
from relay.accounts.provisioning import Provisioning
from relay.accounts.registry import Registry
from relay.accounts.secrets import Key
from relay.accounts.setting import Outfit, Policy, Signer, fold
from relay.accounts.signing import new_key
from relay.journal import Journal
from relay.quota.ledger import Ledger
from relay.quota.limit import Rules
from relay.store import fitness
from relay.store.client import Store
from relay.store.embedded import Embedded
from relay.upstream.route import Choice, Target

DOMAINS = ("", "a.example", "A.EXAMPLE", "b.example", "bücher.example", "xn--bcher-kva.example")
KEYS = tuple(new_key("ed25519") for _ in range(3))

step = st.tuples(
    st.sampled_from(("put", "edit", "remove", "policy", "sign", "unsign", "nothing")),
    st.integers(0, 1), st.sampled_from(DOMAINS), st.integers(0, 2),
)  # fmt: skip


class Model:
    """What an owner should find."""

    def __init__(self) -> None:
        self.settings: dict[str, tuple[str, int]] = {}
        self.ids: dict[str, str] = {}
        self.policy = Policy()
        self.signers: dict[str, str] = {}

    def check(self, outfit: Outfit, owner_id: str) -> None:
        found = {domain: (setting.domain, int(setting.choices[0].target.port)) for domain, setting in outfit.settings.items()}
        assert found == self.settings
        assert {domain: setting.id for domain, setting in outfit.settings.items()} == self.ids
        assert all(setting.choices[0].target.host == f"{owner_id}.example" for setting in outfit.settings.values())
        assert all(setting.document == {"owner": owner_id} for setting in outfit.settings.values())
        assert outfit.policy == self.policy
        assert {domain: signer.key for domain, signer in outfit.signers.items()} == self.signers
        for domain in DOMAINS:
            expected = self.settings.get(fold(domain)) or self.settings.get("")
            assert (outfit.setting_for(domain) is None) == (expected is None)


async def take(arranging: Arranging, model: Model, owner_id: str, what: str, domain: str, number: int) -> None:
    own = fold(domain)
    choices = [Choice(Target(f"{owner_id}.example", 100 + number))]
    if what in ("put", "edit"):
        put = await arranging.put_setting(owner_id, domain, choices, {"owner": owner_id}, must_exist=what == "edit")
        wanted = (domain.lower(), 100 + number)
        assert (put is None) == (what == "edit" and own not in model.settings)
        if put is not None:
            assert put[1] == (model.settings.get(own) != wanted)
            assert model.ids.setdefault(own, put[0].id) == put[0].id
            model.settings[own] = wanted
    elif what == "remove":
        assert await arranging.remove_setting(owner_id, domain) == (model.settings.pop(own, None) is not None)
        model.ids.pop(own, None)
    elif what == "policy":
        model.policy = Policy("domains", (f"{owner_id}-{number}.example",), bool(number))
        await arranging.set_policy(owner_id, model.policy)
    elif what == "sign" and domain:
        await arranging.set_signer(owner_id, Signer(domain, f"s{number}", KEYS[number]))
        model.signers[own] = KEYS[number]
    elif what == "unsign":
        assert await arranging.remove_signer(owner_id, domain) == (model.signers.pop(own, None) is not None)


async def history(store: Store, provisioning: Provisioning, key: Key, journal: Journal, steps: list[Any]) -> None:
    """One history of two owners, on whose every step both are looked up in both processes."""
    directories = [Directory(store, key) for _ in range(2)]
    arrangings = [Arranging(store, key, directory, journal) for directory in directories]
    owners = [(await provisioning.add_owner(name))[0].owner_id for name in ("One", "Two")]
    models = [Model(), Model()]
    for number, (what, whose, domain, value) in enumerate(steps):
        await take(arrangings[number % 2], models[whose], owners[whose], what, domain, value)
        for directory in directories:
            outfits = await asyncio.gather(*(directory.outfit(owner_id) for owner_id in owners))
            for model, outfit, owner_id in zip(models, outfits, owners, strict=True):
                model.check(outfit, owner_id)


def test_two_owners_find_what_each_has_set_and_nothing_of_the_other(place: Path, key: Key) -> None:
    with asyncio.Runner() as runner:
        embedded = Embedded(place / "data", None, "256mb", lambda name, text: None)
        runner.run(embedded.start())
        with (place / "journal").open("ab") as file:
            store = Store(f"unix://{place / 'data' / 'store.sock'}")
            runner.run(fitness.join(store, place / "data" / "epoch"))
            provisioning = provision(store, key, Journal(file.fileno(), "test"))

            @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
            @given(st.lists(step, max_size=25))
            def check(steps: list[Any]) -> None:
                runner.run(history(store, provisioning, key, Journal(file.fileno(), "test"), steps))

            check()
            runner.run(store.close())
        runner.run(embedded.stop())


def provision(store: Store, key: Key, journal: Journal) -> Provisioning:
    return Provisioning(store, key, Registry(store, key), Ledger(store, Rules()), journal, change_wait=1.0)
