"""The meter, held against what processes say of themselves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from relay.loadkit.meter import TICK, Meter, forget_peak, look, peak, tree

TOLERANCE = 40_000
"""µs: some ticks of the kernel, which counts a process's beginning too."""

BURN = """
import sys, threading, time

def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass

for line in sys.stdin:
    kind, amount = line.split()
    if kind == "burn":
        burn(float(amount))
    elif kind == "thread":
        thread = threading.Thread(target=burn, args=(float(amount),))
        thread.start()
        thread.join()
    elif kind == "hold":
        held = bytearray(b"x" * int(amount))
    elif kind == "drop":
        del held
    elif kind == "child":
        import subprocess
        subprocess.run([sys.executable, "-c", f"import time\\nwhile time.process_time() < {amount}: pass"], check=True)
    print(time.process_time(), flush=True)
"""


class Burner:
    """A child that burns what it is told to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.pid = process.pid
        self._process = process

    def do(self, what: str) -> float:
        """Do it, and say how many µs of CPU it has used by its own account."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline()) * 1e6


@contextmanager
def burner() -> Iterator[Burner]:
    """Such a child."""
    with subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Burner(process)
        assert process.stdin is not None
        process.stdin.close()


def test_the_meter_counts_what_a_process_burns() -> None:
    with burner() as child:
        meter = Meter({"child": child.pid})
        own_before, before = child.do("burn 0"), meter.cpu()["child"]
        own_after = child.do("burn 0.4")
        burnt = meter.cpu()["child"] - before
        assert own_after - own_before > 380_000
        assert abs(burnt - (own_after - own_before)) < TOLERANCE


def test_the_meter_counts_threads_that_have_ended() -> None:
    with burner() as child:
        meter = Meter({"child": child.pid})
        own_before, before = child.do("burn 0"), meter.cpu()["child"]
        own_after = child.do("thread 0.3")
        assert abs(meter.cpu()["child"] - before - (own_after - own_before)) < TOLERANCE


def test_the_meter_counts_children_that_have_ended() -> None:
    with burner() as child:
        meter = Meter({"child": child.pid})
        child.do("burn 0")
        before = meter.cpu()["child"]
        child.do("child 0.3")
        # Of its user's and its system's time the kernel tells whole ticks, and each may lack most of one.
        assert 300_000 - 2 * TICK < meter.cpu()["child"] - before < 700_000


def test_an_idle_process_burns_nothing() -> None:
    with burner() as child:
        meter = Meter({"child": child.pid})
        child.do("burn 0")
        before = meter.cpu()["child"]
        time.sleep(0.3)
        assert meter.cpu()["child"] - before < TOLERANCE


def test_the_meter_tells_this_process_apart() -> None:
    with burner() as child:
        meter = Meter({"child": child.pid})
        child.do("burn 0")
        before = meter.cpu()
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
        after = meter.cpu()
        assert after["load"] - before["load"] > 250_000
        assert after["child"] - before["child"] < TOLERANCE


def test_memory_is_seen_to_grow_and_its_peak_is_remembered_until_it_is_forgotten() -> None:
    with burner() as child:
        meter = Meter({"child": child.pid})
        child.do("burn 0")
        before = meter.resident("child")
        child.do(f"hold {50 << 20}")
        assert 45 << 20 < meter.resident("child") - before < 60 << 20
        assert meter.total("child") == meter.resident("child")
        child.do("drop 0")
        assert meter.resident("child") - before < 20 << 20
        assert peak(child.pid) > before + (45 << 20)
        forget_peak(child.pid)
        assert peak(child.pid) < before + (20 << 20)


def test_a_tree_has_every_descendant() -> None:
    with burner() as child:
        child.do("burn 0")
        assert tree(child.pid) == [child.pid]
        assert child.pid in tree(os.getpid())


def test_who_is_gone_counts_for_nothing() -> None:
    with burner() as child:
        child.do("burn 0")
    assert look(child.pid) is None
    assert peak(child.pid) == 0
    assert Meter({"child": child.pid}).cpu().keys() == {"load"}
