"""The systemd units: systemd accepts them, they are as closed as they claim, and they fit what the relay does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from relay.cli.app import app
from relay.config.settings import Settings
from relay.supervisor import KILL_AFTER
from tests.peer import need

UNITS = Path(__file__).parents[2] / "systemd"
ROLES = ("relay-smtp.service", "relay-retry.service", "relay-api.service")
SERVICES = ("relay.service", *ROLES)
EXPOSED = 2.0
"""The exposure that systemd-analyze may find at most, of 10."""


def lines(name: str) -> list[tuple[str, str]]:
    """The settings of a unit in their order."""
    text = (UNITS / name).read_text()
    return [(key, value) for key, value in re.findall(r"^([A-Za-z]+)=(.*)$", text, re.MULTILINE)]


def setting(name: str, key: str) -> list[str]:
    """All values of one setting of a unit."""
    return [value for found, value in lines(name) if found == key]


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """The units with programs that exist here in the place of those they start."""
    for path in UNITS.iterdir():
        text = path.read_text().replace("/opt/relay/bin/relay", sys.executable)
        (tmp_path / path.name).write_text(text)
    return tmp_path


@pytest.mark.peer
def test_systemd_accepts_the_units(copies: Path) -> None:
    analyze = need("systemd-analyze")
    files = [str(copies / name) for name in (*SERVICES, "relay.target")]
    environment = os.environ | {"SYSTEMD_COLORS": "0"}
    command = [analyze, "--man=no", "--recursive-errors=no", "verify", *files]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    of_ours = re.compile(rf"({re.escape(str(copies))}/)?relay[-a-z]*\.(service|target)\b")  # other units of this host are not our concern
    ours = [line for line in (done.stdout + done.stderr).splitlines() if of_ours.match(line)]
    assert (done.returncode, ours) == (0, []), done.stdout + done.stderr


@pytest.mark.peer
def test_systemd_would_refuse_a_broken_unit(copies: Path) -> None:
    analyze = need("systemd-analyze")
    file = copies / "relay.service"
    file.write_text(file.read_text().replace("ExecStart=", "ExecStart=/nowhere/"))
    done = subprocess.run([analyze, "--man=no", "verify", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode != 0


@pytest.mark.peer
@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_hardly_exposed(name: str, copies: Path) -> None:
    analyze = need("systemd-analyze")
    command = [analyze, "--no-pager", "security", "--offline=true", f"--threshold={int(EXPOSED * 10)}", str(copies / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    match = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert match is not None, done.stdout + done.stderr
    assert done.returncode == 0 and float(match[1]) <= EXPOSED, done.stdout


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_starts_a_command_that_exists(name: str) -> None:
    (start,) = setting(name, "ExecStart")
    program, command, *options = start.split()
    assert program == "/opt/relay/bin/relay"
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    assert shown.exit_code == 0
    for option in (word for word in options if word.startswith("--")):
        assert option in shown.stdout


def test_a_stop_is_given_the_time_that_the_relay_may_take() -> None:
    drain = Settings().smtp.drain_seconds + KILL_AFTER
    store = 15.0 + 5.0  # the embedded server's own stop, and the holds that are still being returned
    assert float(setting("relay.service", "TimeoutStopSec")[0]) >= 2 * drain + store
    for name in ROLES:
        assert float(setting(name, "TimeoutStopSec")[0]) >= drain + 5.0


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_watched_and_stopped_as_the_supervisor_needs_it(name: str) -> None:
    settings = dict(lines(name))
    assert settings["Type"] == "notify"
    assert settings["KillMode"] == "mixed"  # the supervisor alone hears SIGTERM and stops its processes in order
    assert settings["Restart"] == "on-failure"
    assert settings["RestartPreventExitStatus"] == "2"
    assert settings["NoNewPrivileges"] == settings["MemoryDenyWriteExecute"] == "yes"
    assert settings["ProtectSystem"] == "strict"


def test_a_reload_makes_every_service_open_its_mail_log_anew() -> None:
    for name in SERVICES:
        assert setting(name, "ExecReload") == ["/bin/kill -HUP $MAINPID"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_credential_is_a_setting_or_is_named_by_one(name: str) -> None:
    variables = dict(value.split("=", 1) for value in setting(name, "Environment"))
    for variable in variables:
        section, key = variable.removeprefix("RELAY_").lower().split("__")
        assert key in type(getattr(Settings(), section)).model_fields
    for credential in setting(name, "LoadCredential"):
        id, _, _ = credential.partition(":")
        if "__" in id:
            section, key = id.split("__")
            assert key in type(getattr(Settings(), section)).model_fields
        else:
            assert f"%d/{id}" in variables.values()


def test_the_roles_and_the_whole_exclude_each_other() -> None:
    assert set(setting("relay.service", "Conflicts")[0].split()) == set(ROLES)
    assert set(setting("relay.target", "Wants")[0].split()) == set(ROLES)
    for name in ROLES:
        assert setting(name, "PartOf") == ["relay.target"]
