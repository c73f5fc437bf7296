"""A worker's memory: what only the shell and the API need is not loaded by the processes that carry mail."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.running import free_port, running

SHELL_AND_API = {"fastapi", "starlette", "uvicorn", "typer", "rich"}
LARGEST = 75.0
"""MB of a worker at rest; some 66 are usual."""
START = """
import sys
from relay.__main__ import main
sys.argv[1:] = ["worker", "--help"]
try:
    main()
except SystemExit:
    print(*{name.partition(".")[0] for name in sys.modules})
"""


def test_a_worker_loads_nothing_of_the_shell_and_of_the_api() -> None:
    said = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True, timeout=60).stdout
    loaded = set(said.splitlines()[-1].split())
    assert {"uvloop", "aiosmtpd", "relay"} <= loaded
    assert not loaded & SHELL_AND_API


async def test_a_worker_at_rest_is_small(place: Path) -> None:
    async with running(place, free_port(), workers=1) as relay:
        text = Path(f"/proc/{relay.workers()['smtp-0']}/smaps_rollup").read_text()
    found = re.search(r"^Rss:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    assert int(found[1]) / 1024 < LARGEST
