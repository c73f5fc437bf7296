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
