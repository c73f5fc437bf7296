"""What a command changes is on record, whoever gives it; who only looks needs no mail log."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.shell import Shell


async def run(config: Path, *arguments: str) -> tuple[int | None, bytes, list[str]]:
    """Run a command as a process: its exit status, its output, the lines on standard error."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "relay", *arguments, "--config", str(config), stdout=-1, stderr=-1)
    out, err = await process.communicate()
    return process.returncode, out, err.decode().splitlines()


def without_journal(config: Path, place: Path) -> None:
    config.write_text(f'[data]\ndirectory = "{place / "data"}"\n')


async def test_a_change_is_in_the_mail_log_and_nowhere_else(relay: Shell, config: Path, place: Path) -> None:
    status, out, err = await run(config, "owner", "add", "Acme", "--json")
    assert (status, err) == (0, [])
    (line,) = (place / "journal").read_text().splitlines()
    assert (json.loads(line)["event"], json.loads(line)["owner"]) == ("owner_added", json.loads(out)["owner_id"])


async def test_without_a_journal_file_a_change_is_on_record_on_standard_error(relay: Shell, config: Path, place: Path) -> None:
    without_journal(config, place)
    status, out, err = await run(config, "owner", "add", "Acme", "--json")
    owner_id = json.loads(out)["owner_id"]
    assert status == 0 and [(json.loads(line)["event"], json.loads(line)["owner"]) for line in err] == [("owner_added", owner_id)]
    for arguments in (("owner", "list"), ("user", "list", "--json"), ("upstream", "list", owner_id), ("ledger", "verify")):
        status, _, err = await run(config, *arguments)
        assert (status, err) == (0, [])


async def test_a_mail_log_that_was_rotated_away_is_not_made_by_the_shell(relay: Shell, config: Path, place: Path) -> None:
    (place / "journal").unlink()
    status, out, err = await run(config, "owner", "add", "Acme", "--json")
    assert status == 0 and not (place / "journal").exists()
    assert err[0] == f"relay: journal.file: {place / 'journal'}: No such file or directory; what would be in it follows"
    assert [(json.loads(line)["event"], json.loads(line)["owner"]) for line in err[1:]] == [("owner_added", json.loads(out)["owner_id"])]


@pytest.mark.parametrize("arguments", [("owner", "list", "--json"), ("user", "list", "--json"), ("queue", "list", "--json")])
async def test_who_only_looks_needs_no_mail_log(relay: Shell, config: Path, place: Path, arguments: tuple[str, ...]) -> None:
    (place / "journal").unlink()
    (place / "journal").mkdir()  # nobody can write to it, root included
    status, out, err = await run(config, *arguments)
    assert (status, out) == (0, b"[]\n")
    assert [line for line in err if "journal" in line] == []
