"""What makes a start impossible is one clear line on standard error and exit status 2."""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.running import free_port, running, store_server


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("[quota]\nunits = 3\n", "quota.units: unknown key"),
        ("[quota]\nunit = 'bytes'\n", "quota.unit"),
        ("[quota\n", "not TOML"),
        ("[quota]\nlease_seconds = 10\n", "quota.lease_seconds: 10 is shorter than"),
        ("[smtp.tls]\ncertificate = '/nonexistent.pem'\nkey = '/nonexistent.key'\n", "/nonexistent.pem: No such file"),
        ("[accounts]\nkey_file = '/proc/version'\n", "accounts.key_file: /proc/version"),
        ("[store]\nserver = '/bin/true'\n", "/bin/true: not a Valkey or Redis server"),
        ("[upstream.tls]\n", "upstream.tls"),
    ],
)
async def test_a_bad_configuration_is_one_line_that_names_the_key(place: Path, extra: str, expected: str) -> None:
    async with running(place / "relay", 1, is_started=False) as relay:
        text = relay.config.read_text().replace("[upstream]\nport = 1\n", "") if "[upstream" in extra else relay.config.read_text()
        relay.config.write_text(text + extra)
        assert expected in await relay.fail()


async def test_a_missing_configuration_file_is_one_line(place: Path) -> None:
    async with running(place / "relay", 1, is_started=False) as relay:
        relay.config.unlink()
        assert "No such file" in await relay.fail()


async def test_a_key_that_is_not_the_certificates_is_one_line(place: Path) -> None:
    async with running(place / "relay", 1, is_started=False) as relay:
        (place / "tls").write_text("not pem")
        relay.config.write_text(relay.config.read_text() + f"[smtp.tls]\ncertificate = '{place / 'tls'}'\nkey = '{place / 'tls'}'\n")
        assert "smtp.tls" in await relay.fail()


@pytest.mark.parametrize("which", ["smtp", "api"])
async def test_a_port_in_use_is_one_line_that_names_it(place: Path, which: str) -> None:
    async with running(place / "relay", 1, is_started=False) as relay:
        with closing(socket.socket()) as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            taken.bind(("127.0.0.1", relay.smtp if which == "smtp" else relay.api))
            taken.listen()
            line = await relay.fail()
        assert f"port {relay.smtp if which == 'smtp' else relay.api}: Address already in use" in line


async def test_a_data_directory_in_use_by_another_relay_is_one_line(place: Path) -> None:
    async with running(place / "one", 1, workers=1) as first, running(place / "two", 1, is_started=False) as second:
        second.config.write_text(second.config.read_text().replace(str(second.folder / "data"), str(first.folder / "data")))
        assert "in use by another relay" in await second.fail()


@pytest.mark.parametrize(
    ("options", "expected"),
    [("maxmemory-policy allkeys-lru\n", "maxmemory-policy is allkeys-lru")],
)
async def test_a_store_that_would_evict_accounts_is_one_line(place: Path, options: str, expected: str) -> None:
    port = free_port()
    async with (
        store_server(port, place, options),
        running(place / "relay", 1, extra=f"[store]\nurl = 'redis://127.0.0.1:{port}'\n", is_started=False) as relay,
    ):
        assert expected in await relay.fail()


async def test_roles_cannot_share_an_embedded_store(place: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "relay", "serve", "--role", "smtp", stderr=asyncio.subprocess.PIPE, cwd=place
    )
    _, err = await process.communicate()
    assert (process.returncode, b"store.url" in err) == (2, True)
