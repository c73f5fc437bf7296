"""relay owner and relay user, at the shell."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from relay.accounts.secrets import open_key
from relay.quota.ledger import Ledger
from relay.quota.limit import Rules
from relay.store.client import Store
from tests.cli_accounts.conftest import app
from tests.shell import Shell, invoke
from tests.talking import generation_of

USER = ("--hourly", "10", "--total", "unlimited", "--json")


async def test_an_owner_is_made_listed_disabled_enabled_and_given_a_new_token(relay: Shell) -> None:
    made = (await relay("owner", "add", "Acme [bold]Ltd", "--profile", "poweremail", "--json")).json
    assert set(made) == {"owner_id", "name", "status", "profile", "token"}
    listed = (await relay("owner", "list", "--json")).json
    assert listed == [{"owner_id": made["owner_id"], "name": "Acme [bold]Ltd", "status": "Enable", "profile": "poweremail"}]
    assert (await relay("owner", "disable", made["owner_id"], "--json")).json["status"] == "Disable"
    assert (await relay("owner", "enable", made["owner_id"], "--json")).json["status"] == "Enable"
    assert (await relay("owner", "token", made["owner_id"], "--json")).json["token"] != made["token"]
    table = await relay("owner", "list")
    assert "Acme [bold]Ltd" in table.out and made["owner_id"] in table.out and made["token"] not in table.out


async def test_a_user_is_made_changed_shown_and_removed(relay: Shell, owner_id: str) -> None:
    made = (await relay("user", "add", "--owner", owner_id, *USER)).json
    name, password = made.pop("smtp_user_name"), made.pop("smtp_password")
    assert made == {"owner_id": owner_id, "status": "Enable", "hourly_limit": 10, "total_limit": None}
    changed = (await relay("user", "edit", name, "--hourly", "unlimited", "--total", "99", "--disable", "--json")).json
    assert (changed["hourly_limit"], changed["total_limit"], changed["status"]) == (None, 99, "Disable")
    assert (await relay("user", "edit", name, "--enable", "--json")).json == {**changed, "status": "Enable"}
    usage = (await relay("user", "usage", name, "--json")).json
    assert (usage["sent_total"], usage["in_flight"], usage["retry_after"]) == (0, 0, 0)
    assert password not in (await relay("user", "list")).out
    assert password in (await relay("user", "list", "--owner", owner_id, "--passwords")).out
    fresh = (await relay("user", "reset-password", name, "--json")).json["smtp_password"]
    assert (await relay("user", "list", "--passwords", "--json")).json[0]["smtp_password"] == fresh != password
    assert (await relay("user", "delete", name, "--yes")).status == 0
    assert (await relay("user", "list", "--json")).json == []
    assert (await relay("user", "list")).out == "none\n"


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("user", "usage", "nobody"), 1, "unknown user 'nobody'"),
        (("user", "delete", "nobody", "--yes"), 1, "unknown user 'nobody'"),
        (("user", "delete", "nobody"), 2, "there is no terminal to ask at: it needs --yes"),
        (("user", "delete", "nobody", "--json"), 2, "--json does not ask: it needs --yes"),
        (("user", "edit", "nobody"), 2, "nothing to change"),
        (("user", "add", "--owner", "12345678", *USER), 1, "unknown owner '12345678'"),
        (("user", "list", "--owner", "12345678"), 1, "unknown owner '12345678'"),
        (("owner", "disable", "1"), 1, "unknown owner '1'"),
        (("owner", "enable", "1"), 1, "unknown owner '1'"),
        (("owner", "token", "1"), 1, "unknown owner '1'"),
        (("owner", "add", ""), 2, "an owner's name"),
        (("owner", "add", "x", "--profile", "other"), 2, "unknown profile 'other'"),
    ],
)
async def test_what_cannot_be_done_is_one_line(relay: Shell, arguments: tuple[str, ...], status: int, text: str) -> None:
    ran = await relay(*arguments)
    assert (ran.status, ran.out, len(ran.faults)) == (status, "", 1)
    assert text in ran.err


@pytest.mark.parametrize("limit", ["0", "-1", "ten", "1.5", "10000000000001", "", "٣", "9" * 30])
async def test_a_limit_is_a_positive_number_or_unlimited(relay: Shell, owner_id: str, limit: str) -> None:
    for arguments in (("user", "add", "--owner", owner_id, "--total", "1", f"--hourly={limit}"), ("user", "edit", "x", f"--total={limit}")):
        ran = await relay(*arguments)
        assert ran.status == 2 and "unlimited" in ran.faults[-1]


async def test_where_no_relay_was_started_a_command_says_so_and_makes_nothing(config: Path, place: Path) -> None:
    ran = await asyncio.to_thread(invoke, app, "owner", "list", "--config", config)
    assert (ran.status, len(ran.faults)) == (2, 1)
    assert f"accounts.key_file: {place / 'data' / 'secret.key'}: not found; is --config right, has the relay been started?" in ran.err
    assert not (place / "data").exists()


async def test_without_a_store_the_line_says_so_and_the_status_is_temporary(config: Path, place: Path) -> None:
    open_key(place / "data" / "secret.key")
    ran = await asyncio.to_thread(invoke, app, "owner", "list", "--config", config)
    assert (ran.status, len(ran.faults)) == (75, 1)
    assert "is the relay running?" in ran.err


async def test_a_store_that_came_back_empty_is_not_an_empty_list(relay: Shell, owner_id: str, place: Path) -> None:
    store = Store(f"unix://{place / 'data' / 'store.sock'}")
    await store.command("FLUSHALL")
    await store.close()
    ran = await relay("owner", "list")
    assert (ran.status, len(ran.faults)) == (75, 1) and "empty" in ran.err


async def test_a_configuration_that_cannot_be_used_is_one_line(place: Path, config: Path) -> None:
    for text in ("[data]\nnonsense = 1\n", "]"):
        config.write_text(text)
        ran = await asyncio.to_thread(invoke, app, "owner", "list", "--config", config)
        assert (ran.status, len(ran.faults)) == (2, 1) and str(config) in ran.err


async def test_a_key_that_others_can_read_is_refused(relay: Shell, owner_id: str, place: Path) -> None:
    key = place / "data" / "secret.key"
    key.chmod(0o644)
    ran = await relay("owner", "list")
    assert (ran.status, len(ran.faults)) == (2, 1) and "chmod 600" in ran.err


async def test_another_nodes_key_is_refused(relay: Shell, owner_id: str, place: Path) -> None:
    (place / "data" / "secret.key").unlink()
    open_key(place / "data" / "secret.key")
    ran = await relay("owner", "list")
    assert (ran.status, len(ran.faults)) == (2, 1) and "key" in ran.err


async def test_a_change_overtaken_by_what_is_in_flight_is_said(relay: Shell, owner_id: str, place: Path, store: Store) -> None:
    name = (await relay("user", "add", "--owner", owner_id, *USER)).json["smtp_user_name"]
    await Ledger(store, Rules()).reserve(name, "m1", 1, await generation_of(store, name))
    ran = await relay("user", "edit", name, "--disable", "--json")
    assert ran.json["status"] == "Disable" and "in flight" in ran.err
    assert "change_overtaken" in (place / "journal").read_text()


async def test_users_are_imported_with_their_own_passwords(relay: Shell, owner_id: str, place: Path) -> None:
    file = place / "users.csv"
    file.write_text(
        '\ufeffname,password,hourly,total\nbilling,"with, comma",10,unlimited\n\ncrm.app,pässwort,unlimited,5\n', encoding="utf-8"
    )
    assert (await relay("user", "import", file, "--owner", owner_id, "--json")).json == {"owner_id": owner_id, "imported": 2}
    listed = (await relay("user", "list", "--passwords", "--json")).json
    assert {row["smtp_user_name"]: row["smtp_password"] for row in listed} == {"billing": "with, comma", "crm.app": "pässwort"}
    again = await relay("user", "import", file, "--owner", owner_id)
    assert again.status == 2
    assert again.faults == [f"relay: {file}:2: user billing exists already", f"relay: {file}:4: user crm.app exists already"]


async def test_a_file_with_faults_names_each_by_line_and_imports_nothing(relay: Shell, owner_id: str, place: Path) -> None:
    file = place / "users.csv"
    file.write_text("good,secret-1,1,1\nbad name,secret-2,1,1\nok,secret-3,0,1\nok2,secret-4,x,1\ngood,secret-5,1,1\nshort,secret-6\n")
    ran = await relay("user", "import", file, "--owner", owner_id)
    assert ran.status == 2
    assert [line.split(":")[2] for line in ran.faults] == ["2", "3", "4", "5", "6"]
    assert "secret" not in ran.err
    assert (await relay("user", "list", "--json")).json == []
    for text in ("", "name,password,hourly,total\n", 'x,"open,1,1\n'):
        file.write_text(text)
        assert (await relay("user", "import", file, "--owner", owner_id)).status == 2
    file.write_bytes(b"\xff\xfe")
    assert "UTF-8" in (await relay("user", "import", file, "--owner", owner_id)).err
    assert "No such file" in (await relay("user", "import", place / "none.csv", "--owner", owner_id)).err


async def test_the_command_runs_as_a_process(relay: Shell, config: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "relay", "owner", "list", "--json", "--config", str(config), stdout=-1, stderr=-1
    )
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, b"[]\n", b"")


async def test_users_are_imported_from_standard_input(relay: Shell, owner_id: str) -> None:
    said = "billing,pässwort,10,unlimited\ncrm.app,secret-1,x,5\n"
    ran = await relay("user", "import", "-", "--owner", owner_id, said=said)
    assert (ran.status, ran.faults) == (2, ["relay: standard input:2: hourly is neither a number nor 'unlimited'"])
    said = said.replace("x,5", "7,5")
    assert (await relay("user", "import", "-", "--owner", owner_id, "--json", said=said)).json["imported"] == 2
    again = await relay("user", "import", "-", "--owner", owner_id, said=said)
    assert again.status == 2 and again.faults[0] == "relay: standard input:1: user billing exists already"
    unknown = await relay("user", "import", "-", "--owner", "1", said=said)
    assert (unknown.status, unknown.faults) == (1, ["relay: unknown owner '1'"])


async def test_a_letter_that_the_output_does_not_have_is_an_escape(relay: Shell, config: Path) -> None:
    await relay("owner", "add", "Über")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "relay", "owner", "list", "--config", str(config), stdout=-1, stderr=-1,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"") and b"\\xdcber" in out
