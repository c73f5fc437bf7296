"""relay check and its neighbours, run as processes: what cannot be used is one line and exit status 2, before anything is started."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from relay.cli.app import app
from tests.shell import invoke

SECRET = "correct-horse-battery"
ODD_HOST = "import socket; socket.gethostname = lambda: {name!r}; from relay.cli.app import main; main()"


async def ran(*arguments: str | Path, code: str = "", **environment: str) -> tuple[int | None, list[str]]:
    """Run `relay` with these arguments; its exit status and its lines on standard error."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *(["-c", code] if code else ["-m", "relay"]), *arguments, env=bare | environment,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(30):
        _, err = await process.communicate()
    return process.returncode, err.decode().splitlines()


async def ran_here(*arguments: str | Path) -> tuple[int | None, list[str]]:
    """The same without a process of its own."""
    found = await asyncio.to_thread(invoke, app, *arguments)
    return found.status, found.faults


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting comes from the environment of this run."""
    for name in [name for name in os.environ if name.startswith("RELAY_")]:
        monkeypatch.delenv(name)


ANY_URL = f"relay:{SECRET}@localhost:6379"


@pytest.mark.parametrize("command", [("check",), ("serve",), ("owner", "list")])
@pytest.mark.parametrize(
    "url",
    [
        ANY_URL,
        "localhost:6379",
        f"http://relay:{SECRET}@localhost",
        f"redis://relay:{SECRET}@localhost:port",
        "redis://localhost:70000",
        "redis+cluster://localhost:70000",
        "unix://",
        "rediss://localhost?ssl_ca_certs=/nonexistent.pem",
    ],
)
async def test_a_store_url_that_is_none_is_one_line_without_the_url(place: Path, command: tuple[str, ...], url: str) -> None:
    config = place / "relay.toml"
    config.write_text(f'[store]\nurl = "{url}"\n[data]\ndirectory = "{place / "data"}"\n')
    run = ran if url == ANY_URL else ran_here
    status, lines = await run(*command, "--config", config)
    assert (status, len(lines)) == (2, 1), lines
    assert f"{config}: store.url: " in lines[0]
    assert SECRET not in lines[0] and url not in lines[0]


@pytest.mark.parametrize("text", ["not PEM", None])
@pytest.mark.parametrize("command", ["check", "serve"])
async def test_authorities_that_cannot_be_read_are_one_line(place: Path, command: str, text: str | None) -> None:
    file, config = place / "ca.pem", place / "relay.toml"
    if text:
        file.write_text(text)
    config.write_text(f'[upstream]\nsecurity = "starttls"\nca_file = "{file}"\n[data]\ndirectory = "{place / "data"}"\n')
    status, lines = await ran(command, "--config", config)
    assert (status, len(lines)) == (2, 1), lines
    assert f"upstream.ca_file: {file}: " in lines[0]


async def test_the_file_that_relay_config_names_is_read(place: Path) -> None:
    for command in (("check",), ("serve",), ("owner", "list"), ("ledger", "adopt")):
        status, lines = await ran(*command, RELAY_CONFIG=str(place / "missing.toml"))
        assert (status, lines) == (2, [f"relay: {place / 'missing.toml'}: No such file or directory"])


async def test_the_option_wins_over_relay_config(place: Path) -> None:
    config = place / "relay.toml"
    config.write_text("")
    assert await ran("check", "--config", config, RELAY_CONFIG="/nonexistent") == (0, [])


@pytest.mark.parametrize("name", ["my_host", "h\u00f6st", "h\udce9st", "-host", ""])
async def test_a_host_whose_name_is_none_for_mail_is_told_to_set_smtp_hostname(place: Path, name: str) -> None:
    config = place / "relay.toml"
    config.write_text("[smtp]\nworkers = 1\n")
    code = ODD_HOST.format(name=name)
    for arguments in (("check",), ("check", "--config", config)):
        status, lines = await ran(*arguments, code=code)
        assert (status, len(lines)) == (2, 1) and "smtp.hostname: " in lines[0], lines
    assert await ran("check", code=code, RELAY_SMTP__HOSTNAME="relay.example.com") == (0, [])


@pytest.mark.parametrize(
    "arguments",
    [
        ("sink", "--port", "99999"),
        ("sink", "--port=-1"),
        ("loadtest", "--port", "99999", "--user", "a:b"),
        ("loadtest", "--sink", "99999", "--user", "a:b"),
    ],
)
async def test_a_port_that_is_none_is_refused_by_the_name_of_its_option(arguments: tuple[str, ...]) -> None:
    status, lines = await ran(*arguments)
    assert status == 2 and not any("Traceback" in line for line in lines), lines
    option = arguments[1].partition("=")[0]
    assert any(f"Invalid value for '{option}'" in line or f"relay: {option}: " in line for line in lines), lines


async def test_an_address_that_is_none_is_one_line() -> None:
    status, lines = await ran("sink", "--port", "0", "--address", "nonsense.invalid")
    assert (status, len(lines)) == (2, 1) and "cannot listen on nonsense.invalid" in lines[0]


async def test_a_file_is_read_as_utf_8_whatever_the_locale_is(place: Path) -> None:
    (config := place / "relay.toml").write_text("# für alle\n", encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert await ran("check", "--config", config, **ascii_only) == (0, [])


@pytest.mark.parametrize("command", ["check", "serve"])
async def test_a_configuration_file_without_a_name_is_called_so(command: str) -> None:
    status, lines = await ran_here(command, "--config", "")
    assert (status, lines) == (2, ["relay: the name of the configuration file is empty, or that of this directory"])


LOGIN = '[upstream]\nsecurity = "tls"\nusername = "me"\n'
MISSING = "upstream.password: missing beside upstream.username, nobody could log in"


async def test_a_name_to_log_in_with_without_a_password_is_a_warning_to_a_shell_and_refused_to_a_relay(place: Path) -> None:
    config = place / "relay.toml"
    config.write_text(f'{LOGIN}[data]\ndirectory = "{place / "data"}"\n')
    assert await ran_here("check", "--config", config) == (0, [f"relay: warning: {MISSING}"])
    assert await ran_here("serve", "--config", config) == (2, [f"relay: {MISSING}"])
    assert not (place / "data").exists()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[data]\ndirectory = "{place}/file"\n', "data.directory: {place}/file: Not a directory"),
        ('[data]\ndirectory = "{place}/file/data"\n', "data.directory: {place}/file: Not a directory"),
        ('[data]\ndirectory = "/proc/self/data"\n', "data.directory: /proc/self: Permission denied"),
        ('[data]\ndirectory = "{place}/{deep}"\n', "data.directory: {place}/{deep} is too deep for a unix socket (107 octets)"),
        ('[spool]\ndirectory = "{place}/file/spool"\n', "spool.directory: {place}/file: Not a directory"),
        ('[accounts]\nkey_file = "{place}/open.key"\n', "accounts.key_file: {place}/open.key: mode 0644 lets others read it"),
        ('[accounts]\nkey_file = "{place}/file/key"\n', "accounts.key_file: {place}/file: Not a directory"),
        ('[accounts]\nkey_file = "{place}"\n', "accounts.key_file: {place}: Is a directory"),
        ('[journal]\nfile = "{place}"\n', "journal.file: {place}: Is a directory"),
        ('[journal]\nfile = "{place}/none/journal"\n', "journal.file: {place}/none/journal: No such file or directory"),
        ('[store]\nserver = "{place}/none"\n', "no usable store server; "),
        ('[[smtp.listen]]\naddress = "none.invalid"\n', "smtp.listen.0.address: none.invalid: "),
        ('[[smtp.listen]]\n[[smtp.listen]]\naddress = "192.0.2.1"\nport = 1\n', "smtp.listen.1.address: 192.0.2.1: Cannot assign"),
        ('[api]\naddress = "none.invalid"\n', "api.address: none.invalid: "),
        ('[store]\nurl = "redis://localhost/none"\n', "{place}/relay.toml: store.url: not a URL that can be read"),
    ],
)
async def test_what_serve_would_stop_at_is_found_and_nothing_is_made(place: Path, text: str, named: str) -> None:
    words = {"place": str(place), "deep": "d" * 100}
    (place / "file").write_text("")
    (place / "open.key").write_bytes(bytes(32))
    (place / "open.key").chmod(0o644)
    config = place / "relay.toml"
    data = "" if "[data]" in text else f'[data]\ndirectory = "{place / "data"}"\n'
    config.write_text(text.format(**words) + data)
    before = sorted(place.rglob("*"))
    status, lines = await ran_here("check", "--config", config)
    assert (status, len(lines)) == (2, 1), lines
    assert lines[0].startswith(f"relay: {named.format(**words)}"), lines
    assert sorted(place.rglob("*")) == before


async def test_what_is_still_to_be_made_can_be(place: Path) -> None:
    config = place / "relay.toml"
    config.write_text(
        f'[data]\ndirectory = "{place}/a/b"\n[spool]\ndirectory = "{place}/c/d"\n[accounts]\nkey_file = "{place}/e/key"\n'
        f'[journal]\nfile = "{place}/journal"\n'
    )
    assert await ran_here("check", "--config", config) == (0, [])
    assert list(place.iterdir()) == [config]
