"""relay queue list, show: looking at the queue, whatever state it is in."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import sqlite3
import sys
import time
from pathlib import Path

import pytest

from relay.spool.spool import Spool
from tests.cli_queue.conftest import MESSAGE, put
from tests.shell import Shell


async def test_a_queue_that_never_was_is_empty_and_is_not_made(relay: Shell, place: Path) -> None:
    (place / "data").mkdir()
    assert (await relay("list")).out == "none\n"
    assert (await relay("list", "--json")).json == []
    assert (await relay("flush", "--json")).json == {"flushed": 0}
    for command in (("show",), ("retry",), ("hold",), ("release",), ("remove", "--yes"), ("remove",)):
        ran = await relay(*command, "a1")
        assert (ran.status, ran.out, ran.faults[-1]) == (1, "", "relay: a1: no such message in the queue")
        assert ran.faults[0] == f"relay: there is no {place / 'data' / 'spool.db'}: is --config right, has the relay been started?"
    assert not list((place / "data").iterdir())


async def test_where_no_relay_can_have_been_the_queue_is_not_called_empty(relay: Shell, place: Path) -> None:
    said = f"relay: data.directory: {place / 'data'}: not found; is --config right, has the relay been started?"
    for command in (("list",), ("list", "--json"), ("flush", "--json"), ("show", "a1"), ("remove", "a1")):
        ran = await relay(*command)
        assert (ran.status, ran.out, ran.faults) == (2, "", [said])
    assert not (place / "data").exists()


WITHOUT_PRIVILEGE = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
"""What makes root obey the modes of files."""


async def test_a_spool_that_one_may_not_open_is_no_passing_trouble(spool: Spool, config: Path, place: Path) -> None:
    await put(spool, "a1")
    (place / "data" / "spool.db.lock").chmod(0)
    command = [sys.executable, "-m", "relay", "queue", "list", "--config", str(config)]
    process = await asyncio.create_subprocess_exec(*([] if os.geteuid() else WITHOUT_PRIVILEGE), *command, stdout=-1, stderr=-1)
    out, err = await process.communicate()
    assert (process.returncode, out) == (77, b"") and err.decode() == f"relay: {place / 'data' / 'spool.db.lock'}: Permission denied\n"


async def test_the_table_says_who_waits_for_what(relay: Shell, spool: Spool) -> None:
    await put(spool, "a1", states=("waiting", "delivered", "waiting"), age=3 * 3600, due=290)
    await put(spool, "a2", held="disabled")
    await put(spool, "a3", claimed="somebody")
    await put(spool, "a4", doubt=True, due=-5)
    await put(spool, "a5", sender="", kind="dsn", user="other", due=630)
    ran = await relay("list")
    assert [re.split(r" {2,}", line.strip()) for line in ran.out.splitlines()] == [
        ["id", "age", "size", "sender", "to", "tries", "next try", "state", "last reply"],
        ["a1", "3 h", "81 B", "<app@example.com>", "2/3", "2", "in 4 min", "waiting", "450 4.2.0 busy"],
        ["a2", "1 min", "81 B", "<app@example.com>", "1/1", "2", "-", "held (disabled)", "450 4.2.0 busy"],
        ["a3", "1 min", "81 B", "<app@example.com>", "1/1", "2", "-", "sending", "450 4.2.0 busy"],
        ["a4", "1 min", "81 B", "<app@example.com>", "1/1", "2", "now", "in doubt", "450 4.2.0 busy"],
        ["a5", "1 min", "81 B", "<> report", "1/1", "2", "in 10 min", "waiting", "450 4.2.0 busy"],
    ]


async def test_the_list_is_narrowed_by_owner_user_and_hold(relay: Shell, spool: Spool) -> None:
    await put(spool, "a1")
    await put(spool, "a2", held="operator")
    await put(spool, "b1", owner="87654321", user="other")
    for options, expected in (
        ((), ["a1", "a2", "b1"]), (("--owner", "87654321"), ["b1"]), (("--user", "app"), ["a1", "a2"]), (("--held",), ["a2"]),
        (("--held", "--owner", "87654321"), []), (("--user", "nobody"), []),
    ):  # fmt: skip
        assert [row["id"] for row in (await relay("list", *options, "--json")).json] == expected


async def test_the_list_says_how_many_it_does_not_show(relay: Shell, spool: Spool) -> None:
    await asyncio.gather(*(put(spool, f"m{number:04}") for number in range(1101)))
    ran = await relay("list")
    assert ran.out.count("@example.com") == 100 and ran.out.splitlines()[-1] == "1001 more; --limit shows them"
    ran = await relay("list", "--limit", "501", "--json")
    assert len(ran.json) == 501 and ran.faults == ["relay: 600 more; --limit shows them"]
    for limit in ("0", "1101", "5000"):
        ran = await relay("list", "--limit", limit, "--json")
        assert len({row["id"] for row in ran.json}) == 1101 and ran.err == ""


async def test_a_message_is_shown_in_full(relay: Shell, spool: Spool) -> None:
    await put(spool, "a1", states=("waiting", "delivered"), units=2)
    [shown] = (await relay("show", "a1", "--json")).json
    assert [each["state"] for each in shown["standings"]] == ["waiting", "delivered"]
    expected = {"owner_id": "12345678", "smtp_user_name": "app", "units": 2, "accepted": 2, "is_settled": False, "claimed_by": None}
    assert shown.items() >= expected.items()
    ran = await relay("show", "a1", "never")
    assert ran.status == 1 and ran.faults == ["relay: never: no such message in the queue"]
    assert "r0@example.net" in ran.out and "r1@example.net" in ran.out and "delivered" in ran.out


async def test_the_content_is_written_octet_for_octet(relay: Shell, spool: Spool) -> None:
    await put(spool, "a1", held="operator")
    ran = await relay("show", "a1", "--content")
    assert (ran.status, ran.raw, ran.err) == (0, MESSAGE, "")


async def test_a_corrupt_message_shows_what_can_be_read(relay: Shell, spool: Spool, place: Path) -> None:
    await put(spool, "a1")
    await put(spool, "a2")
    db = sqlite3.connect(place / "data" / "spool.db", isolation_level=None)
    db.execute("UPDATE standing SET address = x'00ff', reply = char(27) || '[2J' WHERE seq = (SELECT seq FROM entry WHERE id = 'a1')")
    db.execute("UPDATE entry SET arrived = 9e999, sender = x'ff' WHERE id = 'a1'")
    db.execute("UPDATE content SET wire = x'00' WHERE seq = (SELECT seq FROM entry WHERE id = 'a2')")
    db.close()
    ran = await relay("list")
    assert "held (corrupt)" in ran.out and ran.out.count("app@example.com") == 1
    assert (await relay("list", "--json")).json[0]["held"] == "corrupt"
    ran = await relay("show", "a1")
    assert ran.status == 0 and "corrupt" in ran.out and "\x1b" not in ran.out
    ran = await relay("show", "a2", "--content")
    assert (ran.status, ran.raw) == (1, b"") and ran.err.startswith("relay: a2: ")
    assert "entry_corrupt" in (place / "journal").read_text()


async def test_what_came_from_outside_does_not_move_the_cursor(relay: Shell, spool: Spool) -> None:
    await put(spool, "a1", reply="450 \x1b[2J\nforged │ row [bold]", sender="\x1b]0;x\x07@example.com")
    for command in (("list",), ("show", "a1"), ("remove", "a1")):
        ran = await relay(*command)
        assert "\x1b" not in ran.out and "\x07" not in ran.out
    assert "450 ?[2J?forged │ row [bold]" in (await relay("list")).out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("list", "--limit", "-1"), "--limit"),
        (("list", "--limit", "many"), "--limit"),
        (("list", "a1"), "unexpected extra argument"),
        (("list", "--watch"), "--watch needs a terminal"),
        (("list", "--watch", "--json"), "--watch goes without --json"),
        (("list", "--sort", "x"), "No such option"),
        (("show",), "Missing argument"),
        (("show", "a1", "a2", "--content"), "one message at a time"),
        (("show", "a1", "--content", "--json"), "goes without --json"),
        (("show", "--contents", "a1"), "No such option"),
        (("retry",), "Missing argument"),
        (("hold",), "Missing argument"),
        (("release",), "Missing argument"),
        (("remove",), "Missing argument"),
        (("remove", "--yes"), "Missing argument"),
        (("flush", "a1"), "unexpected extra argument"),
        (("purge", "a1"), "No such command"),
    ],
)
async def test_a_wrong_argument_is_a_clear_line(relay: Shell, spool: Spool, arguments: tuple[str, ...], text: str) -> None:
    await put(spool, "a1")
    ran = await relay(*arguments)
    assert ran.status == 2 and text in ran.faults[-1] and ran.out == ""


async def test_a_spool_that_cannot_be_used_is_one_line(relay: Shell, place: Path, config: Path) -> None:
    (place / "data").mkdir()
    (place / "data" / "spool.db").write_bytes(b"not a database at all" * 500)
    for command in (("list",), ("list", "--json"), ("show", "a1"), ("retry", "a1", "--json"), ("remove", "a1"), ("flush",)):
        ran = await relay(*command)
        assert (ran.status, ran.out, len(ran.faults)) == (2, "", 1) and "spool.db" in ran.err
    config.write_text("[data]\nnonsense = 1\n")
    ran = await relay("list")
    assert (ran.status, len(ran.faults)) == (2, 1) and "data.nonsense" in ran.err


def _watch(config: Path) -> tuple[int, int]:
    """Start the live table on a terminal of its own: its process id and the terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "140", "LINES": "30"}
        os.execve(sys.executable, [sys.executable, "-m", "relay", "queue", "list", "--watch", "--config", str(config)], environment)
    return pid, terminal


def _read_until(terminal: int, seen: bytearray, text: bytes, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while text not in seen:
        assert time.monotonic() < end, seen.decode("utf-8", "replace")
        seen += os.read(terminal, 65536)


async def test_the_live_table_follows_the_queue_until_ctrl_c(config: Path, place: Path) -> None:
    pid, terminal = _watch(config)
    seen = bytearray()
    try:
        await asyncio.to_thread(_read_until, terminal, seen, b"no relay has run here yet")
        spool = Spool(place / "data" / "spool.db", "testtest", 0)
        await put(spool, "first1")
        await asyncio.to_thread(_read_until, terminal, seen, b"first1")
        await put(spool, "second2", held="operator")
        await asyncio.to_thread(_read_until, terminal, seen, b"second2")
        await spool.close()
        os.kill(pid, signal.SIGINT)
        while True:
            try:
                seen += await asyncio.to_thread(os.read, terminal, 65536)
            except OSError:  # the other end is closed
                break
    finally:
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    shown = seen.decode("utf-8", "replace")
    assert "waiting 1   held 1   being sent 0   in doubt 0   reports 0   oldest" in shown
    assert "Traceback" not in shown and "Aborted" not in shown
