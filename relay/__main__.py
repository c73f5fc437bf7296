"""python -m relay, and the command `relay`: an interrupt in the first second, while all is still being imported, is no fault."""

import sys


def main() -> None:
    """Be the command `relay`, or one process of a relay."""
    try:
        _begin()
    except KeyboardInterrupt:
        sys.exit(130)


def _begin() -> None:
    if sys.argv[1:2] == ["worker"]:
        from relay.cli.process import run

        run(sys.argv[2:])
    elif sys.argv[1:2] in (["serve"], ["check"]):
        # What the other commands need, the API's models above all, would be a fifth of a supervisor's memory and half of its start.
        from relay.cli.serve import main as shell

        shell()
    else:
        from relay.cli.app import main as shell

        shell()


if __name__ == "__main__":
    main()
