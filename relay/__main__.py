"""python -m relay."""

import sys


def main() -> None:
    """Be the command `relay`, or one process of a relay."""
    if sys.argv[1:2] == ["worker"]:
        from relay.cli.process import run

        run(sys.argv[2:])
    else:
        from relay.cli.app import main as shell

        shell()


if __name__ == "__main__":
    main()
