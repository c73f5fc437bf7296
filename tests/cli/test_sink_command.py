"""`relay sink`: what it says of itself, and of an argument that cannot be used."""

from __future__ import annotations

import asyncio
import signal
import smtplib
import ssl
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from relay.cli.app import app
from relay.loadkit.authority import Authority


def refusal(*arguments: str) -> str:
    """The one line that a wrong argument is answered with."""
    result = CliRunner().invoke(app, ["sink", "--port", "0", *arguments])
    assert (result.exit_code, result.stdout) == (2, "")
    [line] = result.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--quota", "hourly=0"], "--quota: hourly=0 is not a whole number from 1"),
        (["--quota", "daily=5"], "--quota: daily is none of hourly, total, window, unit"),
        (["--quota", ""], "--quota: hourly or total is needed"),
        (["--quota", "hourly=5,window=unlimited"], "--quota: window=unlimited is not a whole number from 1"),
        (["--quota", "window=5"], "--quota: hourly or total is needed"),
        (["--user", "name"], "--user: NAME:PASSWORD expected"),
        (["--tls", "ssl"], "--tls: ssl: none, starttls or implicit"),
        (["--script", "dot"], "--script: rule 'dot': no action"),
        (["--key", "k.pem"], "--key: needs --certificate"),
        (["--certificate", "c.pem"], "--certificate: is of use with --tls starttls or --tls implicit only"),
        (["--tls", "implicit", "--certificate", "nowhere.pem"], "--certificate: nowhere.pem: No such file or directory"),
        (["--tls", "implicit", "--authority", "/nowhere/ca.pem"], "--authority: /nowhere/ca.pem: No such file or directory"),
        (["--address", "203.0.113.1"], "cannot listen on 203.0.113.1 port 0: "),
    ],
)
def test_a_wrong_argument_is_answered_with_one_line(arguments: list[str], told: str) -> None:
    assert refusal(*arguments).startswith(f"relay: {told}")


def test_a_file_that_is_no_certificate_is_said_to_be_none(tmp_path: Path) -> None:
    file = tmp_path / "c.pem"
    file.write_bytes(Authority(["a.example"]).pem)  # a certificate, and no key
    assert refusal("--tls", "implicit", "--certificate", str(file)).startswith(f"relay: --certificate: {file}: no certificate with its key")


async def test_it_tells_its_settings_and_then_counts(tmp_path: Path) -> None:
    trusted = tmp_path / "ca.pem"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "relay", "sink", "--port", "0", "--quota", "hourly=1,window=60", "--user", "app:secret", "--tls", "implicit",
        "--authority", str(trusted), "--script", "dot stall=0.01..0.02", "--seed", "7", "--every", "0.1",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            lines = [(await process.stdout.readline()).decode().rstrip() for _ in range(6)]
            port = int(lines[0].rpartition(":")[2])
            assert await asyncio.to_thread(send, port, trusted) == [250, 451]
            while "451=1" not in (counted := (await process.stdout.readline()).decode()):
                pass
    finally:
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
    assert lines[1:] == [
        "  limits of each user: 1 messages in 60 s, no total limit", "  login: app", "  TLS: implicit, certificate of its own",
        "  rule: dot stall=0.01..0.02", "  seed: 7",
    ]  # fmt: skip
    assert "messages=1 " in counted


def send(port: int, trusted: Path) -> list[int]:
    context = ssl.create_default_context(cafile=str(trusted))
    with smtplib.SMTP_SSL("localhost", port, context=context) as client:
        client.login("app", "secret")
        client.sendmail("a@b.example", ["c@d.example"], "x")
        client.mail("a@b.example")
        client.rcpt("c@d.example")
        return [250, client.docmd("DATA")[0]]
