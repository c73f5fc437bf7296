"""Ctrl-C at a command that has hardly begun."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

INTERRUPTED = """
import sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
sys.argv[1:] = {arguments!r}
from relay.__main__ import main
main()
"""


@pytest.mark.parametrize(("module", "arguments"), [("typer", ["version"]), ("relay.worker", ["worker", "--role", "smtp"])])
def test_an_interrupt_during_the_imports_ends_without_a_traceback(module: str, arguments: list[str]) -> None:
    code = INTERRUPTED.format(module=module, arguments=arguments)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_the_installed_command_begins_where_an_interrupt_is_caught() -> None:
    (command,) = entry_points(group="console_scripts", name="relay")
    assert command.value == "relay.__main__:main"


LOST = """
import os, signal, sys

signal.signal(signal.SIGINT, {handler})

class Doomed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(100):
            pass

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            Doomed()

sys.meta_path.insert(0, Interrupt())
sys.argv[1:] = ["version"]
from relay.__main__ import main
main()
"""


@pytest.mark.parametrize(("handler", "status"), [("signal.default_int_handler", 130), ("signal.SIG_IGN", 0)])
def test_an_interrupt_where_an_exception_would_be_lost_ends_the_command_too(handler: str, status: int) -> None:
    code = LOST.format(handler=handler)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (status, "")
    assert bool(ended.stdout) == (status == 0)


def test_an_interrupt_is_an_exception_again_once_the_command_has_begun() -> None:
    code = """
import os, signal, sys
import relay.cli.app

def begin():
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        print("tidied up")
        raise

signal.signal(signal.SIGINT, signal.default_int_handler)
relay.cli.app.main = begin
sys.argv[1:] = ["version"]
from relay.__main__ import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "tidied up\n", "")
