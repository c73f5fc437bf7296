"""relay worker: one process of a relay, started by the supervisor with `python -m relay worker`, not by hand.

It has a way in of its own because the shell's other commands, and what draws their tables, would be a third of a worker's memory.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import socket
import sys
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

import uvloop

from relay.config import ConfigError
from relay.daemon import SmtpPart, run_api, run_retry, run_smtp
from relay.session.listener import ListenError
from relay.spool.fault import SpoolUnavailable
from relay.store.client import StoreUnavailable
from relay.worker import receive

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""What mallopt(3) calls them (malloc.h)."""
APART = 262_144
"""Octets from which on memory is asked of the kernel and given back to it at once: large messages, which would leave holes in the heap."""
READY = 4_194_304
"""Octets that the heap keeps at its end: messages come and go there, and a page that is given back has to be cleared to be had again."""

EX_USAGE = 2
EX_TEMPFAIL = 75


def run(words: Sequence[str]) -> None:
    """Be the process that the words describe; what goes wrong is one line on standard error and an exit status."""
    with suppress(AttributeError):  # other C libraries have no such thing
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, APART)
        ctypes.CDLL(None).mallopt(_M_TRIM_THRESHOLD, READY)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_part(_parse(words)))
    except (ConfigError, ListenError) as error:
        _fail(error, EX_USAGE)
    except (StoreUnavailable, SpoolUnavailable) as error:
        _fail(error, EX_TEMPFAIL)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("relay worker", description="One process of a relay; started by `relay serve`.")
    parser.add_argument("--role", choices=("smtp", "retry", "api"), required=True)
    parser.add_argument("--incarnation", required=True)
    parser.add_argument("--ready", type=int, required=True, help="a descriptor to write to once it serves")
    parser.add_argument("--given", type=int, required=True, help="a descriptor to read the settings from")
    parser.add_argument("--ports", default="")
    parser.add_argument("--socket", type=int, default=-1)
    return parser.parse_args(words)


def _part(words: argparse.Namespace) -> Coroutine[Any, Any, None]:
    """The life of the process."""
    told = receive(words.given)

    def tell() -> None:
        # What exists now lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        with suppress(AttributeError):  # other C libraries have no such thing
            ctypes.CDLL(None).malloc_trim(0)  # what the start needed and nothing needs again
        os.write(words.ready, b"1")

    match words.role:
        case "smtp":
            part = SmtpPart([int(port) for port in words.ports.split(",")], told.number, told.tickets)
            return run_smtp(told.settings, words.incarnation, part, tell)
        case "retry":
            return run_retry(told.settings, words.incarnation, tell)
        case _:
            return run_api(told.settings, words.incarnation, socket.socket(fileno=words.socket), tell)


def _fail(error: Exception, status: int) -> None:
    if text := str(error):
        print(f"relay: {text}", file=sys.stderr)
    sys.exit(status)
