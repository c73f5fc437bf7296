"""python -m relay, and the command `relay`: what surrounds it is put in order first, and is no fault of the command.

Promises: an interrupt while all is still being imported ends it with 130; a descriptor that is missing is /dev/null; what the terminal's
encoding has no letter for is written as an escape; an output that takes no more is one line and status 74 (EX_IOERR).
"""

import os
import signal
import sys
from collections.abc import Callable
from io import TextIOWrapper

EX_IOERR = 74


def main() -> None:
    """Be the command `relay`, or one process of a relay."""
    # An exception could be lost in the imports, in a callback of theirs: the command would run on.
    is_interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_interruptible:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
    _open_missing()
    try:
        begin = _find()
        if is_interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if sys.argv[1:2] == ["worker"]:
            begin()
        else:
            _show(begin)
    except KeyboardInterrupt:
        sys.exit(130)


def _open_missing() -> None:
    """Have all three standard descriptors: what is opened next would be taken for a missing one."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free: this one
    # Python has none for a descriptor that was missing; they live as long as the process.
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115


def _find() -> Callable[[], None]:
    """Import what is asked for, and no more."""
    if sys.argv[1:2] == ["worker"]:
        from relay.cli.process import run

        return lambda: run(sys.argv[2:])
    if sys.argv[1:2] in (["serve"], ["check"]):
        # What the other commands need, the API's models above all, would be a fifth of a supervisor's memory and half of its start.
        from relay.cli.serve import main as shell
    else:
        from relay.cli.app import main as shell
    return shell


def _show(begin: Callable[[], None]) -> None:
    """Run a command that writes to a person or a program."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            begin()
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.filename is not None or _takes_output():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still to be written would be another fault, at the very end
        if isinstance(error, BrokenPipeError):
            sys.exit(1)  # who read it has enough
        sys.stderr.write(f"relay: standard output: {error.strerror}\n")
        sys.exit(EX_IOERR)


def _takes_output() -> bool:
    """Whether standard output takes an octet; if so, the fault was another's."""
    try:
        return os.write(1, b"\n") == 1
    except OSError:
        return False


if __name__ == "__main__":
    main()
