"""How many files this process may have open: one for each connection, and some besides.

Promise: a worker takes what its connections need from the hard limit by itself; where that is too low, it is one line before anybody
is turned away for it.
"""

from __future__ import annotations

import resource
from contextlib import suppress

MARGIN = 256
"""Files besides the clients' connections: listeners, the store, the spool, the smarthost."""


def shortage(connections: int) -> str | None:
    """One line if the hard limit does not allow for so many connections; None if it does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= connections + MARGIN:
        return None
    return f"the hard limit of open files is {hard}, {connections} connections need {connections + MARGIN} (LimitNOFILE, ulimit -Hn)"


def make_room(connections: int) -> None:
    """Raise the soft limit to what so many connections need, a session with the smarthost each, as far as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + MARGIN
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # then it stays as it is, and who comes too much is turned away
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
