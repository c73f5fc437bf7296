"""The whole path beside stock parts, in turns under the same load: python -m tests.benchmarks.whole_path [words of `relay bench`]

It is `relay bench --only path` with `tests.benchmarks.stock_relay` beside it; more words, as --quick, --only "2 KB, plain", --report FILE,
go to it as they are. Printed are rates, latencies, CPU a message and the ratio, round by round and of that the median; every message is
accounted for, or it is an error.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from relay.cli.app import app

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Run it."""
    command = f"env PYTHONPATH={shlex.quote(str(ROOT))} {shlex.quote(sys.executable)} -m tests.benchmarks.stock_relay"
    words = sys.argv[1:]
    given = [] if "--only" in words else ["--only", "path"]
    app(["bench", "--beside", f"stock={command}", *given, *words])


if __name__ == "__main__":
    main()
