"""What a benchmark ran on, in words: figures without it say nothing."""

from __future__ import annotations

import os
import platform
import re
import statistics
import tempfile
import time
from pathlib import Path

SYNCS = 40


def describe(folder: Path, store: str) -> dict[str, str]:
    """The machine, what runs on it, and the time to make 4 KB durable in `folder`, the median of some; `store` names the store."""
    memory = re.search(r"MemTotal:\s+(\d+)", _read("/proc/meminfo"))
    return {
        "CPU": _cpu(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{int(memory[1]) / (1 << 20):.1f} GiB" if memory else "unknown",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "store": store or "unknown",
        "fsync of 4 KB": f"{sync_time(folder) * 1e3:.2f} ms",
        "load average before": f"{os.getloadavg()[0]:.2f}",
    }


def sync_time(folder: Path) -> float:
    """Seconds that an append of 4 KB takes to be on disk, the median of some."""
    taken = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(SYNCS):
            file.write(b"x" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _cpu() -> str:
    found = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
