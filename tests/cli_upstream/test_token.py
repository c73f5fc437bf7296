"""relay token, at the shell."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.accounts.registry import Registry
from relay.accounts.secrets import open_key
from relay.accounts.token import Denied, Tokens
from relay.journal import Journal
from relay.store.client import Store
from tests.shell import Shell


async def test_a_token_is_issued_listed_and_revoked(relay: Shell, owner_id: str, place: Path, store: Store) -> None:
    made = (await relay("token", "issue", owner_id, "--domain", "B.example", "--days", "1", "--json")).json
    forever = (await relay("token", "issue", owner_id, "--json")).json
    assert (made["owner_id"], made["domain"], forever["domain"], forever["expires"]) == (owner_id, "b.example", None, None)
    listed = await relay("token", "list", owner_id, "--json")
    assert {row["id"] for row in listed.json} == {made["id"], forever["id"]}
    for shown in (listed, await relay("token", "list", owner_id)):
        assert made["token"] not in shown.out and made["id"] in shown.out
    key = open_key(place / "data" / "secret.key")
    with (place / "null").open("wb") as file:
        tokens = Tokens(store, key, Registry(store, key), Journal(file.fileno(), "test"))
        assert (await tokens.admit(made["token"], "")).domain == "b.example"
        assert (await relay("token", "revoke", owner_id, made["id"])).status == 0
        with pytest.raises(Denied):
            await tokens.admit(made["token"], "")
        assert (await tokens.admit(forever["token"], "")).owner.owner_id == owner_id
    assert made["token"] not in (place / "journal").read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("issue", "12345678"), 1, "unknown owner"),
        (("list", "12345678"), 1, "unknown owner"),
        (("revoke", "12345678", "x"), 1, "unknown owner"),
        (("revoke", "OWNER", "x"), 1, "unknown token 'x'"),
        (("issue", "OWNER", "--domain", "not a domain"), 2, "a domain is a name"),
        (("issue", "OWNER", "--days", "0"), 2, "lifetime"),
        (("issue", "OWNER", "--days", "nan"), 2, "lifetime"),
    ],
)
async def test_what_cannot_be_done_is_one_line(relay: Shell, owner_id: str, arguments: tuple[str, ...], status: int, text: str) -> None:
    ran = await relay("token", *(owner_id if each == "OWNER" else each for each in arguments))
    assert (ran.status, ran.out, len(ran.faults)) == (status, "", 1)
    assert text in ran.err
