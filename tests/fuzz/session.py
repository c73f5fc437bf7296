"""Fuzz sessions, or the parsers, guided by what of the relay's code is reached: python -m tests.fuzz.session --seconds 600

A crash is written to the working directory, or into the corpus; `--replay FILE` runs it again. Needs atheris, which nothing else here does.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--target", choices=("session", "parsers"), default="session")
    parser.add_argument("--corpus", type=Path, help="where inputs are kept from run to run; else they are forgotten")
    parser.add_argument("--replay", type=Path, help="an input that crashed, to be run once, without atheris")
    return parser.parse_args()


def main() -> None:
    """Fuzz for so long."""
    asked = arguments()
    if asked.replay:
        replay(asked.target, asked.replay.read_bytes())
        return
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        sys.exit("tests.fuzz.session needs atheris: pip install atheris==3.0.0")
    with atheris.instrument_imports(include=["relay"]):
        from tests.fuzz import harness, targets
    run = getattr(targets, asked.target)
    seeds = targets.session_seeds() if asked.target == "session" else targets.parser_seeds()
    bench = harness.Bench()
    with tempfile.TemporaryDirectory() as place:
        corpus = asked.corpus or Path(place) / "corpus"
        corpus.mkdir(exist_ok=True)
        for number, seed in enumerate(seeds):
            (corpus / f"seed-{number}").write_bytes(seed)
        words = Path(place) / "words"
        words.write_text("".join(f'"{escape(word)}"\n' for word in dictionary()))
        options = [f"-max_total_time={asked.seconds}", f"-dict={words}", "-max_len=4000", "-timeout=60", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: run(bench, data))
        atheris.Fuzz()  # ends the process


def dictionary() -> list[bytes]:
    """What is worth putting in."""
    from tests.fuzz.seeds import SPLINTERS

    names = b"SIZE= BODY=8BITMIME RET=FULL ENVID= AUTH=<> SMTPUTF8 NOTIFY=NEVER ORCPT=rfc822; PLAIN LOGIN TCP4 TCP6 UNKNOWN IPv6:".split()
    return [word for word in (*SPLINTERS, *names) if len(word) <= 128]


def escape(word: bytes) -> str:
    """As a dictionary of libFuzzer has it."""
    return "".join(f"\\x{octet:02x}" for octet in word)


def replay(target: str, data: bytes) -> None:
    """Run one input; what is wrong is raised."""
    from tests.fuzz import harness, targets

    getattr(targets, target)(harness.Bench(), data)


if __name__ == "__main__":
    main()
