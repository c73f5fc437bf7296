"""How cost grows with connections, users in the store and waiting mail: python -m tests.benchmarks.growth [words of `relay bench`]

It is `relay bench` with these measurements and memory alone; --quick, --scale, --report FILE and others go to it as they are. The whole
takes a million users and a hundred thousand waiting messages.
"""

from __future__ import annotations

import sys

from relay.cli.app import app

GROUPS = ("connections", "users", "spool", "memory")


def main() -> None:
    """Run it."""
    words = sys.argv[1:]
    given = [] if "--only" in words else [word for group in GROUPS for word in ("--only", group)]
    app(["bench", *given, *words])


if __name__ == "__main__":
    main()
