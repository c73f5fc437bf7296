"""relay token, at the shell."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from pathlib import Path

import pytest

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
        tokens = Tokens(store, key, Journal(file.fileno(), "test"))
        assert (await tokens.admit(made["token"], "")).domain == "b.example"
        assert (await relay("token", "revoke", owner_id, made["id"])).status == 0
        with pytest.raises(Denied):
            await tokens.admit(made["token"], "")
        assert (await tokens.admit(forever["token"], "")).owner.owner_id == owner_id
    assert made["token"] not in (place / "journal").read_text()


async def at_a_terminal(columns: int, *arguments: str | Path) -> str:
    """What `relay` shows at a terminal that has so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "relay", *arguments, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    try:
        async with asyncio.timeout(30):
            assert await process.wait() == 0
        return os.read(ours, 65536).decode()
    finally:
        os.close(theirs)
        os.close(ours)


@pytest.mark.parametrize("columns", [80, 40])
async def test_a_token_is_shown_whole_at_a_terminal(owner_id: str, config: Path, columns: int) -> None:
    shown = await at_a_terminal(columns, "token", "issue", owner_id, "--config", config)
    lines = shown.replace("\r", "").splitlines()
    assert max(map(len, lines)) <= columns
    token = re.sub(r"[^A-Za-z0-9_.-]", "", "".join(line.split("\u2502")[2] for line in lines if "\u2502" in line))
    assert re.search(r"eyJ[\w-]+\.eyJ[\w-]+\.[\w-]{43}$", token), shown


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("issue", "12345678"), 1, "unknown owner '12345678'"),
        (("list", "12345678"), 1, "unknown owner '12345678'"),
        (("revoke", "12345678", "x"), 1, "unknown owner '12345678'"),
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
